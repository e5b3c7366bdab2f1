"""Each field of the agent server's JSON, replaced by what it must not be: a turn is still shown."""

from __future__ import annotations

import copy
import json
from dataclasses import astuple, replace
from typing import TYPE_CHECKING, Any

import pytest

from opencode_magic.agent.outcome import Asked, Halt, Posted, turn_at_end, turn_so_far
from opencode_magic.core.conversation import Conversation, reduce
from opencode_magic.core.events import Resynced, parse_event
from opencode_magic.core.policy import NetworkPolicy
from opencode_magic.core.receipt import receipt_from_tools
from opencode_magic.core.stored import parse_stored
from opencode_magic.core.wire import parse_json
from opencode_magic.jupyter.approval import question
from opencode_magic.jupyter.view import turn_bundle, turn_metadata
from opencode_magic.render.wall import is_inert
from opencode_magic.session.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opencode_magic.core.parts import Turn

SESSION = "ses_1"
IDS = {"id": "prt_1", "messageID": "msg_1", "sessionID": SESSION}
TIME = {"start": 1, "end": 2}
INFO = {
    "id": "msg_1",
    "sessionID": SESSION,
    "role": "assistant",
    "parentID": "msg_0",
    "time": {"created": 1, "completed": 2},
    "tokens": {"input": 1, "output": 2, "reasoning": 3, "cache": {"read": 4, "write": 5}},
    "cost": 0.5,
    "finish": "stop",
    "providerID": "demo",
    "modelID": "scripted",
    "error": {"name": "APIError", "data": {"message": "m", "statusCode": 500, "isRetryable": True}},
}
TOOL = {
    **IDS,
    "type": "tool",
    "tool": "bash",
    "callID": "call_1",
    "state": {
        "status": "completed",
        "input": {"command": "curl http://a.example", "more": [1, {"a": None}]},
        "output": "o",
        "title": "t",
        "error": "e",
        "metadata": {"exit": 1, "diff": "+ a", "truncated": True, "output": "o"},
        "time": TIME,
    },
}
EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("message.updated", {"info": INFO}),
    ("message.part.updated", {"part": {**IDS, "type": "text", "text": "t", "time": TIME}}),
    ("message.part.updated", {"part": {**IDS, "type": "reasoning", "text": "r", "time": TIME}}),
    ("message.part.updated", {"part": TOOL}),
    ("message.part.updated", {"part": {**IDS, "type": "file", "mime": "a/b", "filename": "f"}}),
    ("message.part.updated", {"part": {**IDS, "type": "patch", "files": ["/a/b"]}}),
    ("message.part.delta", {"messageID": "msg_1", "partID": "p", "field": "text", "delta": "d"}),
    ("message.part.removed", {"messageID": "msg_1", "partID": "p"}),
    ("message.removed", {"messageID": "msg_1"}),
    ("session.status", {"status": {"type": "retry", "attempt": 1, "message": "m", "next": 2}}),
    (
        "session.error",
        {"error": {"name": "n", "data": {"issues": [{"path": ["a"], "message": "m"}]}}},
    ),
    ("session.created", {"info": {"id": "ses_2", "parentID": SESSION}}),
    (
        "permission.asked",
        {
            "id": "per_1",
            "permission": "bash",
            "patterns": ["ls"],
            "always": ["ls *"],
            "metadata": {"a": ["b"]},
            "tool": {"callID": "c"},
        },
    ),
    ("permission.replied", {"requestID": "per_1", "reply": "once"}),
    ("question.asked", {"id": "que_1", "questions": [{"question": "q"}]}),
]
HOSTILE = [
    "null",
    "true",
    "-1",
    "1e308",
    "-1e308",
    "9" * 400,
    "NaN",
    "-Infinity",
    '"\\ud800"',
    '"\\u0000\\u001b[2J\\u009b1m\\u202e\\r\\n"',
    '"<script>alert(1)</script>$\\\\(x$"',
    '"../../x?y#z"',
    json.dumps("w " * 100_000),
    "[]",
    "{}",
    '[[[{"\\udfff": ["\\ud800"]}]]]',
    "[" * 400 + "]" * 400,
]


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Give the way to each value inside."""
    pairs: Any = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    for name, inner in pairs:
        yield (*path, name)
        yield from places(inner, (*path, name))


def replaced(value: object, path: tuple[str | int, ...], mark: str) -> object:
    found: Any = copy.deepcopy(value)
    inner = found
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = mark
    return found


def told(conversation: Conversation, kind: str, properties: object, hostile: str) -> Conversation:
    frame = {"type": kind, "properties": {"sessionID": SESSION}}
    frame["properties"].update(properties)  # type: ignore[attr-defined] # a dict
    text = json.dumps(frame).replace('"HOSTILE"', hostile)
    return reduce(conversation, parse_event(text))


def check_shown(conversation: Conversation) -> None:
    """Show it running and at its end, as a notebook and its file do."""
    asked = Asked(SESSION, "x", "demo/scripted", False, 1)  # noqa: FBT003 - is_scripted
    running = turn_so_far(asked, conversation)
    last = conversation.answers[-1] if conversation.answers else None
    turns = [running]
    for posted, halt in ((Posted(last), None), (None, Halt()), (None, Halt("a", "b"))):
        turn = turn_at_end(asked, conversation, posted, halt=halt, refused=None, ended_ms=9)
        receipt = receipt_from_tools(
            turn.tools, NetworkPolicy(mode="custom"), model_host="m", model_calls=1
        )
        turns.append(replace(turn, receipt=receipt))
    for turn in turns:
        check_turn(turn)
    for request in conversation.permissions:
        assert "\n" not in question(request)


def check_turn(turn: Turn) -> None:
    bundle = turn_bundle(turn)
    stored = json.dumps([bundle, turn_metadata(turn)], ensure_ascii=False, allow_nan=False)
    stored.encode()
    assert is_inert(str(bundle["text/html"]))
    reply = Reply(turn)
    str(reply).encode()
    repr(reply).encode()
    repr(turn).encode()
    for tool in turn.tools:
        json.dumps(tool.input, ensure_ascii=False).encode()
        assert min(tool.started_ms, tool.ended_ms) >= 0
    assert min(astuple(turn.tokens)) >= 0
    assert turn.cost is None or turn.cost >= 0


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda text: text[:30])
def test_any_field_of_any_event_may_be_anything(hostile: str) -> None:
    """Nothing raises, and what is shown can be stored and runs nothing."""
    whole = Conversation(SESSION)
    for kind, properties in EVENTS[:6]:
        whole = told(whole, kind, properties, "null")
    for kind, properties in EVENTS:
        for path in places(properties):
            changed = replaced(properties, path, "HOSTILE")
            check_shown(told(Conversation(SESSION), kind, changed, hostile))
            check_shown(told(whole, kind, changed, hostile))


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda text: text[:30])
def test_any_field_of_a_stored_message_may_be_anything(hostile: str) -> None:
    """The same for what is read from the server's store."""
    parts = [properties["part"] for kind, properties in EVENTS if kind == "message.part.updated"]
    message = {"info": INFO, "parts": parts}

    for path in places(message):
        text = json.dumps(replaced(message, path, "HOSTILE")).replace('"HOSTILE"', hostile)
        stored = parse_stored(parse_json(text))
        messages = () if stored is None else (stored,)
        check_shown(reduce(Conversation(SESSION), Resynced(SESSION, messages)))
