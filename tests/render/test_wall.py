from __future__ import annotations

import pytest

from opencode_magic.render.wall import is_inert


@pytest.mark.parametrize(
    "html",
    [
        "",
        "text &amp; more",
        '<div class="mathjax_ignore tex2jax_ignore" style="color:#1976d2;">x</div>',
        "<p>a<br>b</p><hr>",
        '<details open style="margin:3px 0;"><summary>x</summary></details>',
        '<a href="https://example.com/?a=1&amp;b=&#x27;" rel="noopener noreferrer nofollow">x</a>',
        '<a href="mailto:a@example.com" target="_blank">x</a>',
        '<ol start="3"><li>x</li></ol>',
        '<p role="heading" aria-level="2">x</p>',
        '<p dir="auto">x</p><ul dir="auto"><li>x</li></ul>',
        '<s style="color:color-mix(in srgb,var(--jp-warn-color1,#d9730d) 70%,currentColor);">x</s>',
    ],
)
def test_inert(html: str) -> None:
    """What the renderer writes passes."""
    assert is_inert(html)


@pytest.mark.parametrize(
    "html",
    [
        "a < b",
        "a > b",
        "<script>x</script>",
        "<img src=x>",
        "<!-- x -->",
        "<!doctype html>",
        "<?x?>",
        "<DIV>x</DIV>",
        "<div/>",
        "<div",
        "</div>",
        "<div>",
        "<div></span>",
        "<div></div></div>",
        "<div></div x>",
        '</div class="x">',
        '<div></div style="">',
        '<div onclick="x">y</div>',
        '<div id="x">y</div>',
        '<span class="jp-Notebook">y</span>',
        '<div class="mathjax_process">y</div>',
        "<div style='color:red'>y</div>",
        "<div style=color:red>y</div>",
        '<div style="position:fixed">y</div>',
        '<div style="background:url(//h)">y</div>',
        '<div style="color:expression(1)">y</div>',
        '<div style="color:r\\65 d">y</div>',
        '<div style="color">y</div>',
        '<div data-commandlinker-command="x">y</div>',
        '<a href="javascript:alert(1)">x</a>',
        '<a href="https://127.0.0.1/">x</a>',
        '<a href="https://example.com" rel="opener">x</a>',
        '<a href="https://example.com" target="_top">x</a>',
        '<ol start="x"><li>y</li></ol>',
        '<p role="button">x</p>',
        '<p aria-level="9">x</p>',
        "<div>\n<b>x</b></div>",
        "<div>x</div><",
        "<div>x</div>>",
    ],
)
def test_not_inert(html: str) -> None:
    """Everything else is refused."""
    assert not is_inert(html)
