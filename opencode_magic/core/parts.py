"""What a conversation is made of, as frozen values: parts, messages, a turn.

The types mirror OpenCode 1.18's, in our spelling; wire names stop in ``core.stored`` and
``core.events``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opencode_magic.core.receipt import Receipt

ToolStatus = Literal["pending", "running", "completed", "error"]
TurnState = Literal["running", "done", "stopped", "refused", "failed"]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token counts of one step or their sum over a turn."""

    input: int = 0
    output: int = 0
    reasoning: int = 0
    cache_read: int = 0
    cache_write: int = 0

    @property
    def total(self) -> int:
        """Everything that was counted."""
        return self.input + self.output + self.reasoning + self.cache_read + self.cache_write

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            self.input + other.input,
            self.output + other.output,
            self.reasoning + other.reasoning,
            self.cache_read + other.cache_read,
            self.cache_write + other.cache_write,
        )


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text that the agent says. ``is_final`` once the server sent the whole text."""

    part_id: str
    message_id: str
    text: str
    is_final: bool = False
    is_synthetic: bool = False


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    """What a model thinks aloud before it answers."""

    part_id: str
    message_id: str
    text: str
    is_final: bool = False
    started_ms: int = 0
    ended_ms: int = 0


@dataclass(frozen=True, slots=True)
class ToolPart:
    """One tool call, from its announcement to its end."""

    part_id: str
    message_id: str
    call_id: str
    tool: str
    status: ToolStatus
    input: Mapping[str, object] = field(default_factory=dict)
    title: str = ""
    output: str = ""
    error: str = ""
    exit_code: int | None = None
    """Of a command; None where the tool has none or the command was ended."""
    diff: str = ""
    """A unified diff, where an edit gives one."""
    is_truncated: bool = False
    started_ms: int = 0
    ended_ms: int = 0


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file that a message carries. ``url`` may be a data URL; it is never fetched."""

    part_id: str
    message_id: str
    mime: str
    filename: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class PatchPart:
    """Files that a step changed, as absolute paths inside the sandbox."""

    part_id: str
    message_id: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OtherPart:
    """A part of a kind that is not shown (step-start, step-finish, snapshot, an unknown one)."""

    part_id: str
    message_id: str
    kind: str


Part = TextPart | ReasoningPart | ToolPart | FilePart | PatchPart | OtherPart


@dataclass(frozen=True, slots=True)
class AgentFault:
    """An error that OpenCode put into a message or an event.

    ``name`` is OpenCode's: ProviderAuthError, APIError, UnknownError, MessageAbortedError, ...
    """

    name: str
    message: str
    status_code: int | None = None
    is_retryable: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One message with its parts, oldest first."""

    message_id: str
    session_id: str
    role: Literal["user", "assistant"]
    parent_id: str = ""
    parts: tuple[Part, ...] = ()
    tokens: Tokens = Tokens()
    cost: float = 0.0
    finish: str = ""
    fault: AgentFault | None = None
    is_summary: bool = False
    created_ms: int = 0
    completed_ms: int = 0
    provider_id: str = ""
    model_id: str = ""


@dataclass(frozen=True, slots=True)
class Retry:
    """The server waits before it asks the provider again."""

    attempt: int
    message: str
    next_ms: int


@dataclass(frozen=True, slots=True)
class PermissionRequest:
    """The agent asks for leave. ``session_id`` is the child's where a sub-agent asks."""

    request_id: str
    session_id: str
    permission: str
    patterns: tuple[str, ...] = ()
    always: tuple[str, ...] = ()
    metadata: Mapping[str, object] = field(default_factory=dict)
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """One prompt and everything until the session is idle.

    ``messages`` holds the assistant's messages of this turn, oldest first, summaries left out.
    ``error`` is one plain line; set for failed and refused, empty otherwise.
    ``cost`` is None where it is not known.
    """

    session_id: str
    prompt_text: str
    state: TurnState
    messages: tuple[Message, ...] = ()
    model: str = ""
    """``provider/model``."""
    is_scripted: bool = False
    error: str = ""
    next_step: str = ""
    """What to do about ``error``; empty where there is nothing to do."""
    fault: AgentFault | None = None
    retry: Retry | None = None
    permissions: tuple[PermissionRequest, ...] = ()
    """Asked and not answered yet, oldest first."""
    started_ms: int = 0
    ended_ms: int = 0
    is_cost_known: bool = False
    receipt: Receipt | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """Every part of every message, oldest first."""
        return tuple(part for message in self.messages for part in message.parts)

    @property
    def text(self) -> str:
        """All text the agent said, one blank line between parts."""
        texts = [
            part.text
            for part in self.parts
            if isinstance(part, TextPart) and part.text and not part.is_synthetic
        ]
        return "\n\n".join(texts)

    @property
    def tools(self) -> tuple[ToolPart, ...]:
        """The tool calls, oldest first."""
        return tuple(part for part in self.parts if isinstance(part, ToolPart))

    @property
    def tokens(self) -> Tokens:
        """The sum over all steps."""
        total = Tokens()
        for message in self.messages:
            total += message.tokens
        return total

    @property
    def cost(self) -> float | None:
        """US dollars over all steps, or None where it is not known."""
        return sum(message.cost for message in self.messages) if self.is_cost_known else None

    @property
    def duration_s(self) -> float:
        """Seconds from the prompt to the end; 0 while it runs."""
        return max(0.0, (self.ended_ms - self.started_ms) / 1000) if self.ended_ms else 0.0
