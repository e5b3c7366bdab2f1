"""OpenCode's JSON for messages, parts, faults and permission requests, to our types.

Nothing here raises: what is missing or of another type becomes the empty value of its field.
Source: OpenCode 1.18.33's ``/session/{id}/message`` and the properties of its events.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from opencode_magic.core.parts import (
    AgentFault,
    FilePart,
    Message,
    OtherPart,
    PatchPart,
    PermissionRequest,
    ReasoningPart,
    TextPart,
    Tokens,
    ToolPart,
    ToolStatus,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opencode_magic.core.parts import Part

_SURROGATE = re.compile("[\ud800-\udfff]")

LARGEST_NUMBER = 2**53


def as_object(value: object) -> Mapping[str, object]:
    """Give a JSON object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> Sequence[object]:
    """Give a JSON array; an empty one for anything else."""
    return value if isinstance(value, list) else ()


def as_text(value: object) -> str:
    """Give a JSON string; an empty one for anything else. Half surrogate pairs are replaced."""
    return without_surrogates(value) if isinstance(value, str) else ""


def without_surrogates(text: str) -> str:
    """Give text that can be encoded: half surrogate pairs become U+FFFD."""
    if text.isascii():
        return text
    return _SURROGATE.sub("\ufffd", text)


def as_int(value: object) -> int:
    """Give a JSON number as a whole one; 0 for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if -LARGEST_NUMBER < value < LARGEST_NUMBER else 0


def as_float(value: object) -> float:
    """Give a JSON number; 0 for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(value) if -LARGEST_NUMBER < value < LARGEST_NUMBER else 0.0


def as_texts(value: object) -> tuple[str, ...]:
    """Give the strings of a JSON array."""
    return tuple(as_text(item) for item in as_list(value) if isinstance(item, str))


def parse_stored(value: object) -> Message | None:
    """Give a stored message, ``{"info": ..., "parts": [...]}``; None where it has no id."""
    entry = as_object(value)
    parts = [parse_part(part) for part in as_list(entry.get("parts"))]
    found = tuple(part for part in parts if part is not None)
    return parse_message(entry.get("info"), found)


def parse_message(info: object, parts: tuple[Part, ...] = ()) -> Message | None:
    """Give a message from its ``info``; None where it has no id."""
    fields = as_object(info)
    message_id = as_text(fields.get("id"))
    if not message_id:
        return None
    role: Literal["user", "assistant"] = "user" if fields.get("role") == "user" else "assistant"
    time = as_object(fields.get("time"))
    model = as_object(fields.get("model"))
    error = fields.get("error")
    return Message(
        message_id=message_id,
        session_id=as_text(fields.get("sessionID")),
        role=role,
        parent_id=as_text(fields.get("parentID")),
        parts=parts,
        tokens=_tokens(fields.get("tokens")),
        cost=as_float(fields.get("cost")),
        finish=as_text(fields.get("finish")),
        fault=parse_fault(error) if error else None,
        is_summary=role == "assistant" and fields.get("summary") is True,
        created_ms=as_int(time.get("created")),
        completed_ms=as_int(time.get("completed")),
        provider_id=as_text(fields.get("providerID")) or as_text(model.get("providerID")),
        model_id=as_text(fields.get("modelID")) or as_text(model.get("modelID")),
    )


def _tokens(value: object) -> Tokens:
    fields = as_object(value)
    cache = as_object(fields.get("cache"))
    return Tokens(
        input=as_int(fields.get("input")),
        output=as_int(fields.get("output")),
        reasoning=as_int(fields.get("reasoning")),
        cache_read=as_int(cache.get("read")),
        cache_write=as_int(cache.get("write")),
    )


def parse_part(value: object) -> Part | None:  # noqa: PLR0911 - one arm a type
    """Give a part; None where it has no id or no message."""
    fields = as_object(value)
    part_id, message_id = as_text(fields.get("id")), as_text(fields.get("messageID"))
    if not part_id or not message_id:
        return None
    time = as_object(fields.get("time"))
    match fields.get("type"):
        case "text":
            return TextPart(
                part_id,
                message_id,
                as_text(fields.get("text")),
                is_final=as_int(time.get("end")) > 0,
                is_synthetic=fields.get("synthetic") is True or fields.get("ignored") is True,
            )
        case "reasoning":
            return ReasoningPart(
                part_id,
                message_id,
                as_text(fields.get("text")),
                is_final=as_int(time.get("end")) > 0,
                started_ms=as_int(time.get("start")),
                ended_ms=as_int(time.get("end")),
            )
        case "tool":
            return _tool(fields, part_id, message_id)
        case "file":
            return FilePart(
                part_id,
                message_id,
                as_text(fields.get("mime")),
                as_text(fields.get("filename")),
                as_text(fields.get("url")),
            )
        case "patch":
            return PatchPart(part_id, message_id, as_texts(fields.get("files")))
        case kind:
            return OtherPart(part_id, message_id, as_text(kind))


def _tool(fields: Mapping[str, object], part_id: str, message_id: str) -> ToolPart:
    state = as_object(fields.get("state"))
    metadata = as_object(state.get("metadata"))
    time = as_object(state.get("time"))
    output = as_text(state.get("output")) or as_text(metadata.get("output"))
    exit_code = metadata.get("exit")
    return ToolPart(
        part_id=part_id,
        message_id=message_id,
        call_id=as_text(fields.get("callID")),
        tool=as_text(fields.get("tool")),
        status=_tool_status(state.get("status")),
        input=as_object(state.get("input")),
        title=as_text(state.get("title")),
        output=output,
        error=as_text(state.get("error")),
        exit_code=as_int(exit_code) if isinstance(exit_code, int) else None,
        diff=as_text(metadata.get("diff")),
        is_truncated=metadata.get("truncated") is True,
        started_ms=as_int(time.get("start")),
        ended_ms=as_int(time.get("end")),
    )


def _tool_status(value: object) -> ToolStatus:
    match value:
        case "running" | "completed" | "error":
            return value
        case _:
            return "pending"


def parse_fault(value: object) -> AgentFault:
    """Give what a message's ``error``, an event's or an HTTP error body says."""
    fields = as_object(value)
    data = as_object(fields.get("data"))
    name = as_text(fields.get("name")) or as_text(fields.get("_tag")) or "UnknownError"
    message = as_text(data.get("message")) or as_text(fields.get("message"))
    status_code = as_int(data.get("statusCode"))
    return AgentFault(
        name=name,
        message=message or _issues(data) or name,
        status_code=status_code or None,
        is_retryable=data.get("isRetryable") is True,
    )


def _issues(data: Mapping[str, object]) -> str:
    """Join what a configuration error lists: where, and what is wrong there."""
    lines = []
    for item in as_list(data.get("issues")):
        issue = as_object(item)
        steps = as_list(issue.get("path"))
        place = ".".join(str(step) for step in steps if isinstance(step, str | int))
        lines.append(f"{place}: {as_text(issue.get('message'))}")
    return "; ".join(lines)


def parse_permission(value: object) -> PermissionRequest | None:
    """Give a permission request; None where it has no id."""
    fields = as_object(value)
    request_id = as_text(fields.get("id"))
    if not request_id:
        return None
    return PermissionRequest(
        request_id=request_id,
        session_id=as_text(fields.get("sessionID")),
        permission=as_text(fields.get("permission")),
        patterns=as_texts(fields.get("patterns")),
        always=as_texts(fields.get("always")),
        metadata=as_object(fields.get("metadata")),
        call_id=as_text(as_object(fields.get("tool")).get("callID")),
    )
