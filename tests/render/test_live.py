from __future__ import annotations

from opencode_magic.render.inert import HTML_LIMIT_CHARS, markdown_html, plain_html
from opencode_magic.render.live import LiveMarkdown
from opencode_magic.render.shapes import Prose


def test_tail_is_plain() -> None:
    """What is finished is rendered; the end that still grows is plain."""
    live = LiveMarkdown()

    html = live.html(Prose("**a**\n\n*b* still\n*c", "p"))

    # The line that begins a paragraph cuts before it, once that line is there in full.
    assert html == markdown_html("**a**\n\n") + plain_html("*b* still\n*c")


def test_grows() -> None:
    """Text that comes in pieces ends as it would have at once."""
    text = "# A\n\nb **c**\n\n```python\nx = 1\n\ny = 2\n```\n\n- d\n\n- e\n\nend\n"
    live = LiveMarkdown()
    html = ""
    for end in range(len(text) + 1):
        html = live.html(Prose(text[:end], "p"))

    assert html == LiveMarkdown().html(Prose(text, "p"))
    assert html == markdown_html(text[:-4], is_draft=True) + plain_html("end\n")


def test_parts_grow_apart() -> None:
    """Two parts do not mix."""
    live = LiveMarkdown()
    live.html(Prose("a\n\nb\n", "p"))

    assert live.html(Prose("c", "q")) == plain_html("c")
    assert live.html(Prose("a\n\nb\nd", "p")) == markdown_html("a\n\n") + plain_html("b\nd")


def test_replaced_text() -> None:
    """A text that was replaced is rendered anew."""
    live = LiveMarkdown()
    live.html(Prose("a\n\nb\n", "p"))

    assert live.html(Prose("other", "p")) == plain_html("other")


def test_a_growing_text_makes_only_so_much_markup() -> None:
    """What comes once it has made too much is shown as plain text."""
    live = LiveMarkdown()
    table = "| x " * 10 + "|\n" + "|-" * 10 + "|\n" + ("|y" * 10 + "|\n") * 150 + "\n"

    for count in (200, 300, 400, 500):
        html = live.html(Prose(table * count + "x", key="a", is_final=False))

    assert len(html) < 2 * HTML_LIMIT_CHARS
    assert html.count("<table") < 400
