"""Many sandboxes, several at a time, with a crash in between: nothing is left, nothing grows."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.local.servers import LocalServer, processes_with, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS, AT_A_TIME = 7, 8
GROWTH_LIMIT_KB = 30_000
"""What the first rounds load, and what the allocator keeps; a leak of a sandbox would be more."""


@pytest.fixture
def soaked() -> Iterator[LocalServer]:
    running = LocalServer.make()
    try:
        running.start()
        yield running
    finally:
        running.close()


def use(server: LocalServer, name: str, failures: list[str]) -> None:
    client = server.client()
    try:
        with client.create_sandbox(name=name, ports=[4096], persistent=False) as box:
            box.fs.write_text("work.txt", name)
            if box.run_process("cat", ["work.txt"], capture_output=True).stdout != name:
                failures.append(name)
            box.create_process("sleep", ["300"])
    except Exception as exc:  # noqa: BLE001 - a thread's outer edge: whatever it is, the test fails
        failures.append(f"{name}: {exc}")
    finally:
        client.close()


def use_many(server: LocalServer, prefix: str) -> list[str]:
    failures: list[str] = []
    threads = [
        threading.Thread(target=use, args=(server, f"{prefix}-{number}", failures))
        for number in range(AT_A_TIME)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def measure(server: LocalServer) -> dict[str, int]:
    """Memory in kB, threads and open files of the server."""
    assert server.process is not None
    folder = Path(f"/proc/{server.process.pid}")
    fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return {
        "memory_kb": int(fields["VmRSS"].split()[0]),
        "threads": int(fields["Threads"]),
        "files": len(list((folder / "fd").iterdir())),
    }


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_many_sandboxes_leave_nothing(
    soaked: LocalServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fifty-six sandboxes come and go, the server crashes once, and all is as before."""
    failures = use_many(soaked, "first")
    soaked.kill()
    wait_for(lambda: not processes_with(soaked.base.name), 5)
    left_by_crash = processes_with(soaked.base.name)
    soaked.start()
    failures += use_many(soaked, "second")
    before = measure(soaked)
    for number in range(ROUNDS - 2):
        failures += use_many(soaked, f"round-{number}")
    after = measure(soaked)
    with capsys.disabled():
        print(f"\nserver before {before}, after {after}")  # noqa: T201 - figures are the point
    homes = list(soaked.state_dir.glob("boxes/*/home/*"))

    assert (failures, left_by_crash, homes) == ([], [], [])
    assert after["memory_kb"] < before["memory_kb"] + GROWTH_LIMIT_KB
    assert after["files"] < before["files"] + 60  # a spare sandbox has some twenty
