"""OpenCode's server-sent events to typed events; a type that we do not know becomes UnknownEvent.

Source: ``GET /event`` of OpenCode 1.18.33. Its spelling (``sessionID``) stops here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from opencode_magic.core.parts import Retry
from opencode_magic.core.stored import (
    FAULT_CHARS,
    as_count,
    as_id,
    as_list,
    as_name,
    as_object,
    as_text,
    parse_fault,
    parse_message,
    parse_part,
    parse_permission,
)
from opencode_magic.core.wire import parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opencode_magic.core.parts import AgentFault, Message, Part, PermissionRequest

Activity = Literal["unknown", "idle", "busy", "retry"]


@dataclass(frozen=True, slots=True)
class Connected:
    """The stream is up: from here on nothing is missed."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The server lives; nothing happened."""


@dataclass(frozen=True, slots=True)
class SessionCreated:
    """A session exists. ``parent_id`` is set where a sub-agent works in it."""

    session_id: str
    parent_id: str


@dataclass(frozen=True, slots=True)
class ActivityChanged:
    """A session became busy, idle, or waits before it asks the provider again."""

    session_id: str
    activity: Activity
    retry: Retry | None = None


@dataclass(frozen=True, slots=True)
class MessageUpdated:
    """A message as it is now, without its parts."""

    message: Message

    @property
    def session_id(self) -> str:
        """Whose message it is."""
        return self.message.session_id


@dataclass(frozen=True, slots=True)
class MessageRemoved:
    """A message is gone, after a revert."""

    session_id: str
    message_id: str


@dataclass(frozen=True, slots=True)
class PartUpdated:
    """A part as it is now, whole."""

    session_id: str
    part: Part


@dataclass(frozen=True, slots=True)
class PartDelta:
    """More text for a part. A preview: the part's last update has the whole text."""

    session_id: str
    message_id: str
    part_id: str
    text: str


@dataclass(frozen=True, slots=True)
class PartRemoved:
    """A part is gone."""

    session_id: str
    message_id: str
    part_id: str


@dataclass(frozen=True, slots=True)
class PermissionAsked:
    """The agent waits for leave."""

    request: PermissionRequest

    @property
    def session_id(self) -> str:
        """Who asks."""
        return self.request.session_id


@dataclass(frozen=True, slots=True)
class PermissionReplied:
    """A request was answered, by us or by another client."""

    session_id: str
    request_id: str


@dataclass(frozen=True, slots=True)
class QuestionAsked:
    """The agent waits for an answer to a question."""

    session_id: str
    request_id: str
    question: str


@dataclass(frozen=True, slots=True)
class SessionFaulted:
    """Something went wrong; not always the end of the turn. ``session_id`` may be empty."""

    session_id: str
    fault: AgentFault


@dataclass(frozen=True, slots=True)
class Resynced:
    """What the server has stored of a session: read after a lost stream, and at a turn's end.

    ``messages`` are oldest first, and may be only the last ones. ``activity`` is "unknown" and
    ``permissions`` is None where they were not read.
    """

    session_id: str
    messages: tuple[Message, ...]
    activity: Activity = "unknown"
    permissions: tuple[PermissionRequest, ...] | None = None


@dataclass(frozen=True, slots=True)
class UnknownEvent:
    """An event that we do not use, or that could not be read."""

    kind: str
    session_id: str = ""


Event = (
    Connected
    | Heartbeat
    | SessionCreated
    | ActivityChanged
    | MessageUpdated
    | MessageRemoved
    | PartUpdated
    | PartDelta
    | PartRemoved
    | PermissionAsked
    | PermissionReplied
    | QuestionAsked
    | SessionFaulted
    | Resynced
    | UnknownEvent
)


def session_of(event: Event) -> str:
    """Give the session that an event belongs to; empty where it belongs to none."""
    if isinstance(event, Connected | Heartbeat):
        return ""
    return event.session_id


def parse_event(data: str) -> Event:
    """Give the event that the data of a server-sent event holds. Never raises."""
    try:
        parsed = parse_json(data)
    except ValueError:
        return UnknownEvent("")
    return event_from(parsed)


def event_from(value: object) -> Event:
    """Give the event that a JSON value holds. Never raises."""
    frame = as_object(value)
    kind = as_name(frame.get("type"))
    fields = as_object(frame.get("properties"))
    return _event(kind, fields) or UnknownEvent(kind, as_id(fields.get("sessionID")))


def _event(kind: str, fields: Mapping[str, object]) -> Event | None:  # noqa: PLR0911 - one arm a type
    session_id = as_id(fields.get("sessionID"))
    match kind:
        case "server.connected":
            return Connected()
        case "server.heartbeat":
            return Heartbeat()
        case "session.created":
            info = as_object(fields.get("info"))
            return SessionCreated(as_id(info.get("id")), as_id(info.get("parentID")))
        case "session.status":
            return _activity(session_id, fields)
        case "session.idle":
            return ActivityChanged(session_id, "idle")
        case "session.error":
            return SessionFaulted(session_id, parse_fault(fields.get("error")))
        case _:
            return _message_event(kind, session_id, fields)


def _activity(session_id: str, fields: Mapping[str, object]) -> Event | None:
    status = as_object(fields.get("status"))
    match status.get("type"):
        case "idle" | "busy" as activity:
            return ActivityChanged(session_id, activity)
        case "retry":
            retry = Retry(
                as_count(status.get("attempt")),
                as_name(status.get("message"), limit_chars=FAULT_CHARS),
                as_count(status.get("next")),
            )
            return ActivityChanged(session_id, "retry", retry)
        case _:
            return None


def _message_event(kind: str, session_id: str, fields: Mapping[str, object]) -> Event | None:
    message_id, part_id = as_id(fields.get("messageID")), as_id(fields.get("partID"))
    match kind:
        case "message.updated":
            message = parse_message(fields.get("info"))
            return None if message is None else MessageUpdated(message)
        case "message.removed":
            return MessageRemoved(session_id, message_id)
        case "message.part.updated":
            value = as_object(fields.get("part"))
            part = parse_part(value)
            owner = as_id(value.get("sessionID")) or session_id
            return None if part is None else PartUpdated(owner, part)
        case "message.part.delta" if fields.get("field") == "text" and message_id and part_id:
            return PartDelta(session_id, message_id, part_id, as_text(fields.get("delta")))
        case "message.part.removed":
            return PartRemoved(session_id, message_id, part_id)
        case _:
            return _asking_event(kind, session_id, fields)


def _asking_event(kind: str, session_id: str, fields: Mapping[str, object]) -> Event | None:
    match kind:
        case "permission.asked":
            request = parse_permission(fields)
            return None if request is None else PermissionAsked(request)
        case "permission.replied":
            return PermissionReplied(session_id, as_id(fields.get("requestID")))
        case "question.asked":
            questions = [as_object(item) for item in as_list(fields.get("questions"))]
            text = as_name(" ".join(as_name(item.get("question")) for item in questions[:10]))
            return QuestionAsked(session_id, as_id(fields.get("id")), text)
        case _:
            return None
