"""OpenCode's JSON for messages, parts, faults and permission requests, to our types.

Nothing here raises: what is missing or of another type becomes the empty value of its field.
Source: OpenCode 1.18.33's ``/session/{id}/message`` and the properties of its events.
"""

from __future__ import annotations

import re
from itertools import islice
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
ID_CHARS = 200
"""OpenCode's ids have 30."""
NAME_CHARS = 1_000
"""A model, a tool, a file, a title: longer ones are cut, with a mark."""
FAULT_CHARS = 4_000
"""What went wrong; a provider's answer may stand in it."""
LONGEST_LIST = 10_000
"""Patterns of a request, files of a patch; what comes after is left out."""
ISSUES_SHOWN = 20
DEPTH_LIMIT = 32
"""How deep a tool's input is kept: code that prints or compares it must not run out of stack."""


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


def as_count(value: object) -> int:
    """Give a JSON number as a whole one that is not negative: a time, a number of tokens."""
    return max(0, as_int(value))


def as_texts(value: object) -> tuple[str, ...]:
    """Give the first strings of a JSON array."""
    first = islice(as_list(value), LONGEST_LIST)
    return tuple(as_text(item) for item in first if isinstance(item, str))


def as_id(value: object) -> str:
    """Give an id; an empty one for what cannot be one."""
    if not isinstance(value, str) or len(value) > ID_CHARS:
        return ""
    return value if value.isascii() else without_surrogates(value)


def as_name(value: object, *, limit_chars: int = NAME_CHARS) -> str:
    """Give a JSON string, cut after so many characters with a mark of how many are left out."""
    if not isinstance(value, str):
        return ""
    found = value if value.isascii() else without_surrogates(value)
    if len(found) <= limit_chars:
        return found
    return f"{found[:limit_chars]}… ({len(found) - limit_chars:,} more characters)"


def as_plain(value: object, *, depth: int = DEPTH_LIMIT) -> object:
    """Give a JSON value with text that can be encoded; what is deeper than so much becomes "…"."""
    if isinstance(value, str):
        return without_surrogates(value)
    if not isinstance(value, dict | list):
        return value
    if depth == 0:
        return "…"
    if isinstance(value, list):
        return [as_plain(item, depth=depth - 1) for item in value]
    return {
        without_surrogates(name): as_plain(item, depth=depth - 1) for name, item in value.items()
    }


def as_plain_object(value: object) -> Mapping[str, object]:
    """Give a JSON object, made plain; an empty one for anything else."""
    return as_object(as_plain(value)) if isinstance(value, dict) else {}


def parse_stored(value: object) -> Message | None:
    """Give a stored message, ``{"info": ..., "parts": [...]}``; None where it has no id."""
    entry = as_object(value)
    first = islice(as_list(entry.get("parts")), LONGEST_LIST + 1)
    parts = [parse_part(part) for part in first]
    found = tuple(part for part in parts if part is not None)
    return parse_message(entry.get("info"), found)


def parse_message(info: object, parts: tuple[Part, ...] = ()) -> Message | None:
    """Give a message from its ``info``; None where it has no id."""
    fields = as_object(info)
    message_id = as_id(fields.get("id"))
    if not message_id:
        return None
    role: Literal["user", "assistant"] = "user" if fields.get("role") == "user" else "assistant"
    time = as_object(fields.get("time"))
    model = as_object(fields.get("model"))
    error = fields.get("error")
    return Message(
        message_id=message_id,
        session_id=as_id(fields.get("sessionID")),
        role=role,
        parent_id=as_id(fields.get("parentID")),
        parts=parts,
        tokens=_tokens(fields.get("tokens")),
        cost=max(0.0, as_float(fields.get("cost"))),
        finish=as_name(fields.get("finish")),
        fault=parse_fault(error) if error else None,
        is_summary=role == "assistant" and fields.get("summary") is True,
        created_ms=as_count(time.get("created")),
        completed_ms=as_count(time.get("completed")),
        provider_id=as_name(fields.get("providerID")) or as_name(model.get("providerID")),
        model_id=as_name(fields.get("modelID")) or as_name(model.get("modelID")),
    )


def _tokens(value: object) -> Tokens:
    fields = as_object(value)
    cache = as_object(fields.get("cache"))
    return Tokens(
        input=as_count(fields.get("input")),
        output=as_count(fields.get("output")),
        reasoning=as_count(fields.get("reasoning")),
        cache_read=as_count(cache.get("read")),
        cache_write=as_count(cache.get("write")),
    )


def parse_part(value: object) -> Part | None:  # noqa: PLR0911 - one arm a type
    """Give a part; None where it has no id or no message."""
    fields = as_object(value)
    part_id, message_id = as_id(fields.get("id")), as_id(fields.get("messageID"))
    if not part_id or not message_id:
        return None
    time = as_object(fields.get("time"))
    match fields.get("type"):
        case "text":
            return TextPart(
                part_id,
                message_id,
                as_text(fields.get("text")),
                is_final=as_count(time.get("end")) > 0,
                is_synthetic=fields.get("synthetic") is True or fields.get("ignored") is True,
            )
        case "reasoning":
            return ReasoningPart(
                part_id,
                message_id,
                as_text(fields.get("text")),
                is_final=as_count(time.get("end")) > 0,
                started_ms=as_count(time.get("start")),
                ended_ms=as_count(time.get("end")),
            )
        case "tool":
            return _tool(fields, part_id, message_id)
        case "file":
            return FilePart(
                part_id,
                message_id,
                as_name(fields.get("mime")),
                as_name(fields.get("filename")),
                as_text(fields.get("url")),
            )
        case "patch":
            return PatchPart(part_id, message_id, as_texts(fields.get("files")))
        case kind:
            return OtherPart(part_id, message_id, as_name(kind))


def _tool(fields: Mapping[str, object], part_id: str, message_id: str) -> ToolPart:
    state = as_object(fields.get("state"))
    metadata = as_object(state.get("metadata"))
    time = as_object(state.get("time"))
    output = as_text(state.get("output")) or as_text(metadata.get("output"))
    exit_code = metadata.get("exit")
    return ToolPart(
        part_id=part_id,
        message_id=message_id,
        call_id=as_id(fields.get("callID")),
        tool=as_name(fields.get("tool")),
        status=_tool_status(state.get("status")),
        input=as_plain_object(state.get("input")),
        title=as_name(state.get("title")),
        output=output,
        error=as_text(state.get("error")),
        exit_code=as_int(exit_code) if isinstance(exit_code, int) else None,
        diff=as_text(metadata.get("diff")),
        is_truncated=metadata.get("truncated") is True,
        started_ms=as_count(time.get("start")),
        ended_ms=as_count(time.get("end")),
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
    name = as_name(fields.get("name")) or as_name(fields.get("_tag")) or "UnknownError"
    message = as_text(data.get("message")) or as_text(fields.get("message"))
    status_code = as_count(data.get("statusCode"))
    return AgentFault(
        name=name,
        message=as_name(message or _issues(data) or name, limit_chars=FAULT_CHARS),
        status_code=status_code or None,
        is_retryable=data.get("isRetryable") is True,
    )


def _issues(data: Mapping[str, object]) -> str:
    """Join what a configuration error lists: where, and what is wrong there."""
    lines = []
    for item in islice(as_list(data.get("issues")), ISSUES_SHOWN):
        issue = as_object(item)
        steps = islice(as_list(issue.get("path")), ISSUES_SHOWN)
        place = ".".join(as_name(str(step)) for step in steps if isinstance(step, str | int))
        lines.append(f"{place}: {as_name(issue.get('message'))}")
    return "; ".join(lines)


def parse_permission(value: object) -> PermissionRequest | None:
    """Give a permission request; None where it has no id."""
    fields = as_object(value)
    request_id = as_id(fields.get("id"))
    if not request_id:
        return None
    return PermissionRequest(
        request_id=request_id,
        session_id=as_id(fields.get("sessionID")),
        permission=as_name(fields.get("permission")),
        patterns=as_texts(fields.get("patterns")),
        always=as_texts(fields.get("always")),
        metadata=as_plain_object(fields.get("metadata")),
        call_id=as_id(as_object(fields.get("tool")).get("callID")),
    )
