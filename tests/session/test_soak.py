"""Many real launches, several at a time, the server killed in between: nothing left or grown."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opencode_magic.sandbox.connect import find_server, reap
from opencode_magic.session.ask import Asking, SilentView, ask_agent
from opencode_magic.session.session import Session
from opencode_magic.settings import load_settings
from tests.local.servers import figures_of, processes_with, wait_for
from tests.sandbox.homes import stop_local_server
from tests.scripted import script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opencode_magic.settings import Settings

ROUNDS, AT_A_TIME = 6, 8
GROWTH_LIMIT_KB = 20_000
"""What the allocator keeps after the first round; a leak of each sandbox would be more."""
GONE_S = 10.0

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the local home needs Linux"),
    pytest.mark.usefixtures("opencode_binary"),
]


@pytest.fixture
def settings() -> Iterator[Settings]:
    found = load_settings({"home": "local"})
    yield found
    stop_local_server(found)


def at_once(work: Callable[[int], None]) -> list[str]:
    """Do something so many times at once; gives what went wrong."""
    failures: list[str] = []

    def run(number: int) -> None:
        try:
            work(number)
        except Exception as exc:  # noqa: BLE001 - a thread's outer edge: the test fails with it
            failures.append(f"{number}: {type(exc).__name__}: {exc}")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(AT_A_TIME)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def ask(session: Session, number: int) -> None:
    """Ask for a turn with a command and a host that is not allowed."""
    text = script(
        f"bash 'echo {number} > mine; cat mine'", "webfetch https://example.com", "say Yes."
    )
    reply = ask_agent(session, Asking(text=text), view=SilentView())
    assert reply.state == "done"
    assert reply.text.endswith("Yes.")
    assert reply.receipt is not None
    assert [place.host for place in reply.receipt.blocked] == ["example.com"]


def whole_life(settings: Settings) -> Callable[[int], None]:
    """Give what launches a sandbox, has one turn in it, and takes it down."""

    def work(number: int) -> None:
        session = Session()
        try:
            assert session.up(settings).phase == "locked"
            ask(session, number)
        finally:
            report = session.down(discard=True)
        assert report.kept == ()

    return work


def crash_under(settings: Settings) -> tuple[list[str], list[int]]:
    """Kill the server under sandboxes that run; gives what went wrong and the processes left."""
    sessions = [Session() for _ in range(AT_A_TIME)]
    failures = at_once(lambda number: _up_and_ask(sessions[number], settings, number))
    server = find_server(settings)
    assert server is not None
    os.kill(server.pid, signal.SIGKILL)
    name = settings.state_dir.parent.name
    wait_for(lambda: not processes_with(name), GONE_S)
    left = processes_with(name)
    for session in sessions:
        if session.is_alive():
            failures.append(f"{session!r} thinks that its sandbox runs")
        session.down(discard=True)
    return failures, left


def _up_and_ask(session: Session, settings: Settings, number: int) -> None:
    session.up(settings)
    ask(session, number)


def leftovers(settings: Settings) -> list[str]:
    """Give what an ended server should not have left: processes, mounts, folders, leases."""
    name = settings.state_dir.parent.name
    wait_for(lambda: not processes_with(name), GONE_S)
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    local = settings.state_dir / "local"
    paths = [*local.glob("boxes/*"), *local.glob("sandboxes/*"), *local.rglob("*.tmp")]
    paths += [*settings.runtime_dir.glob("*.sock"), *settings.state_dir.glob("leases/*.json")]
    return [
        *(f"process {pid}" for pid in processes_with(name)),
        *(line for line in mounts if name in line),
        *map(str, paths),
    ]


@pytest.mark.soak
@pytest.mark.timeout(1200)
# httpcore leaves the socket to the collector where nothing listens on a Unix socket any more.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket")
def test_many_launches_leave_nothing(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fifty-six launches with OpenCode and a turn each, a crash under eight: all is as before."""
    began_s = time.monotonic()
    failures, left_by_crash = crash_under(settings)
    figures = []
    for _ in range(ROUNDS):
        failures += at_once(whole_life(settings))
        server = find_server(settings)
        assert server is not None
        figures.append(figures_of(server.pid))
    stop_local_server(settings)
    reap()
    with capsys.disabled():
        for number, figure in enumerate(figures, 1):
            print(f"\nserver after round {number}: {figure}", end="")  # noqa: T201 - figures are the point
        count = (ROUNDS + 1) * AT_A_TIME
        print(f"\n{count} launches in {time.monotonic() - began_s:.0f} s", end="")  # noqa: T201 - as above
    before, after = figures[0], figures[-1]

    assert (failures, left_by_crash, leftovers(settings)) == ([], [], [])
    assert after["memory_kb"] < before["memory_kb"] + GROWTH_LIMIT_KB
    assert after["files"] < before["files"] + 60  # a spare sandbox has some twenty
    assert after["threads"] < before["threads"] + 80  # the pools grow to their sizes
