"""OpenCode's events, as they were recorded from 1.18.33, to typed ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_magic.core.events import (
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
    event_from,
    parse_event,
    session_of,
)
from opencode_magic.core.parts import (
    AgentFault,
    Message,
    PermissionRequest,
    Retry,
    TextPart,
    Tokens,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
KINDS = (
    "server.connected",
    "server.heartbeat",
    "session.created",
    "session.status",
    "session.idle",
    "session.error",
    "message.updated",
    "message.removed",
    "message.part.updated",
    "message.part.delta",
    "message.part.removed",
    "permission.asked",
    "permission.replied",
    "question.asked",
    "todo.updated",
)
FIELDS = (
    "id",
    "sessionID",
    "messageID",
    "partID",
    "info",
    "part",
    "status",
    "error",
    "data",
    "type",
    "time",
    "tokens",
    "state",
    "metadata",
    "questions",
    "field",
    "delta",
    "role",
    "issues",
    "path",
)
HOSTILE = st.recursive(
    JSON | st.sampled_from([*KINDS, "text", "tool", "retry", "idle", "user"]),
    lambda inner: st.dictionaries(st.sampled_from(FIELDS), inner) | st.lists(inner, max_size=3),
    max_leaves=20,
)


def event(kind: str, **properties: object) -> Event:
    return parse_event(json.dumps({"id": "evt_1", "type": kind, "properties": properties}))


CASES: Mapping[str, tuple[Event, Event]] = {
    "connected": (event("server.connected"), Connected()),
    "heartbeat": (event("server.heartbeat"), Heartbeat()),
    "busy": (
        event("session.status", sessionID="ses_1", status={"type": "busy"}),
        ActivityChanged("ses_1", "busy"),
    ),
    "retry": (
        event(
            "session.status",
            sessionID="ses_1",
            status={"type": "retry", "attempt": 2, "message": "Rate limit", "next": 1795422280268},
        ),
        ActivityChanged("ses_1", "retry", Retry(2, "Rate limit", 1795422280268)),
    ),
    "idle": (event("session.idle", sessionID="ses_1"), ActivityChanged("ses_1", "idle")),
    "child": (
        event("session.created", info={"id": "ses_2", "parentID": "ses_1"}),
        SessionCreated("ses_2", "ses_1"),
    ),
    "message": (
        event(
            "message.updated",
            sessionID="ses_1",
            info={
                "id": "msg_2",
                "sessionID": "ses_1",
                "parentID": "msg_1",
                "role": "assistant",
                "cost": 0.25,
                "tokens": {
                    "input": 101,
                    "output": 17,
                    "reasoning": 5,
                    "cache": {"write": 1, "read": 10},
                },
                "modelID": "m1",
                "providerID": "stub",
                "time": {"created": 1795422280268, "completed": 1795422281572},
                "finish": "stop",
                "error": {"name": "APIError", "data": {"message": "no", "statusCode": 401}},
            },
        ),
        MessageUpdated(
            Message(
                message_id="msg_2",
                session_id="ses_1",
                role="assistant",
                parent_id="msg_1",
                tokens=Tokens(101, 17, 5, 10, 1),
                cost=0.25,
                finish="stop",
                fault=AgentFault("APIError", "no", 401),
                created_ms=1795422280268,
                completed_ms=1795422281572,
                provider_id="stub",
                model_id="m1",
            )
        ),
    ),
    "removed": (
        event("message.removed", sessionID="ses_1", messageID="msg_1"),
        MessageRemoved("ses_1", "msg_1"),
    ),
    "part": (
        event(
            "message.part.updated",
            part={
                "id": "prt_1",
                "sessionID": "ses_1",
                "messageID": "msg_1",
                "type": "text",
                "text": "Hi",
                "time": {"start": 1, "end": 2},
            },
        ),
        PartUpdated("ses_1", TextPart("prt_1", "msg_1", "Hi", is_final=True)),
    ),
    "delta": (
        event(
            "message.part.delta",
            sessionID="ses_1",
            messageID="msg_1",
            partID="prt_1",
            field="text",
            delta="Hel",
        ),
        PartDelta("ses_1", "msg_1", "prt_1", "Hel"),
    ),
    "delta of another field": (
        event("message.part.delta", sessionID="ses_1", messageID="m", partID="p", field="raw"),
        UnknownEvent("message.part.delta", "ses_1"),
    ),
    "part removed": (
        event("message.part.removed", sessionID="ses_1", messageID="msg_1", partID="prt_1"),
        PartRemoved("ses_1", "msg_1", "prt_1"),
    ),
    "permission": (
        event(
            "permission.asked",
            id="per_1",
            sessionID="ses_1",
            permission="bash",
            patterns=["touch a.txt", "ls"],
            metadata={"command": "touch a.txt && ls"},
            always=["touch *", "ls *"],
            tool={"messageID": "msg_1", "callID": "call_1"},
        ),
        PermissionAsked(
            PermissionRequest(
                "per_1",
                "ses_1",
                "bash",
                ("touch a.txt", "ls"),
                ("touch *", "ls *"),
                {"command": "touch a.txt && ls"},
                "call_1",
            )
        ),
    ),
    "replied": (
        event("permission.replied", sessionID="ses_1", requestID="per_1", reply="once"),
        PermissionReplied("ses_1", "per_1"),
    ),
    "question": (
        event("question.asked", id="que_1", sessionID="ses_1", questions=[{"question": "Which?"}]),
        QuestionAsked("ses_1", "que_1", "Which?"),
    ),
    "fault": (
        event("session.error", error={"name": "UnknownError", "data": {"message": "Gone."}}),
        SessionFaulted("", AgentFault("UnknownError", "Gone.")),
    ),
    "unknown": (event("todo.updated", sessionID="ses_1"), UnknownEvent("todo.updated", "ses_1")),
    "no id": (event("message.updated", info={}), UnknownEvent("message.updated")),
    "no part": (event("message.part.updated"), UnknownEvent("message.part.updated")),
    "no request": (event("permission.asked"), UnknownEvent("permission.asked")),
    "odd status": (event("session.status"), UnknownEvent("session.status")),
}


@pytest.mark.parametrize("name", CASES)
def test_an_event_is_read_as_it_was_recorded(name: str) -> None:
    """Every type that is used becomes its own value; all others are unknown."""
    given_event, expected = CASES[name]

    assert given_event == expected


@pytest.mark.parametrize("data", ["", "{", "null", "[1]", '"x"', "[" * 100_000, "1e999"])
def test_what_is_no_event_is_unknown(data: str) -> None:
    """Broken JSON, and JSON of another shape, never raise."""
    assert parse_event(data) == UnknownEvent("")


@given(JSON)
def test_any_json_value_parses(value: object) -> None:
    """An event is what the types say, or unknown."""
    assert isinstance(event_from(value), Event)


@given(st.sampled_from(KINDS), HOSTILE)
def test_known_types_with_any_fields_parse(kind: str, properties: object) -> None:
    """A known type whose fields are missing, or of another kind, never raises."""
    parsed = event_from({"type": kind, "properties": properties})

    assert isinstance(session_of(parsed), str)


def test_a_resync_belongs_to_its_session() -> None:
    """Our own event is routed like the server's."""
    assert session_of(Resynced("ses_1", ())) == "ses_1"
