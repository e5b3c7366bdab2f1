from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import pytest

from opencode_magic.core.status import EgressSeen
from opencode_magic.sandbox.launch import launch
from tests.sandbox.homes import Events, local_home, quick_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opencode_magic.sandbox.handle import Sandbox

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the local home needs Linux"),
    pytest.mark.usefixtures("opencode_binary"),
]


@pytest.fixture
def events() -> Events:
    """What is emitted."""
    return Events()


@pytest.fixture
def sandbox(events: Events) -> Iterator[Sandbox]:
    """A sandbox on the local home."""
    with local_home() as request:
        launched = launch(request, quick_server(), events)
        yield launched
        launched.terminate(keep=False)


def look_up(sandbox: Sandbox, *names: str) -> None:
    """Ask for names inside, one after the other."""
    script = "; ".join(f"getent hosts {name}" for name in names)
    sandbox._parts.session.run_process("sh", ["-c", f"{script}; true"], capture_output=True)


def hosts(sandbox: Sandbox, seq: int) -> list[str]:
    """The hosts of the records after a number, each once, in order."""
    return list(dict.fromkeys(r.host for r in sandbox.records_since(seq, settle_s=3.0)))


def test_stream_that_breaks_is_resumed_without_loss(sandbox: Sandbox, events: Events) -> None:
    """A cut stream is taken up again after the last number: nothing missing, nothing twice."""
    feed = sandbox._parts.feed
    assert feed is not None
    look_up(sandbox, "one.example", "two.example")
    deadline = time.monotonic() + 5
    while feed.last_seq == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert feed._stream is not None
    feed._stream.close()
    look_up(sandbox, "three.example")
    deadline = time.monotonic() + 5
    while "three.example" not in hosts(sandbox, 0) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert hosts(sandbox, 0) == ["one.example", "two.example", "three.example"]
    seqs = [r.seq for e in events.seen if isinstance(e, EgressSeen) for r in e.records]
    assert len(seqs) == len(set(seqs))
    assert sandbox.is_alive()


def test_records_are_asked_for_by_number(sandbox: Sandbox) -> None:
    """A turn's records are those after the number at its start."""
    look_up(sandbox, "before.example")
    hosts(sandbox, 0)
    start = sandbox.last_seq
    look_up(sandbox, "during.example")

    assert hosts(sandbox, start) == ["during.example"]


def test_agents_attempt_while_proving_is_not_lost(sandbox: Sandbox) -> None:
    """Records are held back while a proof runs; those that are not its own come after it."""
    feed = sandbox._parts.feed
    assert feed is not None
    with feed.holding() as own:
        look_up(sandbox, "agent.example")
        time.sleep(0.2)
        held = feed.since(0)
        own.add(-1)

    assert held == ()
    assert hosts(sandbox, 0) == ["agent.example"]


def test_closed_feed_leaves_no_thread(sandbox: Sandbox) -> None:
    """Ending a sandbox ends the thread that waits for its records."""
    feed = sandbox._parts.feed
    assert feed is not None

    sandbox.terminate(keep=False)

    assert not feed._thread.is_alive()
    assert not sandbox._heartbeat._thread.is_alive()
