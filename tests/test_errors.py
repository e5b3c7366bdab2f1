from __future__ import annotations

import inspect
import time

import pytest

from opencode_magic import errors
from opencode_magic.errors import OpencodeMagicError, SandboxLaunchError, clean_line


def _classes() -> list[type[OpencodeMagicError]]:
    return [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, OpencodeMagicError)
    ]


def test_the_drawn_tree_is_the_real_one() -> None:
    """The tree at the top of the module names every class under its parent."""
    drawn: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if line.lstrip().startswith("* "):
            indent = len(line) - len(line.lstrip())
            drawn.append((indent // 4, line.strip()[2:].split(":")[0]))

    real = []
    for cls in _classes():
        depth = len([base for base in cls.__mro__ if base in _classes()]) - 1
        real.append((depth, cls.__name__))
    assert sorted(drawn) == sorted(real)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("two\nlines", "two lines"),
        ("a\x1b[31mred", "a [31mred"),
        ("right\u202eto left\u200b", "rightto left"),
        ("", ""),
        ("tab\tand  spaces ", "tab and spaces"),
        ("lone \ud800 surrogate", "lone surrogate"),
    ],
)
def test_a_message_is_one_inert_line(text: str, line: str) -> None:
    """Control and bidi characters neither move the cursor nor turn the text."""
    assert clean_line(text) == line


def test_a_long_message_loses_its_middle() -> None:
    """The beginning and the end of a long message stay readable."""
    line = clean_line("a" * 5000 + "b" * 5000)

    assert len(line) <= errors.LINE_LIMIT_CHARS
    assert line.startswith("aaa")
    assert line.endswith("bbb")


def test_an_error_names_the_next_step() -> None:
    """The text holds what happened and what to do next."""
    error = OpencodeMagicError("no sandbox runs", next_step="%opencode_up")

    assert str(error) == "no sandbox runs. Next: %opencode_up"
    assert error._render_traceback_() == ["Error: no sandbox runs. Next: %opencode_up"]


def test_log_lines_are_cleaned() -> None:
    """Lines from a server's log cannot carry terminal escapes."""
    error = SandboxLaunchError("it died", step="serve", log_lines=["\x1b[2Jbad", "good"])

    assert error.log_lines == ("[2Jbad", "good")


def test_a_line_of_megabytes_is_cut_before_it_is_read() -> None:
    """An error may hold what a hostile server said: its length costs nothing."""
    text = f"begin {'é' * 100_000_000} end"
    started = time.monotonic()

    line = clean_line(text)

    assert time.monotonic() - started < 5
    assert (line[:7], line[-5:], len(line) <= 600) == ("begin é", "é end", True)
