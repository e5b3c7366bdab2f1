"""A tool call -> one folded line: what it did, how long, how it ended."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from opencode_magic.render import words
from opencode_magic.render.shapes import Code, Fold, Line, Span
from opencode_magic.render.visible import shorten, visible_line

if TYPE_CHECKING:
    from opencode_magic.core.parts import ToolPart
    from opencode_magic.core.receipt import HostCount, Receipt
    from opencode_magic.render.shapes import Block

OUTPUT_LIMIT_CHARS = 4_000
BLOCKED_LOOKED_AT = 100
"""The most frequent ones: a program that tries thousands of hosts must not cost the product."""
_MAIN_INPUT = {
    "bash": ("command",),
    "webfetch": ("url",),
    "read": ("filePath",),
    "write": ("filePath",),
    "edit": ("filePath",),
    "list": ("path",),
    "glob": ("pattern",),
    "grep": ("pattern",),
    "task": ("description",),
    "skill": ("name",),
}


def tool_fold(tool: ToolPart, receipt: Receipt | None, *, with_body: bool) -> Fold:
    """Give the row of a tool call; a call that the wall blocked is open.

    Args:
        tool: The call.
        receipt: What was blocked in its turn; None while that is not known yet.
        with_body: Whether a folded row carries its output. While a turn runs it does not, so that
            a frame stays small.
    """
    blocked = blocked_place(tool, receipt)
    is_open = blocked is not None
    left = (Span(visible_line(tool.tool, limit_chars=40), form="tool"), *_what(tool))
    body = _body(tool, blocked) if with_body or is_open else ()
    return Fold(left=left, right=_ending(tool, blocked), body=body, is_open=is_open)


def blocked_place(tool: ToolPart, receipt: Receipt | None) -> HostCount | None:
    """Give the place that this call was refused, as far as the receipt and the call agree.

    A call is taken for blocked where a host that was blocked in its turn is named in what it asked
    for and it did not simply succeed there, or is named in what it answered when it failed.
    """
    if receipt is None or tool.status not in {"completed", "error"}:
        return None
    has_failed = tool.status == "error" or tool.exit_code not in {None, 0}
    asked = "\n".join(value for value in tool.input.values() if isinstance(value, str))[:20_000]
    answered = f"{tool.error}\n{tool.output[:20_000]}" if has_failed else ""
    for place in receipt.blocked[:BLOCKED_LOOKED_AT]:
        if not has_failed and tool.tool == "webfetch":
            continue
        if (_names(asked, place.host) or _names(answered, place.host)) and (
            has_failed or not any(place.host == other.host for other in receipt.reached)
        ):
            return place
    return None


def _names(text: str, host: str) -> bool:
    if not host or host not in text.lower():
        return False
    pattern = rf"(?<![\w.-]){re.escape(host)}(?!\.?[\w-])"
    return re.search(pattern, text, re.IGNORECASE) is not None


def _what(tool: ToolPart) -> Line:
    for key in _MAIN_INPUT.get(tool.tool, ()):
        value = tool.input.get(key)
        if isinstance(value, str) and value.strip():
            return (Span(_first_line(value), form="mono"),)
    if tool.title:
        return (Span(visible_line(tool.title, limit_chars=120)),)
    texts = [value for value in tool.input.values() if isinstance(value, str) and value.strip()]
    return (Span(_first_line(texts[0]), form="mono"),) if texts else ()


def _first_line(text: str) -> str:
    lines = text.strip().split("\n", 1)
    return visible_line(lines[0], limit_chars=120) + (" …" if len(lines) > 1 else "")


def _ending(tool: ToolPart, blocked: HostCount | None) -> Line:
    took = ""
    if tool.ended_ms and tool.started_ms:
        took = words.seconds((tool.ended_ms - tool.started_ms) / 1000)
    if blocked is not None:
        return (Span("blocked by the wall", "warn"),)
    if tool.status in {"pending", "running"}:
        return (Span("running" if tool.status == "running" else "waiting", "active"),)
    if tool.status == "error":
        return (Span(", ".join(filter(None, (took, "failed"))), "bad"),)
    if tool.exit_code:
        return (Span(", ".join(filter(None, (took, f"exit {tool.exit_code}"))), "bad"),)
    ending = "" if tool.exit_code is None else "exit 0"
    return (Span(", ".join(filter(None, (took, ending))) or "done", "muted"),)


def _body(tool: ToolPart, blocked: HostCount | None) -> tuple[Block, ...]:
    blocks: list[Block] = []
    command = tool.input.get("command")
    if isinstance(command, str) and "\n" in command.strip():
        blocks.append(Code(_cut(command), "bash"))
    if tool.diff:
        blocks.append(Code(_cut(tool.diff), "diff"))
    text = tool.error or ("" if tool.diff else tool.output)
    if text.strip():
        blocks.append(Code(_cut(text)))
    if tool.is_truncated:
        blocks.append(Code("(the agent itself saw only a part of this output)"))
    if blocked is not None and not _names(text, blocked.host):
        blocks.append(Code(f"{_place(blocked)}: {blocked.reason or 'blocked'}"))
    return tuple(blocks)


def _place(place: HostCount) -> str:
    return f"{place.host}, port {place.port}" if place.port else place.host


def _cut(text: str) -> str:
    return shorten(text.strip("\n"), limit_chars=OUTPUT_LIMIT_CHARS, tail_chars=1_000)
