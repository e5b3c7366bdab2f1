"""What the scripted demo model says: a request, already parsed, to an answer. No model thinks here.

A prompt in plain words gets the tool calls that its words ask for, one after the other (listing
files, writing a file, running a command in backticks, fetching a URL), and then a report of what
the tools gave back.

A prompt with lines that start with ``!scripted`` gets exactly what these lines say; all other lines
are ignored. The tool lines run in their order, one a request; the rest makes the final answer:

* ``!scripted bash COMMAND``: call the bash tool (quotes around the command may be there or not)
* ``!scripted webfetch URL``, ``!scripted write PATH TEXT``, ``!scripted read PATH``: call that tool
* ``!scripted tool NAME JSON``: call any tool with these arguments
* ``!scripted say TEXT``: say this; before a tool line, in the same step as that call
* ``!scripted think TEXT``: reason first
* ``!scripted markdown BASE64``: say this text, UTF-8
* ``!scripted reply SIZE [PIECE [DELAY]]``: Markdown of exactly SIZE bytes (``2KB``, ``1MB``; K is
  1000) in pieces of PIECE characters (8 where it is not given), DELAY before each
* ``!scripted slow COUNT DELAY``: COUNT words, ``DELAY`` (``50ms``, ``1s``) before each
* ``!scripted echo``: repeat the whole prompt as it arrived
* ``!scripted digest``: say how many characters the prompt has and its SHA-256 in hex
* ``!scripted results``: repeat the tool results as they arrived
* ``!scripted finish REASON``: end with this reason (``length``, ``content_filter``)
* ``!scripted status CODE [RETRY_AFTER_S]``: answer with this HTTP status instead
* ``!scripted cut``: close the connection in the middle of the answer
* ``!scripted stall``: fall silent in the middle of the answer
* ``!scripted hang``: never answer
* ``!scripted wait DELAY``: wait this long before the answer begins
* ``!scripted usage TOKENS``: count so many tokens for the request
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from opencode_magic.local.demo_answer import Answer, Asked, Piece, ToolCall
from opencode_magic.local.demo_words import (
    INTRODUCTION,
    bash_call,
    paced_words,
    planned_calls,
    report,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LONGEST_WAIT_S = 600.0
LARGEST_REPLY_BYTES = 16_000_000
PIECES_LIMIT = 250_000
"""What one answer is sent in. Smaller pieces are joined, and directives beyond it do nothing."""

_DIRECTIVE = re.compile(r"^[ \t]*!scripted[ \t]+(.+)$", re.MULTILINE)


def answer(asked: Asked) -> Answer:
    """Give the answer to a request. The same request always has the same answer; never raises."""
    lines = [match.group(1).strip() for match in _DIRECTIVE.finditer(asked.prompt)]
    if lines:
        return _directed(asked, lines)
    steps = planned_calls(asked)
    done = len(asked.results)
    if done < len(steps):
        opening = "" if done else f"{INTRODUCTION} I call the tools that your words ask for."
        return Answer(paced_words(opening), call=steps[done])
    return Answer(paced_words(report(asked)))


def _directed(asked: Asked, lines: Sequence[str]) -> Answer:
    """Follow the directives: the tool lines that are not done yet, or the final answer."""
    done = len(asked.results)
    seen, spoken = 0, Answer()
    for line in lines:
        if len(spoken.pieces) >= PIECES_LIMIT:
            break
        verb, _, rest = line.partition(" ")
        rest = rest.strip()
        if verb in _TOOLS:
            if seen == done:
                return replace(spoken, call=_TOOLS[verb](rest))
            seen, spoken = seen + 1, Answer()
        elif verb in _SPOKEN:
            spoken = _SPOKEN[verb](spoken, rest, asked)
        else:
            spoken = _added(spoken, f"(unknown directive: {verb})")
    return spoken


def _added(spoken: Answer, *texts: str, kind: Literal["text", "reasoning"] = "text") -> Answer:
    return replace(spoken, pieces=(*spoken.pieces, *(Piece(text, kind) for text in texts)))


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text


def _call_write(rest: str) -> ToolCall:
    path, _, text = rest.partition(" ")
    return ToolCall("write", {"filePath": path, "content": f"{text}\n"})


def _call_any(rest: str) -> ToolCall:
    name, _, arguments = rest.partition(" ")
    try:
        parsed = json.loads(arguments or "{}")
    except ValueError:
        parsed = {}
    return ToolCall(name, parsed if isinstance(parsed, dict) else {})


_TOOLS: Mapping[str, Callable[[str], ToolCall]] = {
    "bash": lambda rest: bash_call(_unquoted(rest), "Scripted command"),
    "webfetch": lambda rest: ToolCall("webfetch", {"url": rest, "format": "text"}),
    "write": _call_write,
    "read": lambda rest: ToolCall("read", {"filePath": rest}),
    "tool": _call_any,
}


def _markdown(spoken: Answer, rest: str, _asked: Asked) -> Answer:
    try:
        text = base64.b64decode(rest, validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        text = "(not base64)"
    return _added(spoken, *_cut(text, 8))


def _reply(spoken: Answer, rest: str, _asked: Asked) -> Answer:
    size, piece, delay = (*rest.split(), "", "", "")[:3]
    length = int(piece) if piece.isdecimal() and int(piece) > 0 else 8
    pause_s = _delay(delay, 0.0)
    texts = _cut(sized_markdown(_size(size)), length)
    pieces = tuple(Piece(text, pause_s=pause_s) for text in texts)
    return replace(spoken, pieces=(*spoken.pieces, *pieces))


def _slow(spoken: Answer, rest: str, _asked: Asked) -> Answer:
    count, _, delay = rest.partition(" ")
    words = int(count) if count.isdecimal() else 10
    pause_s = _delay(delay, 0.05)
    pieces = tuple(Piece(f"word{index} ", pause_s=pause_s) for index in range(min(words, 100_000)))
    return replace(spoken, pieces=(*spoken.pieces, *pieces))


def _digest(spoken: Answer, _rest: str, asked: Asked) -> Answer:
    digest = hashlib.sha256(asked.prompt.encode("utf-8", "surrogatepass")).hexdigest()
    return _added(spoken, f"{len(asked.prompt)} characters, sha256 {digest}")


def _results(spoken: Answer, _rest: str, asked: Asked) -> Answer:
    return _added(spoken, "\n\n".join(result.output for result in asked.results))


def _status(spoken: Answer, rest: str, _asked: Asked) -> Answer:
    code, _, after = rest.partition(" ")
    status = int(code) if code.isdecimal() and 400 <= int(code) <= 599 else 500  # noqa: PLR2004 - error codes
    return replace(spoken, status=status, retry_after_s=int(after) if after.isdecimal() else None)


_SPOKEN: Mapping[str, Callable[[Answer, str, Asked], Answer]] = {
    "say": lambda spoken, rest, _: _added(spoken, _unquoted(rest)),
    "think": lambda spoken, rest, _: _added(spoken, _unquoted(rest), kind="reasoning"),
    "markdown": _markdown,
    "reply": _reply,
    "slow": _slow,
    "echo": lambda spoken, _, asked: _added(spoken, *_cut(asked.prompt, 64)),
    "digest": _digest,
    "results": _results,
    "finish": lambda spoken, rest, _: replace(spoken, finish=rest or "stop"),
    "status": _status,
    "cut": lambda spoken, _, __: replace(spoken, trouble="cut"),
    "stall": lambda spoken, _, __: replace(spoken, trouble="stall"),
    "hang": lambda spoken, _, __: replace(spoken, trouble="hang"),
    "usage": lambda spoken, rest, _: replace(
        spoken, usage_tokens=int(rest) if rest.isdecimal() else None
    ),
    "wait": lambda spoken, rest, _: replace(spoken, wait_s=_delay(rest, 1.0)),
}


def _cut(text: str, length: int) -> list[str]:
    length = max(length, -(-len(text) // PIECES_LIMIT))
    return [text[start : start + length] for start in range(0, len(text), length)]


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,9})(KB|MB|B)?", text, re.IGNORECASE)
    if not match:
        return 2_000
    unit = {"KB": 1_000, "MB": 1_000_000}.get((match.group(2) or "").upper(), 1)
    return min(int(match.group(1)) * unit, LARGEST_REPLY_BYTES)


def _delay(text: str, default_s: float) -> float:
    match = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)(ms|s)?", text.strip())
    if not match:
        return default_s
    value = float(match.group(1)) / (1000 if match.group(2) == "ms" else 1)
    return min(value, LONGEST_WAIT_S)


def sized_markdown(size_bytes: int) -> str:
    """Give Markdown of exactly so many bytes: headings, lists, code and prose, all ASCII."""
    sections: list[str] = []
    total = 0
    while total < size_bytes:
        section = _SECTION.format(len(sections) + 1)
        sections.append(section)
        total += len(section)
    return "".join(sections)[:size_bytes]


_SECTION = """## Section {0}

This is scripted text with **bold** words, `code` and a [link](https://docs.example.com/{0}).

- first point of section {0}
- second point, a little longer than the first one

```python
def section_{0}(values):
    return [value * {0} for value in values if value]
```

"""
