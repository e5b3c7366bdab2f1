from __future__ import annotations

import time
from dataclasses import replace

import pytest

from opencode_magic.core.parts import ToolPart
from opencode_magic.core.receipt import HostCount, Receipt
from opencode_magic.render.shapes import Code, Span
from opencode_magic.render.tools import OUTPUT_LIMIT_CHARS, blocked_place, tool_fold

PLACE = HostCount("example.com", 443, 1, "not in the network policy")
RECEIPT = Receipt((HostCount("ok.example", 443, 2),), (PLACE,), "firewall record", is_complete=True)
TOOL = ToolPart("p", "m", "c", "bash", "completed", started_ms=1_000, ended_ms=1_100)


def _bash(command: str, **changes: object) -> ToolPart:
    return replace(TOOL, input={"command": command}, **changes)  # type: ignore[arg-type] # - fields


@pytest.mark.parametrize(
    "tool",
    [
        _bash("curl https://example.com", exit_code=7, output="curl: (7)"),
        _bash("curl https://EXAMPLE.com || true", exit_code=0),
        _bash("python fetch.py", exit_code=1, output="cannot reach example.com:443"),
        replace(TOOL, tool="webfetch", status="error", input={"url": "https://example.com/a"}),
        replace(TOOL, tool="task", status="error", error="example.com refused"),
    ],
)
def test_blocked(tool: ToolPart) -> None:
    """A call that named a blocked host and did not get through was blocked by the wall."""
    assert blocked_place(tool, RECEIPT) == PLACE


@pytest.mark.parametrize(
    "tool",
    [
        _bash("ls", exit_code=0, output="example.com.txt"),
        _bash("grep x notes", exit_code=0, output="example.com"),
        _bash("curl https://notexample.com", exit_code=6),
        _bash("curl https://example.community", exit_code=6),
        _bash("curl https://example.com", status="running"),
        replace(TOOL, tool="webfetch", input={"url": "https://example.com"}),
        replace(TOOL, input={"count": 3}),
    ],
)
def test_not_blocked(tool: ToolPart) -> None:
    """A call that asked for no blocked host, or that succeeded, was not."""
    assert blocked_place(tool, RECEIPT) is None


def test_blocked_needs_a_receipt() -> None:
    """Without a receipt, or where the host was reached as well, nothing is claimed."""
    tool = _bash("curl https://example.com", exit_code=0)
    reached = replace(RECEIPT, reached=(replace(PLACE, reason=""),))
    nameless = replace(RECEIPT, blocked=(replace(PLACE, host=""),))

    assert blocked_place(tool, None) is None
    assert blocked_place(tool, reached) is None
    assert blocked_place(tool, nameless) is None


@pytest.mark.parametrize(
    ("tool", "what"),
    [
        (_bash("ls -l"), (Span("ls -l", form="mono"),)),
        (_bash("make\nmake test"), (Span("make …", form="mono"),)),
        (_bash(" "), ()),
        (replace(TOOL, tool="read", input={"filePath": "/a"}), (Span("/a", form="mono"),)),
        (replace(TOOL, tool="odd", title="A title"), (Span("A title"),)),
        (replace(TOOL, tool="odd", input={"n": 1, "x": "y"}), (Span("y", form="mono"),)),
        (replace(TOOL, tool="odd"), ()),
    ],
)
def test_what(tool: ToolPart, what: tuple[Span, ...]) -> None:
    """The row says what the call did, by its main input or its title."""
    fold = tool_fold(tool, None, with_body=False)

    assert fold.left == (Span(tool.tool, form="tool"), *what)


@pytest.mark.parametrize(
    ("tool", "ending"),
    [
        (replace(TOOL, exit_code=0), Span("0.10 s, exit 0", "muted")),
        (replace(TOOL, exit_code=2), Span("0.10 s, exit 2", "bad")),
        (TOOL, Span("0.10 s", "muted")),
        (replace(TOOL, started_ms=0), Span("done", "muted")),
        (replace(TOOL, status="error"), Span("0.10 s, failed", "bad")),
        (replace(TOOL, status="error", ended_ms=0), Span("failed", "bad")),
        (replace(TOOL, status="running"), Span("running", "active")),
        (replace(TOOL, status="pending"), Span("waiting", "active")),
        (_bash("curl example.com", exit_code=1), Span("blocked by the wall", "warn")),
    ],
)
def test_ending(tool: ToolPart, ending: Span) -> None:
    """The row ends with how long the call took and how it ended."""
    assert tool_fold(tool, RECEIPT, with_body=False).right == (ending,)


def test_body() -> None:
    """A row opens onto the whole command, the change, and the error or the output."""
    tool = _bash("a\nb", output="out\n", is_truncated=True)

    assert tool_fold(tool, None, with_body=True).body == (
        Code("a\nb", "bash"),
        Code("out"),
        Code("(the agent itself saw only a part of this output)"),
    )
    assert tool_fold(replace(TOOL, diff="+a\n", output="x"), None, with_body=True).body == (
        Code("+a", "diff"),
    )
    assert tool_fold(tool, None, with_body=False).body == ()


def test_blocked_body() -> None:
    """A blocked row is open, and says why where the tool does not name the host itself."""
    fold = tool_fold(_bash("curl -s example.com", exit_code=7), RECEIPT, with_body=False)
    nowhere = replace(RECEIPT, blocked=(replace(PLACE, port=0, reason=""),))
    other = tool_fold(_bash("curl -s example.com", exit_code=7), nowhere, with_body=False)

    assert fold.is_open
    assert fold.body == (Code("example.com, port 443: not in the network policy"),)
    assert other.body == (Code("example.com: blocked"),)


def test_long_output() -> None:
    """Of a long output the beginning and the end are shown."""
    fold = tool_fold(replace(TOOL, output="a" * 9_000 + "z"), None, with_body=True)

    (code,) = fold.body
    assert isinstance(code, Code)
    assert len(code.text) == OUTPUT_LIMIT_CHARS
    assert code.text.endswith("aaz")


def test_many_blocked_hosts_cost_little() -> None:
    """Each call is compared with the most frequent ones only."""
    places = tuple(HostCount(f"a{number}.example", 443, 1, "r") for number in range(100_000))
    receipt = replace(RECEIPT, blocked=places, reached=places)
    started = time.monotonic()

    for _ in range(500):
        assert blocked_place(_bash("false", exit_code=1, output="word\n" * 4000), receipt) is None

    assert blocked_place(_bash("curl a99.example", exit_code=6), receipt) == places[99]
    assert time.monotonic() - started < 20
