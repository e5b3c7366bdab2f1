"""What the scripted demo model is asked and what it answers, whatever protocol brought it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Trouble = Literal["", "cut", "stall", "hang"]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What one tool call of this turn gave back."""

    tool: str
    arguments: Mapping[str, object]
    output: str
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to the model, whatever protocol brought it."""

    prompt: str
    """The last thing the user said."""
    results: tuple[ToolResult, ...] = ()
    """Tool results since then, oldest first."""
    tools: frozenset[str] = frozenset()
    model: str = ""
    size_chars: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of the stream, sent after a pause."""

    text: str
    kind: Literal["text", "reasoning"] = "text"
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the agent is to make."""

    tool: str
    arguments: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What to stream back."""

    pieces: tuple[Piece, ...] = ()
    call: ToolCall | None = None
    finish: str = "stop"
    wait_s: float = 0.0
    trouble: Trouble = ""
    status: int = 200
    retry_after_s: int | None = None
    usage_tokens: int | None = None
    """What the request is said to have cost; None for a plausible count."""

    @property
    def text(self) -> str:
        """The whole text without its pacing."""
        return "".join(piece.text for piece in self.pieces if piece.kind == "text")
