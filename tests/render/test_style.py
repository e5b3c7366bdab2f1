from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from opencode_magic.render import style
from opencode_magic.render.wall import is_inert

if TYPE_CHECKING:
    from opencode_magic.render.shapes import Tone

TONES: tuple[Tone, ...] = ("plain", "muted", "good", "warn", "bad", "active")


@pytest.mark.parametrize("tone", TONES)
def test_tones(tone: Tone) -> None:
    """Every tone has declarations that the wall knows."""
    for declarations in (style.colour(tone), style.wash(tone), style.rule(tone)):
        assert is_inert(f'<span style="{declarations}">x</span>')


def test_plain_colour_first() -> None:
    """A colour that a strict sanitiser can read stands before the one that follows the theme."""
    assert style.colour("good").startswith("color:#388e3c;color:color-mix(")
    assert style.bar("active") == (
        "background-color:#1976d2;background-color:var(--jp-brand-color1,#1976d2);"
    )


@pytest.mark.parametrize("name", [name for name in vars(style) if name.isupper()])
def test_constants(name: str) -> None:
    """Every constant is a list of declarations that the wall knows."""
    value = getattr(style, name)
    if isinstance(value, str) and value.endswith(";"):
        assert is_inert(f'<span style="{value}">x</span>')
