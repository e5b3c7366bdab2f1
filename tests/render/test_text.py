from __future__ import annotations

from opencode_magic.render.shapes import (
    Answer,
    Card,
    Code,
    Fold,
    Footer,
    Line,
    Notice,
    Prose,
    Row,
    Span,
    StepRow,
    Steps,
    Table,
)
from opencode_magic.render.text import render_text

A: Line = (Span("a"),)


def test_nothing() -> None:
    """No blocks are no text."""
    assert render_text(()) == ""


def test_blocks() -> None:
    """Each kind of block has its line."""
    blocks = (
        Row(A, (Span("b"),)),
        Steps((StepRow("✓", "good", "step", "detail", "1 s"),), 0.5),
        Code("c\nd"),
        Fold(A, body=(Code("hidden"),)),
        Fold(A, body=(Code("shown"),), is_open=True),
        Notice("bad", "No:", A),
        Notice("muted", "", A),
        Table(("x", "yy"), ((A, (Span("long"),)),)),
    )

    assert render_text(blocks).split("\n") == [
        "a  (b)",
        "  ✓ step detail  (1 s)",
        "    c",
        "    d",
        "[a]",
        "[a]",
        "    shown",
        "No: a",
        "a",
        "x  yy",
        "a  long",
    ]


def test_space() -> None:
    """Prose, cards and the footer stand apart by one blank line."""
    blocks = (
        Answer((Fold(A), Prose("one"), Prose("two\n"), Footer((A, A), A))),
        Card((Row(A),)),
        Card((Row(A),)),
    )

    assert render_text(blocks) == "[a]\n\none\n\ntwo\n\n-- a, a  (a)\n\na\n\na"


def test_nothing_hidden() -> None:
    """No terminal sequence and no line feed gets into a line."""
    assert render_text((Row((Span("\x1b[2Ja\nb"),)),)) == "a b"
    assert render_text((Prose("a\x1b[2J\u202e"),)) == "a⟨U+202E⟩"


def test_labels() -> None:
    """A label stands close to what it names."""
    row = Row((Span("Model", "muted"), Span("m"), Span("s", form="pill"), Span("x", "muted")))

    assert render_text((row,)) == "Model m  [s]  x"


def test_a_long_cell_goes_on_in_another_line() -> None:
    """A table stays as wide as a terminal; a path is never broken."""
    path = "/" + "folder/" * 12
    table = Table(("What", "Seen"), (((Span("place"),), (Span(f"{'word ' * 14}in {path}"),)),))

    lines = render_text([table]).splitlines()

    assert [line[:7] for line in lines] == ["What   ", "place  ", "       ", "       "]
    assert lines[-1].strip() == path
    assert max(map(len, lines[:-1])) <= len("place  ") + 60
