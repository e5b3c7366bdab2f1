from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from opencode_magic.render import inert, style
from opencode_magic.render.highlight import Budget
from opencode_magic.render.inert import markdown_html, plain_html
from opencode_magic.render.wall import is_inert

STYLE = re.compile(r' style="[^"]*"')


def _bare(text: str) -> str:
    """Give the HTML without its styles."""
    return STYLE.sub("", markdown_html(text))


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a\nb  \nc", "<p>a\nb<br>c</p>"),
        (
            "# A\n\n###### B",
            "".join(
                f'<p role="heading" aria-level="{level}"><strong>{text}</strong></p>'
                for level, text in ((1, "A"), (6, "B"))
            ),
        ),
        ("*a* **b** ~~c~~ `d`", "<p><em>a</em> <strong>b</strong> <s>c</s> <code>d</code></p>"),
        ("> a", "<blockquote><p>a</p></blockquote>"),
        ("- a\n- b", "<ul><li>a\n</li><li>b\n</li></ul>"),
        ("3. a", '<ol start="3"><li>a\n</li></ol>'),
        ("---", "<hr>"),
        ("    a < b", "<pre>a &lt; b</pre>"),
        ("```\na\n```", "<pre>a</pre>"),
        ("```mermaid\na\n```", "<pre>a</pre>"),
        (
            "|a|b|\n|-|-|\n|1|2|",
            "<div><table><thead><tr><th>a</th><th>b</th></tr></thead>"  # noqa: ISC004 - one text
            "<tbody><tr><td>1</td><td>2</td></tr></tbody></table></div>",
        ),
        ("<b>x</b>", "<p>&lt;b&gt;x&lt;/b&gt;</p>"),
        (
            "![a](https://example.com/x.png)",
            "<p><span>image not loaded: a (example.com)</span></p>",
        ),
        ("![](x.png)", "<p><span>image not loaded (no host)</span></p>"),
        ("[a](/x)", "<p><span>a</span><span> (/x)</span></p>"),
        ("[/x](/x)", "<p><span>/x</span></p>"),
        (
            "[*a*](http://localhost:1/)",
            "<p><span><em>a</em></span><span> (http://localhost:1/)</span></p>",
        ),
        (
            "שלום!\n\n1. a\n\n> b\n\n|c|\n|-|",
            '<p dir="auto">שלום!</p><ol dir="auto" start="1"><li>a\n</li></ol>'  # noqa: ISC004 - one text
            '<blockquote><p dir="auto">b</p></blockquote>'
            '<div><table><thead><tr><th dir="auto">c</th></tr></thead></table></div>',
        ),
        ("", ""),
    ],
)
def test_markdown(text: str, html: str) -> None:
    """Each kind of Markdown becomes the plain element it means, or text."""
    assert _bare(text) == html


@pytest.mark.parametrize(
    ("text", "label", "after"),
    [
        ("[a](https://example.com)", "a", " (example.com)"),
        ("<https://example.com>", "https://example.com", ""),
        ("[example.com](https://example.com)", "example.com", ""),
        ("<a@example.com>", "a@example.com", ""),
        ("[good.example](https://evil.example)", "good.example", " (evil.example)"),
    ],
)
def test_link(text: str, label: str, after: str) -> None:
    """A link names the host that it leads to, unless its own text does."""
    html = _bare(text)

    hint = f"<span>{after}</span>" if after else ""
    assert html.endswith(
        f' target="_blank" rel="noopener noreferrer nofollow">{label}</a>{hint}</p>'
    )


def test_draft() -> None:
    """A draft has no colours and no links, and names the hosts all the same."""
    html = markdown_html("[a](https://example.com)\n\n```python\nimport os\n```", is_draft=True)

    assert STYLE.sub("", html) == "<p>a<span> (example.com)</span></p><pre>import os</pre>"


def test_table_sides() -> None:
    """A column keeps the side that it was given."""
    html = markdown_html("|a|b|c|\n|:-|:-:|-:|\n")

    assert re.findall(r"text-align:(\w+);", html) == ["left", "center", "right"]


def test_growing_text_has_its_direction() -> None:
    """Text that is read from the right is set so while it grows, too."""
    assert ' dir="auto"' in plain_html("مرحبا!")
    assert "dir" not in plain_html("hello!")


def test_code_is_coloured() -> None:
    """A fence in a known language is coloured."""
    assert style.code_colour("keyword") in markdown_html("```python\nimport os\n```")


def test_plain() -> None:
    """Plain text keeps its lines; nothing gives nothing."""
    assert STYLE.sub("", plain_html("a\n<b>")) == "<div>a\n&lt;b&gt;</div>"
    assert plain_html("") == ""


@pytest.mark.parametrize(
    "text",
    [
        "x" * (inert.PARAGRAPH_LIMIT_CHARS + 1),
        "[" * (inert.MARKS_LIMIT + 1),
        "> " * 30 + "x",
        "- a\n" * 30_000,
    ],
)
def test_odd_text_is_plain(text: str) -> None:
    """Text that would cost more than its length is shown as it stands."""
    assert markdown_html(text) == plain_html(text)


def test_unlisted_html_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the renderer fails and writes what is not listed, the wall gives plain text."""
    monkeypatch.setitem(inert._SIMPLE_TAGS, "paragraph", ("script", ""))

    assert markdown_html("a") == plain_html("a")


def test_unknown_token_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that this version of the reader is not known to make is shown as its text."""
    monkeypatch.setattr(inert, "_reader", MarkdownIt("commonmark"))

    assert markdown_html("<b>x</b>\n\n<div>y</div>") == (
        "<p>&lt;b&gt;x&lt;/b&gt;</p>&lt;div&gt;y&lt;/div&gt;"
    )


def test_long_text_keeps_its_ends() -> None:
    """Of text beyond the limit the middle is left out."""
    html = markdown_html("a" + "b" * inert.REPLY_LIMIT_CHARS + "c")

    assert len(html) < inert.REPLY_LIMIT_CHARS + 200
    assert " … " in html
    assert html.endswith("bc</div>")


def test_long_markdown_is_chunked() -> None:
    """A long reply is rendered in full."""
    html = markdown_html("**a** b\n\n" * 8_000)

    assert html.count("<strong>a</strong>") == 8_000


@pytest.mark.parametrize(
    "piece", ["Some **bold** words.\n\n", "- a\n", "```python\nx = 1\n```\n\n", "x", "[", "| a |\n"]
)
def test_time_is_linear(piece: str) -> None:
    """Four times the text takes at most about four times as long."""

    def measure(length: int) -> float:
        text = piece * (length // len(piece))
        started = time.process_time()
        markdown_html(text)
        return time.process_time() - started

    measure(10_000)
    small = min(measure(30_000) for _ in range(2))
    large = min(measure(120_000) for _ in range(2))

    assert large < 8 * small + 0.2


@settings(max_examples=200)
@given(st.text("ab <>[]()!*_`~#|-:\\$\"'&;=\n\t/.x1", max_size=200))
def test_always_inert(text: str) -> None:
    """Whatever comes, the result passes the wall without its help."""
    html = "".join(inert._blocks_html(inert._reader.parse(text), Budget()))

    assert is_inert(html)


def _padded(columns: int, rows: int) -> str:
    return f"|{'a|' * columns}\n|{'-|' * columns}\n" + "a\n" * rows + "\n\n"


@pytest.mark.parametrize("columns", [30, 100, 640, 3_000])
def test_a_table_is_not_filled_with_more_than_it_says(columns: int) -> None:
    """Rows of one letter under a wide head would make hundreds of times the text."""
    table = _padded(columns, columns)
    text = table * (300_000 // len(table))
    started = time.monotonic()

    html = markdown_html(text)

    assert len(html) < 15 * len(text)
    assert time.monotonic() - started < 20


def test_tables_with_a_short_row_stay_tables() -> None:
    """An honest table may leave out its last cells."""
    rows = "\n".join(f"| {number} | word word |" for number in range(100))

    html = markdown_html(f"| a | b | c | d |\n|---|---|---|---|\n{rows}\n")

    assert html.count("<tr") == 101
    assert "<table" in markdown_html(_padded(5, 10))


def test_a_text_makes_only_so_much_markup() -> None:
    """The rest of a text that makes too much is shown as plain text, whole."""
    text = ("| x " * 10 + "|\n" + "|-" * 10 + "|\n" + ("|y" * 10 + "|\n") * 150 + "\n") * 500
    assert len(text) < inert.REPLY_LIMIT_CHARS

    html = markdown_html(text)

    assert "<table" in html
    assert inert.HTML_LIMIT_CHARS < len(html) < inert.HTML_LIMIT_CHARS + 3_000_000
    assert html.endswith("</div>")
