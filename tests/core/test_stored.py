"""Stored messages of OpenCode 1.18.33 to our values."""

from __future__ import annotations

import json

import pytest

from opencode_magic.core.parts import (
    AgentFault,
    FilePart,
    Message,
    OtherPart,
    Part,
    PatchPart,
    ReasoningPart,
    TextPart,
    ToolPart,
)
from opencode_magic.core.stored import (
    parse_fault,
    parse_message,
    parse_part,
    parse_permission,
    parse_stored,
)

IDS = {"id": "prt_1", "messageID": "msg_1", "sessionID": "ses_1"}
TOOL_STATE = {
    "status": "completed",
    "input": {"command": "ls"},
    "output": "a.txt",
    "title": "List",
    "metadata": {"output": "a.txt", "exit": 3, "truncated": True, "diff": "--- a"},
    "time": {"start": 1, "end": 2},
}
PARTS: list[tuple[dict[str, object], Part]] = [
    (
        {"type": "text", "text": "a", "synthetic": True},
        TextPart("prt_1", "msg_1", "a", is_synthetic=True),
    ),
    (
        {"type": "reasoning", "text": "a", "time": {"start": 1, "end": 2}},
        ReasoningPart("prt_1", "msg_1", "a", is_final=True, started_ms=1, ended_ms=2),
    ),
    (
        {"type": "tool", "callID": "call_1", "tool": "bash", "state": TOOL_STATE},
        ToolPart(
            "prt_1",
            "msg_1",
            "call_1",
            "bash",
            "completed",
            {"command": "ls"},
            "List",
            "a.txt",
            exit_code=3,
            diff="--- a",
            is_truncated=True,
            started_ms=1,
            ended_ms=2,
        ),
    ),
    (
        {
            "type": "tool",
            "tool": "bash",
            "state": {"status": "running", "metadata": {"output": "x", "exit": None}},
        },
        ToolPart("prt_1", "msg_1", "", "bash", "running", output="x"),
    ),
    (
        {"type": "tool", "tool": "bash", "state": {"status": "odd"}},
        ToolPart("prt_1", "msg_1", "", "bash", "pending"),
    ),
    (
        {"type": "file", "mime": "image/png", "filename": "p.png", "url": "data:,"},
        FilePart("prt_1", "msg_1", "image/png", "p.png", "data:,"),
    ),
    ({"type": "patch", "files": ["/w/a", 1]}, PatchPart("prt_1", "msg_1", ("/w/a",))),
    ({"type": "step-start"}, OtherPart("prt_1", "msg_1", "step-start")),
    ({"type": 7}, OtherPart("prt_1", "msg_1", "")),
]


@pytest.mark.parametrize(("fields", "expected"), PARTS)
def test_a_part_of_each_kind_is_read(fields: dict[str, object], expected: Part) -> None:
    """Kinds that are not shown keep their name and nothing else."""
    assert parse_part({**IDS, **fields}) == expected


def test_a_part_without_ids_is_no_part() -> None:
    """It could not be found again."""
    assert parse_part({"type": "text"}) is None


def test_a_stored_message_holds_its_parts() -> None:
    """Parts that cannot be read are left out."""
    stored = {
        "info": {"id": "msg_1", "role": "user", "model": {"providerID": "p", "modelID": "m"}},
        "parts": [{**IDS, "type": "text", "text": "hi"}, None],
    }

    parts = (TextPart("prt_1", "msg_1", "hi"),)
    expected = Message("msg_1", "", "user", parts=parts, provider_id="p", model_id="m")
    assert parse_stored(stored) == expected


def test_a_message_without_an_id_is_no_message() -> None:
    """It could not be found again."""
    assert parse_stored({"info": {}}) is None


def test_half_a_surrogate_pair_is_replaced() -> None:
    """A model can write one; it can be printed, saved and sent after this."""
    part = parse_part({**IDS, "type": "text", "text": "a\ud83cb"})

    assert part == TextPart("prt_1", "msg_1", "a\ufffdb")


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        ({"name": "UnknownError", "data": {"message": "x"}}, AgentFault("UnknownError", "x")),
        ({"_tag": "BadRequest"}, AgentFault("BadRequest", "BadRequest")),
        ({"message": "text"}, AgentFault("UnknownError", "text")),
        (
            {
                "name": "ConfigInvalidError",
                "data": {"issues": [{"path": ["a", 0], "message": "bad"}]},
            },
            AgentFault("ConfigInvalidError", "a.0: bad"),
        ),
        (
            {"name": "APIError", "data": {"message": "x", "statusCode": 503, "isRetryable": True}},
            AgentFault("APIError", "x", 503, is_retryable=True),
        ),
        ("nonsense", AgentFault("UnknownError", "UnknownError")),
    ],
)
def test_a_fault_of_each_shape_is_read(error: object, fault: AgentFault) -> None:
    """With a name, with a tag, with a list of issues, or with nothing."""
    assert parse_fault(error) == fault


@pytest.mark.parametrize(
    ("value", "expected"), [(float("nan"), 0), (float("inf"), 0), (10**400, 0), (True, 0), (2.9, 2)]
)
def test_odd_numbers_are_harmless(value: object, expected: int) -> None:
    """What is no whole number in JSON becomes 0 or is cut."""
    message = parse_stored({"info": {"id": "m", "time": {"created": value}, "cost": value}})

    assert message is not None
    assert message.created_ms == expected


def nested(depth: int) -> object:
    value: object = "\ud800"
    for _ in range(depth):
        value = [{"\udfff": value}]
    return value


def test_a_tools_input_can_be_stored_printed_and_compared() -> None:
    """However deep it is, and whatever half characters it has: it is cut, with a mark."""
    part = parse_part({**IDS, "type": "tool", "state": {"input": {"a": nested(300)}}})
    request = parse_permission({"id": "per_1", "metadata": {"a": nested(300)}})

    assert isinstance(part, ToolPart)
    assert request is not None
    for kept in (part.input, request.metadata):
        assert "…" in repr(kept)
        assert "\ufffd" in json.dumps(kept, ensure_ascii=False)
        json.dumps(kept, ensure_ascii=False).encode()


LONG = "x" * 5_000_000


def test_names_and_reasons_have_a_length() -> None:
    """What is shown beside an answer is cut, and says how much of it is left out."""
    message = parse_message(
        {
            "id": "msg_1",
            "modelID": LONG,
            "providerID": LONG,
            "finish": LONG,
            "error": {"name": LONG},
        }
    )
    tool = parse_part({**IDS, "type": "tool", "tool": LONG, "state": {"title": LONG}})
    file = parse_part({**IDS, "type": "file", "mime": LONG, "filename": LONG})
    fault = parse_fault({"name": LONG, "data": {"message": LONG}})
    issues = parse_fault({"data": {"issues": [{"path": [LONG, 1, []], "message": LONG}] * 1000}})

    for value in (message, tool, file, fault, issues):
        assert len(repr(value)) < 12_000
    assert fault.message.endswith("… (4,996,000 more characters)")


def test_an_id_has_a_length() -> None:
    """Ids are compared, kept and sent: what has thousands of characters is none."""
    assert parse_message({"id": LONG}) is None
    assert parse_part({**IDS, "type": "text", "messageID": LONG}) is None
    assert parse_permission({"id": LONG}) is None


def test_no_time_count_or_cost_is_negative() -> None:
    """They are added up and shown."""
    numbers = {"created": -1, "completed": -5, "input": -7, "output": -1e300}
    message = parse_message({"id": "msg_1", "time": numbers, "tokens": numbers, "cost": -1.0})

    assert message is not None
    assert (message.created_ms, message.completed_ms, message.cost) == (0, 0, 0.0)
    assert message.tokens.total == 0


def test_a_message_has_only_so_many_parts() -> None:
    """One more than a turn may have, so that the turn's limit says it."""
    parts = [{**IDS, "type": "text", "id": f"prt_{index}"} for index in range(20_000)]

    message = parse_stored({"info": {"id": "msg_1"}, "parts": parts})

    assert message is not None
    assert len(message.parts) == 10_001
