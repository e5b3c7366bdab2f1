"""Cell text to a prompt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_magic.core.prompt import Prompt, parse_prompt
from opencode_magic.errors import PromptError


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_prompt_is_what_was_written(text: str) -> None:
    """Braces, dollars, backslashes and all other characters stand as they are."""
    cell = f"Say {text} now"

    assert parse_prompt(cell) == Prompt(cell)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('{"a": {"b": 1}} $HOME {{x}}\n', '{"a": {"b": 1}} $HOME {{x}}'),
        ("# NBVAL_IGNORE_OUTPUT\nhello\n", "hello"),
        ("  # NBVAL_SKIP\r\n#NBVAL_RAISES_EXCEPTION\nhello", "hello"),
        ("hello\n# NBVAL_SKIP", "hello\n# NBVAL_SKIP"),
        ("\n\n  - indented\n", "  - indented"),
        ("a\ud83cb", "a\ufffdb"),
    ],
)
def test_only_marks_and_empty_lines_are_left_out(cell: str, text: str) -> None:
    """Marks of nbval in the first lines are not for the agent."""
    assert parse_prompt(cell) == Prompt(text)


@pytest.mark.parametrize("cell", ["", " \n\t\n", "# NBVAL_SKIP", "# NBVAL_SKIP\n \n"])
def test_an_empty_prompt_is_a_mistake(cell: str) -> None:
    """Nothing is sent, and one line says what to do."""
    with pytest.raises(PromptError, match="empty"):
        parse_prompt(cell)


def test_a_prompt_that_is_too_large_is_a_mistake() -> None:
    """The size is that in UTF-8, and the line says both sizes."""
    assert parse_prompt("é" * 5, limit_bytes=10).size_bytes == 10
    with pytest.raises(PromptError, match=r"the prompt has 3\.0 MB; at most 2 MB are sent"):
        parse_prompt("x" * 3_000_000, limit_bytes=2_000_000)
