from __future__ import annotations

import pytest

from opencode_magic.render.highlight import (
    FENCE_LIMIT_CHARS,
    LANGUAGES,
    LINE_LIMIT_CHARS,
    Budget,
    code_html,
)
from opencode_magic.render.style import code_colour
from opencode_magic.render.wall import is_inert


def test_colours() -> None:
    """Tokens of a known language get a colour; neighbours of one kind share an element."""
    html = code_html("import os  # why", "Python", Budget())

    keyword = f'<span style="{code_colour("keyword")}">import</span>'
    comment = f'<span style="{code_colour("comment")}"># why</span>'
    assert html == f"{keyword} os  {comment}"


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_languages(language: str) -> None:
    """Every listed language has a lexer, and what it gives is inert and complete."""
    html = code_html("x <- '</pre>' # $1\n", language, Budget())

    assert is_inert(html)
    assert "&lt;/pre&gt;" in html or "&lt;/</span>" in html or "&lt;" in html


@pytest.mark.parametrize("language", ["mermaid", "math", "", 'python"', "no-such"])
def test_unknown_language(language: str) -> None:
    """A language that is not listed is plain text."""
    assert code_html("a = 1", language, Budget()) == "a = 1"


@pytest.mark.parametrize("code", ["a = 1\n" * FENCE_LIMIT_CHARS, "1" * (LINE_LIMIT_CHARS + 1)])
def test_too_large(code: str) -> None:
    """Code that could stall a lexer is plain text."""
    assert "<span" not in code_html(code, "python", Budget())


def test_budget() -> None:
    """A reply may colour so much code and no more."""
    budget = Budget(left_chars=8)

    assert "<span" in code_html("if a:", "python", budget)
    assert code_html("if a:", "python", budget) == "if a:"
    assert budget.left_chars == 3
