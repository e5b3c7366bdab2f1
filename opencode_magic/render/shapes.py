"""The blocks that a view shows: what to show, with no markup in it.

``blocks`` makes them from values; ``html`` and ``text`` turn them into markup and plain text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tone = Literal["plain", "muted", "good", "warn", "bad", "active"]
Form = Literal["text", "strong", "code", "mono", "tool", "pill"]


@dataclass(frozen=True, slots=True)
class Span:
    """A few words on one line. A tone that means something always has a word or a mark in it."""

    text: str
    tone: Tone = "plain"
    form: Form = "text"

    @property
    def is_label(self) -> bool:
        """Whether it names what stands behind it: a label is muted and begins with a capital."""
        return self.tone == "muted" and self.text[:1].isupper()


Line = tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a card: what it says, and at its end what is known of it."""

    left: Line
    right: Line = ()


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step of a launch. ``mark`` is a character, ``tone`` its colour."""

    mark: str
    tone: Tone
    label: str
    detail: str = ""
    right: str = ""


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a launch, in order, and how far it is (0 to 1; None shows no bar)."""

    items: tuple[StepRow, ...]
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class Prose:
    """Markdown that the agent wrote. ``key`` names the part while it still grows."""

    text: str
    key: str = ""
    is_final: bool = True


@dataclass(frozen=True, slots=True)
class Code:
    """Text in a fixed width. ``language`` is a fence's name, checked where it is used."""

    text: str
    language: str = ""


@dataclass(frozen=True, slots=True)
class Fold:
    """One line that opens onto a body."""

    left: Line
    right: Line = ()
    body: tuple[Block, ...] = ()
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Footer:
    """The small line under a reply."""

    left: tuple[Line, ...]
    right: Line = ()


@dataclass(frozen=True, slots=True)
class Notice:
    """One sentence that needs to be seen, such as an error and what to do next."""

    tone: Tone
    heading: str
    line: Line


@dataclass(frozen=True, slots=True)
class Table:
    """A small table; every row has as many cells as the header."""

    header: tuple[str, ...]
    rows: tuple[tuple[Line, ...], ...]


@dataclass(frozen=True, slots=True)
class Card:
    """Blocks inside one thin border."""

    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply: blocks with a thin rule at their left."""

    blocks: tuple[Block, ...]


Block = Row | Steps | Prose | Code | Fold | Footer | Notice | Table | Card | Answer
