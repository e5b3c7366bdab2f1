from __future__ import annotations

from dataclasses import replace
from io import StringIO

from opencode_magic.core.parts import TextPart, Turn
from opencode_magic.jupyter.terminal import TerminalView
from tests.render.samples import BASH, PERMISSION, STREAMING, TURN, WEBFETCH


def _turn(*texts: str, tools: bool = False) -> Turn:
    parts = tuple(TextPart(f"t{n}", "m", text) for n, text in enumerate(texts))
    calls = (BASH, replace(WEBFETCH, status="running")) if tools else ()
    message = replace(TURN.messages[0], parts=(*calls, *parts))
    return replace(STREAMING, messages=(message,), permissions=())


def test_words_once() -> None:
    """Each word is written once, as it comes."""
    out = StringIO()
    view = TerminalView(out)
    for text in ("", "Hel", "Hello", "Hello", "Hello\nyou"):
        view.show(_turn(text))

    assert out.getvalue() == "Hello\nyou"


def test_parts_and_tools() -> None:
    """A part begins on a line of its own; a tool call is one line once it has ended."""
    out = StringIO()
    view = TerminalView(out)
    view.show(_turn("one"))
    view.show(_turn("one", "two\n", tools=True))
    view.show(_turn("one", "two\n", "three", tools=True))

    assert out.getvalue() == "one\n[bash ls  (0.10 s, exit 0)]\ntwo\nthree"


def test_a_question_has_a_line_of_its_own() -> None:
    """What is asked for leave is asked on a new line, behind what was said before."""
    out = StringIO()
    view = TerminalView(out)
    view.show(_turn("I write"))
    asking = replace(_turn("I write it."), permissions=(PERMISSION,))
    view.show(asking)
    view.show(asking)

    assert out.getvalue() == "I write it.\n"


def test_end() -> None:
    """The end says how the turn ended and what it reached."""
    out = StringIO()
    view = TerminalView(out)
    view.show(_turn("half"))
    message = replace(TURN.messages[0], parts=(TextPart("t0", "m", "half"),))
    view.show(replace(TURN, state="stopped", messages=(message,)), is_final=True)

    assert out.getvalue() == (
        "half\nStopped: what had arrived is kept\n\n"
        "-- stopped after 2.3 s, 812 tokens, no cost, scripted model"
        "  (reached demo-model.internal 3 · blocked example.com 1 · firewall's record)\n"
    )


def test_nothing_moves_the_cursor() -> None:
    """No terminal sequence reaches the terminal, not even in two pieces."""
    out = StringIO()
    view = TerminalView(out)
    for text in ("a\x1b[2J", "a\x1b[2Jb\x1b", "a\x1b[2Jb\x1b[31mc\u202e"):
        view.show(_turn(text))

    assert "\x1b" not in out.getvalue()
    assert out.getvalue() == "ab␛[31mc⟨U+202E⟩"


def test_synthetic_text() -> None:
    """What the server put in is not written."""
    out = StringIO()
    message = replace(TURN.messages[0], parts=(TextPart("t", "m", "reminder", is_synthetic=True),))
    TerminalView(out).show(replace(STREAMING, messages=(message,)))

    assert out.getvalue() == ""
