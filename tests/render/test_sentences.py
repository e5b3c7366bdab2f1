from __future__ import annotations

import pytest

from opencode_magic.render.sentences import with_next
from opencode_magic.render.shapes import Line, Span


@pytest.mark.parametrize(
    ("text", "next_step", "line"),
    [
        ("it broke", "", (Span("it broke"),)),
        ("it broke", "wait", (Span("it broke."), Span(" Next: "), Span("wait"))),
        ("`bwrap`", "", (Span("bwrap", form="code"),)),
        (
            "no.",
            "run %opencode_up --home cloud, please",
            (
                Span("no."),
                Span(" Next: "),
                Span("run "),
                Span("%opencode_up --home cloud", form="code"),
                Span(", please"),
            ),
        ),
    ],
)
def test_with_next(text: str, next_step: str, line: Line) -> None:
    """A sentence ends before its next step, and commands in both stand out."""
    assert with_next(text, next_step) == line
