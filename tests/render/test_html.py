from __future__ import annotations

import re

import pytest

from opencode_magic.render import html
from opencode_magic.render.html import PROSE_LIMIT_CHARS, render_html
from opencode_magic.render.shapes import (
    Card,
    Code,
    Fold,
    Form,
    Notice,
    Prose,
    Row,
    Span,
    Steps,
    Table,
)
from opencode_magic.render.wall import is_inert

FORMS: tuple[Form, ...] = ("text", "strong", "code", "mono", "tool", "pill")


@pytest.mark.parametrize("form", FORMS)
def test_span(form: Form) -> None:
    """Text is escaped in every form."""
    shown = render_html((Row((Span("<x>", form=form),), (Span("&", "warn", form),)),))

    assert is_inert(shown)
    assert "&lt;x&gt;" in shown
    assert "&amp;" in shown


def test_label() -> None:
    """A label stays with what it names where a row is broken into lines."""
    line = (Span("Model", "muted"), Span("a/b"), Span("so far", "muted"), Span("Key", "muted"))
    bare = re.sub(' style="[^"]*"', "", render_html((Row(line),)))

    assert "<span><span>Model</span> a/b</span> <span>so far</span> <span>Key</span>" in bare


def test_short_cells_stay_in_one_line() -> None:
    """What a probe asked stands in one line; what it saw may take more."""
    cells = ((Span("192.0.2.1 without a name"),), (Span("there is no way out on this port"),))
    shown = re.findall(
        r"white-space:(\w+)[^>]*>[\d\w]", render_html((Table(("a", "b"), (cells,)),))
    )

    assert shown[-2:] == ["nowrap", "normal"]


def test_fold() -> None:
    """A fold without a body has nothing to open."""
    empty = render_html((Fold((Span("a"),)),))
    folded = render_html((Fold((Span("a"),), body=(Code("b"),)),))
    opened = render_html((Fold((Span("a"),), body=(Code("b"),), is_open=True),))

    assert "<details" not in empty
    assert "<details style" in folded
    assert "<details open style" in opened


def test_fold_is_read_in_order() -> None:
    """A screen reader says what a call did before how it ended, in words that stand apart."""
    fold = Fold((Span("bash", form="tool"), Span("ls")), (Span("exit 0"),), body=(Code("b"),))

    words = re.sub("<[^>]*>", "", render_html((fold,)))
    assert words == "bash ls exit 0b"


def test_prose() -> None:
    """A view can bring its own way to write what still grows."""
    assert "<em>a</em>" in render_html((Prose("*a*"),))
    assert "own" in render_html((Prose("*a*"),), prose=lambda _prose: "own")


def test_second_wall() -> None:
    """Where anything is written that is not listed, the blocks are shown as plain text."""
    shown = render_html((Prose("*a*"), Code("b")), prose=lambda _prose: "<script>x</script>")

    assert is_inert(shown)
    assert "script" not in shown
    assert "*a*\n\n    b" in shown


def test_notice() -> None:
    """A notice without a heading is its sentence."""
    assert render_html((Notice("muted", "", (Span("a"),)),)).endswith(">a</div></div>")


def test_steps_without_bar() -> None:
    """Steps that are over have no bar."""
    assert "height:4px" not in render_html((Steps(()),))
    assert "width:100%;" in render_html((Steps((), 1.5),))


def test_card_lines() -> None:
    """Rows of a card are kept apart by a line."""
    row = Row((Span("a"),))

    assert render_html((Card((row, row, row)),)).count("border-top:1px") == 2


def test_one_budget() -> None:
    """All code of one output is coloured from one budget."""
    writer = html._Writer(html._whole)
    before = writer._budget.left_chars
    writer.blocks((Code("x = 1", "python"), Code("x = 1", "python")))

    assert writer._budget.left_chars == before - 10


def test_many_parts_make_only_so_much_markup() -> None:
    """Once they have made too much, the other parts are shown as plain text."""
    text = "| x " * 10 + "|\n" + "|-" * 10 + "|\n" + ("|y" * 10 + "|\n") * 150
    blocks = [Prose(text, key=str(number)) for number in range(700)]

    html = render_html(blocks)

    assert PROSE_LIMIT_CHARS < len(html) < PROSE_LIMIT_CHARS + 3_000_000
    assert html.count("<table") < 400
