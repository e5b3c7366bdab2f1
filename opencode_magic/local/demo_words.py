"""Plain words to tool calls, and tool results to a report: the demo model's fixed rules."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from opencode_magic.local.demo_answer import Piece, ToolCall

if TYPE_CHECKING:
    from opencode_magic.local.demo_answer import Asked, ToolResult

WORD_PAUSE_S = 0.012
"""Between the words of an answer in plain words, so that a reader sees it stream."""

QUOTED_CHARS = 1_500
"""So much of a tool's result is repeated in a report."""

INTRODUCTION = (
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


def planned_calls(asked: Asked) -> list[ToolCall]:
    """Give the tool calls that the prompt's words ask for, in order; only of tools there are."""
    prompt, steps = asked.prompt, []
    if _LISTING.search(prompt):
        steps.append(bash_call("ls -la", "List the files of the workspace"))
    name = _FILE_NAME.search(prompt)
    if name and _WRITING.search(prompt):
        path = name.group(1)
        steps.append(ToolCall("write", {"filePath": path, "content": _content(path)}))
        if path.endswith(".py") and _RUNNING.search(prompt):
            steps.append(bash_call(f"python3 {path}", "Run the file"))
    steps += [
        bash_call(match.group(1), "Run the command from the prompt")
        for match in _COMMAND.finditer(prompt)
    ]
    urls = [match.group(0).rstrip(".,;:!?") for match in _URL.finditer(prompt)]
    if not urls:
        urls = [f"https://{match.group(1)}/" for match in _NAMED_HOST.finditer(prompt)]
    steps += [ToolCall("webfetch", {"url": url, "format": "text"}) for url in dict.fromkeys(urls)]
    return [step for step in steps if not asked.tools or step.tool in asked.tools]


def bash_call(command: str, description: str) -> ToolCall:
    """Give a call of the bash tool."""
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


def report(asked: Asked) -> str:
    """Tell what the tools gave back, as Markdown; without any, what this model is."""
    if not asked.results:
        return (
            f"{INTRODUCTION}\n\nI can still show you the agent at work. Ask me to:\n\n"
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
    if answered := _ANSWERED.search(result.output[:400]):
        return (
            f"**I did not get {url}.** What answered there said {answered.group(1)}: the host "
            "itself, or the sandbox's wall. The receipt below says which."
        )
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


_ANSWERED = re.compile(r"(?:status code[: (]+)([1345]\d\d)\b", re.IGNORECASE)
_FAILED_FETCH = re.compile(
    r"unable to connect|connection ?refused|econn|enotfound|typo in the url|transport error"
    r"|request failed|failed to (?:fetch|connect)|fetch failed|socket (?:hang|connection)"
    r"|unable to verify|certificate|timed out|was closed unexpectedly",
    re.IGNORECASE,
)


def _quoted(head: str, result: ToolResult) -> str:
    output = result.output.strip("\n")
    if len(output) > QUOTED_CHARS:
        output = f"{output[:QUOTED_CHARS]}\n…"
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", output)), default=0))
    return f"{head}:\n\n{fence}text\n{output}\n{fence}"


def paced_words(text: str) -> tuple[Piece, ...]:
    """Cut text into words that come one after the other."""
    return tuple(Piece(word, pause_s=WORD_PAUSE_S) for word in re.findall(r"\s*\S+|\s+$", text))
