"""What a turn may cost and how far it may grow; a turn to what is over its limits.

The budget is the user's. The limits of growth are ours: a program inside the sandbox may have taken
the agent server's place, and whatever it sends, the kernel and the notebook must bear it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from opencode_magic.core.events import PartDelta, PartUpdated, PermissionAsked, Resynced
from opencode_magic.core.parts import FilePart, PatchPart, ReasoningPart, TextPart, ToolPart

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opencode_magic.core.conversation import Conversation
    from opencode_magic.core.events import Event
    from opencode_magic.core.parts import Message, Part, PermissionRequest, Turn

VALUE_CHARS = 50
"""A value of a tool's input counts so much besides its text: what an empty list takes."""
EVENT_CHARS = 200
"""The same for an event."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one turn. None is no limit."""

    cost: float | None = None
    """US dollars; only counts where the provider's prices are known."""
    time_s: float | None = None
    tool_calls: int | None = None


@dataclass(frozen=True, slots=True)
class GrowthLimits:
    """How far one turn may grow in the kernel; what an honest long turn has is far below."""

    text_chars: int = 4_000_000
    """What the agent says and thinks. It is shown whole, a second a megabyte; a long answer has
    2 MB."""
    total_chars: int = 64_000_000
    """All that is kept. 500 tool calls with 50 KB of output, which is OpenCode's most, have 25 MB,
    and the prompt itself may have 20 MB."""
    messages: int = 2_000
    """A turn has one a step: 500 tool calls have some 500."""
    parts: int = 10_000
    """A step has four or five."""
    requests: int = 2_000
    """Permissions and questions: one a tool call."""
    sub_sessions: int = 1_000
    events_bytes: int = 4 * 1024**3
    """All that the event stream brings. A command that prints 4 MB brings 13 MB of it."""


def exceeded(budget: Budget, turn: Turn, *, elapsed_s: float) -> str:
    """Say which limit the turn is over, as one plain line; empty while it is within all."""
    if budget.time_s is not None and elapsed_s > budget.time_s:
        return f"the turn took longer than its limit of {budget.time_s:g} s"
    if budget.tool_calls is not None and len(turn.tools) > budget.tool_calls:
        return f"the turn made more than its limit of {budget.tool_calls} tool calls"
    cost = turn.cost
    if budget.cost is not None and cost is not None and cost > budget.cost:
        return f"the turn cost ${cost:.4f}, more than its limit of ${budget.cost:g}"
    return ""


@dataclass(frozen=True, slots=True)
class Size:
    """How large a conversation is."""

    text_chars: int
    total_chars: int
    messages: int
    parts: int
    requests: int
    sub_sessions: int

    @classmethod
    def of(cls, conversation: Conversation) -> Size:
        """Measure it; takes time linear in its parts."""
        messages = conversation.messages
        answers = [part for message in conversation.answers for part in message.parts]
        return cls(
            text_chars=sum(_said_chars(part) for part in answers),
            total_chars=total_chars(messages) + sum(map(_request_chars, conversation.permissions)),
            messages=len(messages),
            parts=sum(len(message.parts) for message in messages) + len(conversation.broken),
            requests=len(conversation.permissions) + len(conversation.questions),
            sub_sessions=len(conversation.children),
        )


def overgrown(size: Size, limits: GrowthLimits) -> str:
    """Say which limit of growth a conversation is over, as one plain line; empty for none."""
    found = (
        (size.text_chars, limits.text_chars, "characters of text"),
        (size.total_chars, limits.total_chars, "characters in all"),
        (size.messages, limits.messages, "messages"),
        (size.parts, limits.parts, "parts"),
        (size.requests, limits.requests, "open requests"),
        (size.sub_sessions, limits.sub_sessions, "sub-agents"),
    )
    for value, limit, what in found:
        if value > limit:
            return over(limit, what)
    return ""


def over(limit: int, what: str) -> str:
    """Give the line for a turn that is over a limit of growth."""
    return f"the turn grew past its limit of {limit:,} {what}; the rest is left out"


def total_chars(messages: Iterable[Message]) -> int:
    """Give how much messages hold, each part with what it takes besides its text."""
    return sum(
        VALUE_CHARS + sum(VALUE_CHARS + _part_chars(part) for part in message.parts)
        for message in messages
    )


def event_chars(event: Event) -> int:
    """Give how much an event holds, with what it takes besides its text. Never 0."""
    match event:
        case PartDelta():
            return EVENT_CHARS + len(event.text)
        case PartUpdated():
            return EVENT_CHARS + _part_chars(event.part)
        case PermissionAsked():
            return EVENT_CHARS + _request_chars(event.request)
        case Resynced():
            asked = sum(map(_request_chars, event.permissions or ()))
            return EVENT_CHARS + total_chars(event.messages) + asked
        case _:
            return EVENT_CHARS


def _request_chars(request: PermissionRequest) -> int:
    patterns = sum(VALUE_CHARS + len(text) for text in (*request.patterns, *request.always))
    return patterns + _value_chars(request.metadata)


def _said_chars(part: Part) -> int:
    return len(part.text) if isinstance(part, TextPart | ReasoningPart) else 0


def _part_chars(part: Part) -> int:
    match part:
        case TextPart() | ReasoningPart():
            return len(part.text)
        case ToolPart():
            texts = len(part.output) + len(part.error) + len(part.diff)
            return texts + _value_chars(part.input)
        case FilePart():
            return len(part.url)
        case PatchPart():
            return sum(VALUE_CHARS + len(name) for name in part.files)
        case _:
            return 0


def _value_chars(value: object) -> int:
    """Give what a JSON value takes; it is at most ``stored.DEPTH_LIMIT`` deep."""
    if isinstance(value, str):
        return VALUE_CHARS + len(value)
    if isinstance(value, dict):
        pairs = ((_value_chars(name), _value_chars(inner)) for name, inner in value.items())
        return VALUE_CHARS + sum(name + inner for name, inner in pairs)
    if isinstance(value, list):
        return VALUE_CHARS + sum(_value_chars(item) for item in value)
    return VALUE_CHARS
