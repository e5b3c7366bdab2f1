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
* ``!scripted reply SIZE [PIECE]``: Markdown of exactly SIZE bytes (``2KB``, ``1MB``; K is 1000) in
  pieces of PIECE characters (8 where it is not given)
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
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Trouble = Literal["", "cut", "stall", "hang"]

WORD_PAUSE_S = 0.012
"""Between the words of an answer in plain words, so that a reader sees it stream."""

LONGEST_WAIT_S = 600.0
LARGEST_REPLY_BYTES = 16_000_000
QUOTED_CHARS = 1_500
"""So much of a tool's result is repeated in a report."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What one tool call of this turn gave back."""

    tool: str
    arguments: Mapping[str, object]
    output: str
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to the model, whatever protocol brought it."""

    prompt: str
    """The last thing the user said."""
    results: tuple[ToolResult, ...] = ()
    """Tool results since then, oldest first."""
    tools: frozenset[str] = frozenset()
    model: str = ""
    size_chars: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of the stream, sent after a pause."""

    text: str
    kind: Literal["text", "reasoning"] = "text"
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the agent is to make."""

    tool: str
    arguments: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What to stream back."""

    pieces: tuple[Piece, ...] = ()
    call: ToolCall | None = None
    finish: str = "stop"
    wait_s: float = 0.0
    trouble: Trouble = ""
    status: int = 200
    retry_after_s: int | None = None

    @property
    def text(self) -> str:
        """The whole text without its pacing."""
        return "".join(piece.text for piece in self.pieces if piece.kind == "text")


def answer(asked: Asked) -> Answer:
    """Give the answer to a request. The same request always has the same answer; never raises."""
    lines = [match.group(1).strip() for match in _DIRECTIVE.finditer(asked.prompt)]
    if lines:
        return _directed(asked, lines)
    steps = _planned(asked)
    done = len(asked.results)
    if done < len(steps):
        opening = "" if done else f"{_INTRODUCTION} I call the tools that your words ask for.\n\n"
        return Answer(_words(opening), call=steps[done])
    return Answer(_words(_report(asked)))


_DIRECTIVE = re.compile(r"^[ \t]*!scripted[ \t]+(.+)$", re.MULTILINE)
_INTRODUCTION = (
    "I am the **scripted demo model**: no language model runs here, my answers follow fixed rules."
)
_URL = re.compile(r"https?://[^\s<>\"'`)\]]+")
_NAMED_HOST = re.compile(
    r"\b(?:fetch|visit|open|reach|download|get|contact|read|call)\b[^.\n]{0,30}?\s"
    r"((?:[a-z0-9-]+\.)+(?:com|org|net|dev|io|sh|test|example))\b",
    re.IGNORECASE,
)
_LISTING = re.compile(
    r"\b(?:list|show|ls|what|which|look at)\b[^.?!\n]{0,60}"
    r"\b(?:files?|folders?|director(?:y|ies)|workspace)\b",
    re.IGNORECASE,
)
_WRITING = re.compile(r"\b(?:write|create|make|save|add)\b", re.IGNORECASE)
_FILE_NAME = re.compile(r"(?<![\w/.:-])((?:[\w-]+/)*[\w-]+\.(?:py|txt|md|json|csv|toml|html|sh))\b")
_COMMAND = re.compile(r"\brun\b[^`\n]{0,40}`([^`\n]+)`", re.IGNORECASE)
_RUNNING = re.compile(r"\brun (?:it|the file|that)\b", re.IGNORECASE)


def _planned(asked: Asked) -> list[ToolCall]:
    prompt, steps = asked.prompt, []
    if _LISTING.search(prompt):
        steps.append(_bash("ls -la", "List the files of the workspace"))
    name = _FILE_NAME.search(prompt)
    if name and _WRITING.search(prompt):
        path = name.group(1)
        steps.append(ToolCall("write", {"filePath": path, "content": _content(path)}))
        if path.endswith(".py") and _RUNNING.search(prompt):
            steps.append(_bash(f"python3 {path}", "Run the file"))
    steps += [
        _bash(match.group(1), "Run the command from the prompt")
        for match in _COMMAND.finditer(prompt)
    ]
    urls = [match.group(0).rstrip(".,;:!?") for match in _URL.finditer(prompt)]
    if not urls:
        urls = [f"https://{match.group(1)}/" for match in _NAMED_HOST.finditer(prompt)]
    steps += [ToolCall("webfetch", {"url": url, "format": "text"}) for url in dict.fromkeys(urls)]
    return [step for step in steps if not asked.tools or step.tool in asked.tools]


def _bash(command: str, description: str) -> ToolCall:
    return ToolCall("bash", {"command": command, "description": description})


def _content(path: str) -> str:
    suffix = path.rpartition(".")[2]
    texts = {
        "py": 'print("Hello from the sandbox")\n',
        "json": '{"written_by": "the scripted demo model"}\n',
        "csv": "name,value\nalpha,1\nbeta,2\n",
        "sh": "echo Hello from the sandbox\n",
    }
    return texts.get(suffix, "Written by the scripted demo model.\n")


def _report(asked: Asked) -> str:
    if not asked.results:
        return (
            f"{_INTRODUCTION}\n\nI can still show you the agent at work. Ask me to:\n\n"
            "- list the files in the workspace\n"
            "- create a file, such as `hello.py`, and run it\n"
            "- run a command in backticks\n"
            "- fetch a URL, and see the sandbox's wall refuse it\n\n"
            "For real answers, set a provider's key and launch again with `--model`.\n"
        )
    parts = [_told(result) for result in asked.results]
    return "\n\n".join([*parts, "_Scripted demo model: fixed rules, real tool calls._"]) + "\n"


def _told(result: ToolResult) -> str:
    match result.tool:
        case "webfetch":
            return _told_fetch(result)
        case "write":
            path = result.arguments.get("filePath", "the file")
            return (
                f"I wrote `{path}`." if not result.is_error else _quoted("Writing failed", result)
            )
        case "bash":
            return _quoted(f"I ran `{result.arguments.get('command', '')}`", result)
        case _:
            return _quoted(f"The `{result.tool}` tool answered", result)


def _told_fetch(result: ToolResult) -> str:
    url = result.arguments.get("url", "")
    if result.is_error or looks_refused(result.output):
        reason = " ".join(result.output.split())[:300].replace("`", "'")
        return (
            f"**I could not reach {url}.** The sandbox's wall refused it: only the hosts that the "
            f"network policy allows can be reached from here. The tool reported: `{reason}`"
        )
    return _quoted(f"I fetched {url}", result)


def looks_refused(output: str) -> bool:
    """Tell a failed fetch from a page, for protocols that do not mark a tool's error."""
    return bool(_FAILED_FETCH.search(output[:400]))


_FAILED_FETCH = re.compile(
    r"unable to connect|connection ?refused|econn|enotfound|typo in the url|transport error"
    r"|request failed|failed to (?:fetch|connect)|fetch failed|socket (?:hang|connection)"
    r"|status code: [45]\d\d|unable to verify|certificate|timed out|was closed unexpectedly",
    re.IGNORECASE,
)


def _quoted(head: str, result: ToolResult) -> str:
    output = result.output.strip("\n")
    if len(output) > QUOTED_CHARS:
        output = f"{output[:QUOTED_CHARS]}\n…"
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", output)), default=0))
    return f"{head}:\n\n{fence}text\n{output}\n{fence}"


def _words(text: str) -> tuple[Piece, ...]:
    return tuple(Piece(word, pause_s=WORD_PAUSE_S) for word in re.findall(r"\s*\S+|\s+$", text))


def _directed(asked: Asked, lines: Sequence[str]) -> Answer:
    """Follow the directives: the tool lines that are not done yet, or the final answer."""
    done = len(asked.results)
    seen, spoken = 0, Answer()
    for line in lines:
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
    "bash": lambda rest: _bash(_unquoted(rest), "Scripted command"),
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
    size, _, piece = rest.partition(" ")
    length = int(piece) if piece.isdecimal() and int(piece) > 0 else 8
    return _added(spoken, *_cut(sized_markdown(_size(size)), length))


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
    "wait": lambda spoken, rest, _: replace(spoken, wait_s=_delay(rest, 1.0)),
}


def _cut(text: str, length: int) -> list[str]:
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
