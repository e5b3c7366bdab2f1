"""Many sandboxes, several at a time, with a crash in between: nothing is left, nothing grows."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.local.servers import LocalServer, figures_of, processes_with, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS, AT_A_TIME = 6, 8
GROWTH_LIMIT_KB = 20_000
"""What the allocator keeps after the first round; a leak of each sandbox would be more."""
GONE_S = 5.0


@pytest.fixture
def soaked() -> Iterator[LocalServer]:
    running = LocalServer.make()
    try:
        running.start()
        yield running
    finally:
        running.close()


def use(server: LocalServer, name: str, failures: list[str], *, is_left: bool) -> None:
    client = server.client()
    try:
        box = client.create_sandbox(name=name, ports=[4096], persistent=False)
        box.fs.write_text("work.txt", name)
        if box.run_process("cat", ["work.txt"], capture_output=True).stdout != name:
            failures.append(name)
        box.create_process("sleep", ["300"])
        if not is_left:
            box.destroy()
    except Exception as exc:  # noqa: BLE001 - a thread's outer edge: whatever it is, the test fails
        failures.append(f"{name}: {exc}")
    finally:
        client.close()


def use_many(server: LocalServer, prefix: str, *, is_left: bool = False) -> list[str]:
    failures: list[str] = []
    threads = [
        threading.Thread(
            target=use,
            args=(server, f"{prefix}-{number}", failures),
            kwargs={"is_left": is_left},
        )
        for number in range(AT_A_TIME)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def crash_under(server: LocalServer) -> tuple[list[str], list[int], list[str]]:
    """End the server under sandboxes that run; gives failures, processes left, and their states."""
    failures = use_many(server, "crashed", is_left=True)
    server.kill()
    wait_for(lambda: not processes_with(server.base.name), GONE_S)
    left = processes_with(server.base.name)
    server.start()
    client = server.client()
    states = [str(box.status) for box in client.query_sandboxes()]
    client.close()
    for number in range(AT_A_TIME):
        server.ask("DELETE", f"/v2/sandboxes/crashed-{number}?discard=true")
    return failures, left, states


def leftovers(server: LocalServer) -> list[str]:
    """Give what an ended server should not have left: processes, mounts, folders, records."""
    name = server.base.name
    wait_for(lambda: not processes_with(name), GONE_S)
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    paths = [*server.state_dir.glob("boxes/*"), *server.state_dir.glob("sandboxes/*")]
    paths += [*server.runtime_dir.glob("*.sock"), *server.state_dir.rglob("*.tmp")]
    return [
        *(f"process {pid}" for pid in processes_with(name)),
        *(line for line in mounts if name in line),
        *map(str, paths),
    ]


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_many_sandboxes_leave_nothing(
    soaked: LocalServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fifty-six sandboxes come and go, the server crashes under eight, and all is as before."""
    failures, left_by_crash, states = crash_under(soaked)
    figures = []
    for number in range(ROUNDS):
        failures += use_many(soaked, f"round-{number}")
        assert soaked.process is not None
        figures.append(figures_of(soaked.process.pid))
    soaked.terminate()
    with capsys.disabled():
        for number, figure in enumerate(figures, 1):
            print(f"\nserver after round {number}: {figure}", end="")  # noqa: T201 - figures are the point
    before, after = figures[0], figures[-1]

    assert (failures, left_by_crash, leftovers(soaked)) == ([], [], [])
    assert states == ["aborted"] * AT_A_TIME
    assert after["memory_kb"] < before["memory_kb"] + GROWTH_LIMIT_KB
    assert after["files"] < before["files"] + 60  # a spare sandbox has some twenty
    assert after["threads"] < before["threads"] + 80  # the pools grow to their sizes
