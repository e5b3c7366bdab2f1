"""The conversation as a frozen value, and the one function that changes it.

``core.parts`` has what it is made of; those names can be imported from here too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, assert_never

from opencode_magic.core.events import (
    Activity,
    ActivityChanged,
    Connected,
    Event,
    Heartbeat,
    MessageRemoved,
    MessageUpdated,
    PartDelta,
    PartRemoved,
    PartUpdated,
    PermissionAsked,
    PermissionReplied,
    QuestionAsked,
    Resynced,
    SessionCreated,
    SessionFaulted,
    UnknownEvent,
    session_of,
)
from opencode_magic.core.parts import (
    AgentFault,
    FilePart,
    Message,
    OtherPart,
    Part,
    PatchPart,
    PermissionRequest,
    ReasoningPart,
    Retry,
    TextPart,
    Tokens,
    ToolPart,
    ToolStatus,
    Turn,
    TurnState,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "AgentFault",
    "Conversation",
    "FilePart",
    "Message",
    "OtherPart",
    "Part",
    "PatchPart",
    "PermissionRequest",
    "ReasoningPart",
    "Retry",
    "TextPart",
    "Tokens",
    "ToolPart",
    "ToolStatus",
    "Turn",
    "TurnState",
    "join_deltas",
    "reduce",
]

_TOOL_RANK = {"pending": 0, "running": 1, "completed": 2, "error": 2}


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is known of one session since a moment.

    ``messages`` are in the order of their ids, which is the order of their creation; the parts of
    a message too. So the order in which events arrive does not matter for what is shown.
    """

    session_id: str
    after_id: str = ""
    """Messages up to this id are left out: a turn starts after the last one before it."""
    messages: tuple[Message, ...] = ()
    children: frozenset[str] = frozenset()
    """Sessions of sub-agents, theirs included."""
    activity: Activity = "unknown"
    retry: Retry | None = None
    permissions: tuple[PermissionRequest, ...] = ()
    """Asked and not answered yet, oldest first; of sub-agents too."""
    questions: tuple[str, ...] = ()
    """Ids of questions that the agent asked; nobody answers them here."""
    fault: AgentFault | None = None
    """The last error that came as an event of its own."""
    broken: frozenset[str] = frozenset()
    """Parts of a provider's answer that broke off; they go when the next attempt speaks."""

    @property
    def answers(self) -> tuple[Message, ...]:
        """The assistant's messages, oldest first, summaries left out."""
        return tuple(
            message
            for message in self.messages
            if message.role == "assistant" and not message.is_summary
        )


def reduce(conversation: Conversation, event: Event) -> Conversation:
    """Give the conversation after an event.

    Never raises; an event of another session, or one that is not known, leaves it as it was.
    """
    if isinstance(event, Connected | Heartbeat | UnknownEvent):
        return conversation
    if isinstance(event, SessionCreated):
        return _with_child(conversation, event)
    if isinstance(event, PermissionAsked | PermissionReplied | QuestionAsked):
        known = {conversation.session_id, *conversation.children}
        return _asked(conversation, event) if event.session_id in known else conversation
    if isinstance(event, SessionFaulted) and not event.session_id:
        return replace(conversation, fault=event.fault)
    if session_of(event) != conversation.session_id:
        return conversation
    return _own(conversation, event)


def _own(  # noqa: PLR0911 - one arm an event
    conversation: Conversation,
    event: ActivityChanged
    | MessageUpdated
    | MessageRemoved
    | PartUpdated
    | PartDelta
    | PartRemoved
    | SessionFaulted
    | Resynced,
) -> Conversation:
    match event:
        case ActivityChanged():
            return _with_activity(conversation, event)
        case SessionFaulted():
            return replace(conversation, fault=event.fault)
        case MessageUpdated():
            return _with_message(conversation, event.message)
        case MessageRemoved():
            kept = (m for m in conversation.messages if m.message_id != event.message_id)
            return replace(conversation, messages=tuple(kept))
        case PartUpdated():
            return _with_part(conversation, event.part)
        case PartDelta():
            return _with_delta(conversation, event)
        case PartRemoved():
            return _changed(conversation, event.message_id, lambda m: _without(m, event.part_id))
        case Resynced():
            return _resynced(conversation, event)
        case _ as never:
            assert_never(never)


def join_deltas(events: Iterable[Event]) -> list[Event]:
    """Join the deltas of each part that no other event comes between.

    A state per delta would cost the square of the reply; one per frame does not. Deltas of
    different parts change nothing of each other, so each part's are joined where its first stood.
    """
    joined: list[Event] = []
    texts: dict[tuple[str, str, str], list[str]] = {}
    for event in events:
        if isinstance(event, PartDelta):
            place = (event.session_id, event.message_id, event.part_id)
            texts.setdefault(place, []).append(event.text)
        else:
            joined += _joined(texts)
            joined.append(event)
    return joined + _joined(texts)


def _joined(texts: dict[tuple[str, str, str], list[str]]) -> list[PartDelta]:
    """Give one delta a part, and forget them."""
    found = [PartDelta(*place, "".join(pieces)) for place, pieces in texts.items()]
    texts.clear()
    return found


def _with_child(conversation: Conversation, event: SessionCreated) -> Conversation:
    if event.parent_id not in {conversation.session_id, *conversation.children}:
        return conversation
    return replace(conversation, children=conversation.children | {event.session_id})


def _asked(
    conversation: Conversation, event: PermissionAsked | PermissionReplied | QuestionAsked
) -> Conversation:
    match event:
        case PermissionAsked():
            others = _other_requests(conversation, event.request.request_id)
            return replace(conversation, permissions=(*others, event.request))
        case PermissionReplied():
            return replace(
                conversation, permissions=_other_requests(conversation, event.request_id)
            )
        case QuestionAsked():
            if event.request_id in conversation.questions:
                return conversation
            return replace(conversation, questions=(*conversation.questions, event.request_id))
        case _ as never:
            assert_never(never)


def _other_requests(conversation: Conversation, request_id: str) -> tuple[PermissionRequest, ...]:
    return tuple(r for r in conversation.permissions if r.request_id != request_id)


def _with_activity(conversation: Conversation, event: ActivityChanged) -> Conversation:
    broken = conversation.broken
    if event.activity == "retry":
        broken |= {
            part.part_id
            for message in conversation.answers
            for part in message.parts
            if isinstance(part, TextPart | ReasoningPart) and not part.is_final
        }
    return replace(conversation, activity=event.activity, retry=event.retry, broken=broken)


def _changed(
    conversation: Conversation, message_id: str, change: Callable[[Message], Message]
) -> Conversation:
    """Change one message; one that is not known yet is made, as the assistant's."""
    if message_id <= conversation.after_id:
        return conversation
    messages = list(conversation.messages)
    place = len(messages)
    while place > 0 and messages[place - 1].message_id > message_id:
        place -= 1
    if place > 0 and messages[place - 1].message_id == message_id:
        messages[place - 1] = change(messages[place - 1])
    else:
        made = Message(message_id, conversation.session_id, "assistant")
        messages.insert(place, change(made))
    return replace(conversation, messages=tuple(messages))


def _rank(message: Message) -> tuple[bool, bool, bool]:
    """Order what is known of one message: later knowledge is higher."""
    has_ended = bool(message.finish) or message.fault is not None
    return (message.completed_ms > 0, has_ended, message.created_ms > 0)


def _newer_message(known: Message, incoming: Message) -> Message:
    if _rank(incoming) < _rank(known):
        return known
    return replace(incoming, parts=known.parts)


def _with_message(conversation: Conversation, incoming: Message) -> Conversation:
    return _changed(
        conversation, incoming.message_id, lambda known: _newer_message(known, incoming)
    )


def _with_part(conversation: Conversation, part: Part) -> Conversation:
    broken = conversation.broken
    return _changed(conversation, part.message_id, lambda m: _put(m, part, broken))


def _with_delta(conversation: Conversation, event: PartDelta) -> Conversation:
    def grow(message: Message) -> Message:
        known = _find(message, event.part_id)
        if known is None:
            made = TextPart(event.part_id, event.message_id, event.text)
            return _put(message, made, conversation.broken)
        if isinstance(known, TextPart | ReasoningPart) and not known.is_final:
            return _replaced(message, replace(known, text=known.text + event.text))
        return message

    return _changed(conversation, event.message_id, grow)


def _find(message: Message, part_id: str) -> Part | None:
    return next((part for part in reversed(message.parts) if part.part_id == part_id), None)


def _replaced(message: Message, part: Part) -> Message:
    parts = (part if known.part_id == part.part_id else known for known in message.parts)
    return replace(message, parts=tuple(parts))


def _without(message: Message, part_id: str) -> Message:
    return replace(message, parts=tuple(p for p in message.parts if p.part_id != part_id))


def _put(message: Message, part: Part, broken: frozenset[str]) -> Message:
    """Add a part at its place, or bring the one that is there up to date."""
    known = _find(message, part.part_id)
    if known is not None:
        return _replaced(message, _newer_part(known, part))
    parts = list(message.parts)
    if broken and isinstance(part, TextPart | ReasoningPart):
        parts = [other for other in parts if other.part_id not in broken or _is_settled(other)]
    place = len(parts)
    while place > 0 and parts[place - 1].part_id > part.part_id:
        place -= 1
    parts.insert(place, part)
    return replace(message, parts=tuple(parts))


def _is_settled(part: Part) -> bool:
    return not isinstance(part, TextPart | ReasoningPart) or part.is_final


def _newer_part(known: Part, incoming: Part) -> Part:
    """Choose between two states of one part, whichever of them came first."""
    if isinstance(known, ToolPart) and isinstance(incoming, ToolPart):
        is_older = _TOOL_RANK[incoming.status] < _TOOL_RANK[known.status]
        return known if is_older else incoming
    if isinstance(known, TextPart | ReasoningPart) and isinstance(
        incoming, TextPart | ReasoningPart
    ):
        if incoming.is_final:
            return incoming
        if known.is_final:
            return known
        # An announcement that comes after the first deltas is empty and must not take them away.
        text = max(known.text, incoming.text, key=len)
        return replace(incoming, text=text)
    return incoming


def _resynced(conversation: Conversation, event: Resynced) -> Conversation:
    for stored in event.messages:
        conversation = _with_stored(conversation, stored)
    if event.permissions is not None:
        conversation = replace(conversation, permissions=event.permissions)
    if event.activity != "unknown":
        retry = conversation.retry if event.activity == "retry" else None
        conversation = replace(conversation, activity=event.activity, retry=retry)
    return conversation


def _with_stored(conversation: Conversation, stored: Message) -> Conversation:
    def merge(known: Message) -> Message:
        newer = _newer_message(known, stored)
        if not stored.completed_ms:
            for part in stored.parts:
                newer = _put(newer, part, frozenset())
            return newer
        return replace(newer, parts=_settled_parts(known, stored))

    return _changed(conversation, stored.message_id, merge)


def _settled_parts(known: Message, stored: Message) -> tuple[Part, ...]:
    """Give the parts of a message that is over: the server's.

    The server forgets the text of an attempt that broke off. Where nothing else was said after
    it, what arrived of it is the partial answer and stays.
    """
    parts: list[Part] = []
    has_later_text = False
    for part in reversed(stored.parts):
        if isinstance(part, TextPart | ReasoningPart):
            ours = _find(known, part.part_id)
            is_lost = not part.text and not part.is_final and not has_later_text
            if is_lost and isinstance(ours, TextPart | ReasoningPart):
                parts.append(ours)
                continue
            has_later_text = has_later_text or bool(part.text)
        parts.append(part)
    ids = {part.part_id for part in stored.parts}
    extra = [
        part
        for part in known.parts
        if part.part_id not in ids and not isinstance(part, TextPart | ReasoningPart)
    ]
    return tuple(sorted([*parts, *extra], key=lambda part: part.part_id))
