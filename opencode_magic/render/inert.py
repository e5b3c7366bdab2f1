"""Markdown -> HTML that runs nothing and fetches nothing.

markdown-it-py reads the Markdown; this module writes every tag itself. Nothing that a model wrote
ever becomes a tag, an attribute's name, a style, an id or a class; an address becomes a link only
where ``links`` says so, and an image is named, not loaded. ``wall`` checks the result once more.
"""

from __future__ import annotations

import re
from itertools import takewhile
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

from opencode_magic.render import style
from opencode_magic.render.chunks import paragraphs, split_markdown
from opencode_magic.render.escape import attribute_text, markup_text
from opencode_magic.render.highlight import Budget, code_html
from opencode_magic.render.links import host_of, parse_link
from opencode_magic.render.visible import shorten, visible_line
from opencode_magic.render.wall import is_inert

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from markdown_it.token import Token

REPLY_LIMIT_CHARS = 2_000_000
"""Of a longer text the middle is left out; the ``Reply`` holds it all."""
WHOLE_LIMIT_CHARS = 50_000
"""A longer text is read in chunks, so that its cost stays linear."""
CHUNK_LIMIT_CHARS = 100_000
PARAGRAPH_LIMIT_CHARS = 12_000
HTML_LIMIT_CHARS = 16_000_000
"""Once one text has made so much HTML, its rest is shown as plain text; 2 MB of prose make 6."""
MARKS_LIMIT = 1_000
"""More of these in one paragraph, and it is shown as plain text."""

PADDING_FREE_CELLS = 100
"""A small table may have short rows."""

_MARKS = re.compile(r"[\[\]*_`~<!&]")
_DEEP = re.compile(r"^(?:[ \t]*(?:>|[*+-](?=[ \t])|\d{1,9}[.)](?=[ \t]))){24}", re.MULTILINE)
_FROM_THE_RIGHT = re.compile(
    r"[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
"""Letters of Hebrew, Arabic and other scripts that are read from the right."""
_OWN_DIRECTION = re.compile(r"<(p|ul|ol)(?=[ >])")
_CELL = re.compile(r"<(th|td)(?=[ >])")
_SIMPLE_TAGS = {
    "paragraph": ("p", ""),
    "blockquote": ("blockquote", style.QUOTE),
    "bullet_list": ("ul", ""),
    "list_item": ("li", ""),
    "thead": ("thead", ""),
    "tbody": ("tbody", ""),
    "tr": ("tr", "background:none;"),
    "em": ("em", ""),
    "strong": ("strong", ""),
    "s": ("s", ""),
}

_reader = MarkdownIt("commonmark", {"html": False, "maxNesting": 60}).enable(
    ["table", "strikethrough"]
)


def markdown_html(text: str, *, is_draft: bool = False) -> str:
    """Give inert HTML for Markdown from anywhere.

    Never raises; text that is too large, too deep or too odd is shown as plain text. A draft
    has no colours and no links, which would be most of its bytes.
    """
    text = shorten(text, limit_chars=REPLY_LIMIT_CHARS)
    budget = None if is_draft else Budget()
    chunks = [text] if len(text) <= WHOLE_LIMIT_CHARS else split_markdown(text)
    done: list[str] = []
    left_chars = HTML_LIMIT_CHARS
    for chunk in chunks:
        done.append(_chunk_html(chunk, budget) if left_chars > 0 else plain_html(chunk))
        left_chars -= len(done[-1])
    return "".join(done)


def plain_html(text: str) -> str:
    """Give inert HTML for text that is shown as it stands, its lines wrapped."""
    direction = ' dir="auto"' if _FROM_THE_RIGHT.search(text) else ""
    return f'<div{direction} style="{style.TAIL}">{markup_text(text)}</div>' if text else ""


def _chunk_html(chunk: str, budget: Budget | None) -> str:
    if not _is_readable(chunk):
        return plain_html(chunk)
    html = "".join(_blocks_html(_reader.parse(chunk), budget))
    if _FROM_THE_RIGHT.search(chunk):
        html = _OWN_DIRECTION.sub(rf'<\1 dir="auto" style="{style.START}"', html)
        html = _CELL.sub(r'<\1 dir="auto"', html)
    return html if is_inert(html) else plain_html(chunk)


def _is_readable(chunk: str) -> bool:
    """Say whether the reader's cost on this chunk stays near linear."""
    if len(chunk) > CHUNK_LIMIT_CHARS or _DEEP.search(chunk):
        return False
    return all(
        len(paragraph) <= PARAGRAPH_LIMIT_CHARS
        and len(_MARKS.findall(paragraph)) <= MARKS_LIMIT
        and not _is_padded(paragraph)
        for paragraph in paragraphs(chunk)
    )


def _is_padded(paragraph: str) -> bool:
    """Say whether the reader would fill a table's short rows with more cells than its text has."""
    lines = paragraph.split("\n")
    columns = max(line.count("|") for line in lines)
    return columns * len(lines) > PADDING_FREE_CELLS + len(paragraph)


def _blocks_html(tokens: Sequence[Token], budget: Budget | None) -> Iterator[str]:
    for token in tokens:
        if token.type == "inline":
            yield from _inline_html(token.children or [], is_draft=budget is None)
        elif token.type in {"fence", "code_block"}:
            words = token.info.split()
            language = words[0] if words else ""
            code = code_html(token.content.rstrip("\n"), language, budget or Budget(left_chars=0))
            yield f'<pre style="{style.CODE}">{code}</pre>'
        elif token.type == "hr":
            yield f'<hr style="{style.RULER}">'
        elif token.nesting and not token.hidden:
            yield _tag_html(token)
        elif token.hidden and token.nesting < 0:
            yield "\n"
        elif not token.nesting:
            yield markup_text(token.content)


def _tag_html(token: Token) -> str:
    kind = token.type.removesuffix("_open").removesuffix("_close")
    if kind == "heading":
        opening = f'<p role="heading" aria-level="{token.tag[1:]}"><strong>'
        return opening if token.nesting > 0 else "</strong></p>"
    if kind == "ordered_list":
        start = str(token.attrs.get("start", "1"))
        return f'<ol start="{start}">' if token.nesting > 0 else "</ol>"
    if kind in {"th", "td"}:
        side = str(token.attrs.get("style", "")).removeprefix("text-align:")
        side = side if side in {"center", "right"} else "left"
        return f'<{kind} style="{style.GRID_CELL}{side};">' if token.nesting > 0 else f"</{kind}>"
    if kind == "table":
        opening = f'<div style="{style.WIDE}"><table style="{style.GRID}">'
        return opening if token.nesting > 0 else "</table></div>"
    tag, declarations = _SIMPLE_TAGS[kind]
    if token.nesting < 0:
        return f"</{tag}>"
    return f'<{tag} style="{declarations}">' if declarations else f"<{tag}>"


def _inline_html(tokens: Sequence[Token], *, is_draft: bool) -> Iterator[str]:
    ends: list[str] = []
    for index, token in enumerate(tokens):
        match token.type:
            case "softbreak":
                yield "\n"
            case "hardbreak":
                yield "<br>"
            case "code_inline":
                yield f'<code style="{style.CHIP}">{markup_text(token.content)}</code>'
            case "image":
                yield _image_html(token)
            case "link_open":
                label = _label(tokens[index + 1 :])
                opening, end = _link_html(token, label, is_draft=is_draft)
                ends.append(end)
                yield opening
            case "link_close":
                yield ends.pop()
            case _ if token.nesting:
                yield _tag_html(token)
            case _:
                yield markup_text(token.content)


def _label(tokens: Sequence[Token]) -> str:
    inner = takewhile(lambda token: token.type != "link_close", tokens)
    return "".join(token.content for token in inner)


def _link_html(token: Token, label: str, *, is_draft: bool) -> tuple[str, str]:
    url = str(token.attrs.get("href", ""))
    link = parse_link(url)
    if link is None:
        address = "" if label == url else f" ({visible_line(url, limit_chars=120)})"
        return "<span>", f"</span>{_muted(address)}"
    is_named = label in {url, link.host} or url == f"mailto:{label}"
    hint = "" if is_named else _muted(f" ({link.host})")
    if is_draft:
        return "", hint
    opening = (
        f'<a href="{attribute_text(link.url)}" target="_blank" rel="noopener noreferrer nofollow">'
    )
    return opening, f"</a>{hint}"


def _image_html(token: Token) -> str:
    url = str(token.attrs.get("src", ""))
    name = visible_line(token.content, limit_chars=80)
    words = f"image not loaded: {name}" if name else "image not loaded"
    host = visible_line(host_of(url), limit_chars=80)
    return f'<span style="{style.CHIP}">{markup_text(f"{words} ({host})")}</span>'


def _muted(text: str) -> str:
    return f'<span style="{style.colour("muted")}">{markup_text(text)}</span>' if text else ""
