"""Turns on a hostile agent server: the kernel's memory and the notebook stay within limits."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opencode_magic.agent.reader import EventReader
from opencode_magic.agent.turn import run_turn
from opencode_magic.core.prompt import Prompt
from tests.agent.hostile import (
    PASSWORD,
    SESSION,
    client_of,
    event,
    events,
    head,
    hostile_server,
    says,
)
from tests.agent.views import RememberingView, ToldApprover

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opencode_magic.agent.client import AgentClient
    from opencode_magic.core.conversation import PermissionRequest
    from opencode_magic.core.parts import Turn
    from opencode_magic.core.permissions import PermissionReply

PEAK_MB = 700
"""A kernel without any of it takes 70 MB; the limits allow some hundreds."""
SHOWN_BYTES = 60_000_000
"""What the notebook keeps of it."""
PUBLISHED_BYTES = 120_000_000
"""All frames together."""
LIMIT_S = 90
ROOT = Path(__file__).parents[2]


@dataclass
class Ended:
    """How the turn ended, as ``tests.agent.victim`` tells it."""

    state: str
    error: str
    next_step: str
    text: str
    text_chars: int
    tools: int
    parts: int
    is_interrupted: bool
    finals: int
    took_s: float
    shown_bytes: int
    published_bytes: int
    peak_mb: int
    threads: list[str] = field(default_factory=list)


def turn_on(
    speech: Callable[[], Iterable[bytes]], *, stop_after_s: float = 0.0, is_honest: bool = False
) -> Ended:
    """Have a turn in a process of its own while the server's event stream says this."""
    with hostile_server() as server:
        server.stream(_then(speech(), server.finish) if is_honest else speech())
        command = [sys.executable, "-m", "tests.agent.victim", server.url, PASSWORD]
        if stop_after_s:
            command.append(str(stop_after_s))
        found = subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=False, cwd=ROOT)
    assert found.returncode == 0, found.stderr.decode()[-2000:]
    return Ended(**json.loads(found.stdout))


def _then(speech: Iterable[bytes], action: Callable[[], None]) -> Iterator[bytes]:
    yield from speech
    action()


def message(number: int, **info: object) -> bytes:
    found = {"id": f"msg_{number:09}", "sessionID": SESSION, "role": "assistant", **info}
    return events(event("message.updated", info=found))


def part(number: int, kind: str, *, of: int = 1, **more: object) -> bytes:
    ids = {"id": f"prt_{number:09}", "messageID": f"msg_{of:09}", "sessionID": SESSION}
    return events(event("message.part.updated", part={**ids, "type": kind, **more}))


def delta(text: str, number: int = 1) -> bytes:
    ids = {"messageID": "msg_000000001", "partID": f"prt_{number:09}"}
    return events(event("message.part.delta", **ids, field="text", delta=text))


BEGIN = message(1) + part(0, "text", text="The beginning. ", time={"start": 1, "end": 2})


def forever(make: Callable[[int], bytes]) -> Callable[[], Iterable[bytes]]:
    """Say the beginning, then what is made of 2, 3, 4, ... without end."""

    def speak() -> Iterable[bytes]:
        yield BEGIN
        for first in itertools.count(2, 100):
            yield b"".join(make(number) for number in range(first, first + 100))

    return speak


def tool(number: int, **state: object) -> bytes:
    return part(number, "tool", tool="bash", state={"status": "running", **state})


def request(number: int, **more: object) -> bytes:
    return events(event("permission.asked", id=f"per_{number}", permission="bash", **more))


WORDS = "word " * 200
GROWS: dict[str, tuple[Callable[[int], bytes], str]] = {
    "text": (lambda _: delta(WORDS), "characters of text"),
    "text in small pieces": (lambda _: delta("é" * 50), "characters of text"),
    "text of two parts in turn": (
        lambda n: (
            delta(WORDS, 1 + n % 2) + events(event("session.status", status={"type": "busy"}))
        ),
        "characters of text",
    ),
    "thoughts": (lambda n: part(n, "reasoning", text=WORDS * 50), "characters of text"),
    "tool output": (lambda n: tool(n, metadata={"output": WORDS * 50}), "characters in all"),
    "tool input": (lambda n: tool(n, input={"a": [[]] * 5000}), "characters in all"),
    "pictures": (lambda n: part(n, "file", url="data:," + WORDS * 50), "characters in all"),
    "parts": (lambda n: part(n, "text", text="x"), "parts"),
    "deltas of ever new parts": (lambda n: delta("x", n), "parts"),
    "messages": (message, "messages"),
    "parts of ever new messages": (lambda n: part(n, "text", of=n, text="x"), "messages"),
    "sub-agents": (
        lambda n: events(event("session.created", info={"id": f"s{n}", "parentID": SESSION})),
        "sub-agents",
    ),
    "nested sub-agents": (
        lambda n: events(
            event("session.created", info={"id": f"s{n}", "parentID": f"s{n - 1}"})
            if n > 2
            else event("session.created", info={"id": "s2", "parentID": SESSION})
        ),
        "sub-agents",
    ),
    "permissions": (request, "re"),
    "large permissions": (
        lambda n: request(n, metadata={"diff": WORDS * 500}),
        "re",
    ),
    "questions": (lambda n: events(event("question.asked", id=f"que_{n}", questions=[])), "re"),
}


@pytest.mark.parametrize("what", GROWS)
def test_a_turn_that_grows_without_end_is_ended(what: str) -> None:
    """It fails with one line about its limit and the next step; what came before is shown."""
    make, limit = GROWS[what]

    ended = turn_on(forever(make))

    assert (ended.state, ended.finals, ended.is_interrupted) == ("failed", 1, False)
    assert ended.error.startswith("the turn grew past its limit of ")
    assert limit in ended.error
    assert "%opencode_down" in ended.next_step
    assert ended.text.startswith("The beginning. ")
    assert ended.peak_mb < PEAK_MB, ended.peak_mb
    assert ended.shown_bytes < SHOWN_BYTES, ended.shown_bytes
    assert ended.published_bytes < PUBLISHED_BYTES, ended.published_bytes


ENDLESS: dict[str, Callable[[], Iterable[bytes]]] = {
    "a line": lambda: itertools.chain([BEGIN, b"data: "], itertools.repeat(b"x" * 100_000)),
    "a line in small pieces": lambda: itertools.chain([BEGIN], itertools.repeat(b"xy")),
    "lines of data": lambda: itertools.chain([BEGIN], itertools.repeat(b"data:ab\n" * 10_000)),
    "the same part": forever(lambda _: part(2, "text", text=WORDS * 20)),
    "the same tool": forever(lambda _: tool(2, metadata={"output": WORDS * 30})),
    "events of others": forever(lambda _: events({"type": "x", "properties": {"a": [1] * 100}})),
    "connected": forever(lambda _: events({"type": "server.connected", "properties": {}})),
    "idle": forever(lambda _: events(event("session.idle"))),
    "faults": forever(
        lambda _: events(event("session.error", error={"data": {"message": WORDS * 10}}))
    ),
    "retries": forever(
        lambda n: events(
            event("session.status", status={"type": "retry", "attempt": n, "message": WORDS})
        )
    ),
    "parts that come and go": forever(
        lambda n: (
            part(n, "text", text="x")
            + events(event("session.status", status={"type": "retry"}))
            + events(event("message.part.removed", messageID="msg_000000001", partID=f"prt_{n:09}"))
        )
    ),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_an_interrupt_ends_an_endless_stream(what: str) -> None:
    """Where nothing grows the turn goes on; memory does not, and an Interrupt ends it at once."""
    ended = turn_on(ENDLESS[what], stop_after_s=2.5)

    if ended.is_interrupted:
        assert ended.state == "stopped"
        assert ended.took_s < 2.5 + 8.0
    else:
        assert ended.error.startswith("the turn grew past its limit of ")
    assert ended.text.startswith("The beginning. ")
    assert ended.peak_mb < PEAK_MB, ended.peak_mb


def honest() -> Iterable[bytes]:
    """Say 2 MB in pieces of 20 characters, and make 500 tool calls of 10,000 lines in all."""
    yield message(1)
    text = "A word or two here. "
    for _ in range(1_000):
        yield delta(text) * 100
    yield part(1, "text", text=text * 100_000, time={"start": 1, "end": 2})
    for number in range(2, 502):
        output = "".join(f"line {line} of the output\n" for line in range(20))
        command = {"command": "seq 20", "description": "Count"}
        yield message(number)
        yield tool(number, input=command) + tool(number, input=command, metadata={"output": output})
        ended = {"input": command, "output": output, "metadata": {"exit": 0}}
        yield part(number, "tool", of=number, tool="bash", state={"status": "completed", **ended})
    yield events(event("session.idle"))


def test_an_honest_long_turn_passes_whole() -> None:
    """2 MB of text, 500 tool calls and 10,000 lines of output are far below every limit."""
    ended = turn_on(honest, is_honest=True)

    assert (ended.state, ended.error) == ("done", "")
    assert (ended.text_chars, ended.tools) == (2_000_000, 1_000)


def test_a_stream_waits_while_the_user_is_asked() -> None:
    """What comes meanwhile is not kept without end: the server has to wait too."""

    class Asked(ToldApprover):
        has_waited = False

        def decide(self, request: PermissionRequest) -> PermissionReply | None:
            until = time.monotonic() + 30
            seen = -1
            while seen != server.sent_bytes and time.monotonic() < until:
                seen = server.sent_bytes
                time.sleep(1)
            self.has_waited = self.has_waited or seen == server.sent_bytes
            return super().decide(request)

    with hostile_server() as server, client_of(server) as client:
        server.stream(forever(lambda n: request(1) if n == 2 else delta(WORDS))())
        reader = EventReader(client)
        reader.start()
        approver = Asked()
        turn = run_turn(
            client, reader, SESSION, Prompt("x"), view=RememberingView(), approver=approver
        )
        reader.close()

    assert approver.has_waited
    assert (turn.state, len(approver.asked)) == ("failed", 1)
    assert "characters of text" in turn.error
    assert turn.text.startswith("The beginning. ")


def stopped_after(
    wait_s: float, client: AgentClient, *, on_stuck: Callable[[], None] | None = None
) -> tuple[Turn, float]:
    """Run a turn that another thread asks to stop; gives it, and how long it took in seconds."""
    reader = EventReader(client)
    reader.start()
    stop = threading.Event()
    threading.Timer(wait_s, stop.set).start()
    started = time.monotonic()
    turn = run_turn(
        client,
        reader,
        SESSION,
        Prompt("x"),
        view=RememberingView(),
        approver=ToldApprover(),
        on_stuck=on_stuck,
        stop=stop,
    )
    reader.close()
    return turn, time.monotonic() - started


def test_a_stop_of_another_thread_ends_an_endless_stream() -> None:
    """A down asks the turn to stop while the server floods it."""
    with hostile_server() as server, client_of(server) as client:
        server.stream(ENDLESS["the same part"]())
        turn, took_s = stopped_after(2, client)

    assert turn.state == "stopped"
    assert took_s < 12


@pytest.mark.parametrize("what", [("POST", "/message"), ("POST", "/abort"), ("GET", "/message?")])
def test_a_server_that_drips_after_a_stop_holds_nobody_up(what: tuple[str, str]) -> None:
    """The POST, the abort, or the stored messages never end: the turn does, in its own time."""

    def dripping() -> Iterable[bytes]:
        if what == ("POST", "/message"):
            server.prompted.set()
        if what[0] == "GET":  # each page comes in time, and there is always one more
            yield head(200, "x-next-cursor: more")
            yield from [b""] * 30
            yield b"[]"
            return
        yield head()
        yield from itertools.cycle((b" ", b""))

    with hostile_server() as server, client_of(server) as client:
        server.on(*what, dripping)
        server.on("GET", "limit=1", lambda: says([]))
        server.stream([BEGIN])
        stuck = threading.Event()
        turn, took_s = stopped_after(1, client, on_stuck=stuck.set)

    assert (turn.state, turn.text) == ("stopped", "The beginning. ")
    assert stuck.is_set() == (what[0] == "POST")
    assert took_s < 30
