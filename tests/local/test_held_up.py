"""Whoever holds up a sandbox's first process or its keeper holds up nothing for good."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from opencode_magic.errors import SandboxError
from opencode_magic.local import image
from tests.local import keepers
from tests.local.keepers import descendants, eventually

LIMIT_S = 10.0
STOPPER = """
import os, signal
print("ready", flush=True)
known, rounds = os.getpid(), 0
while True:
    rounds += 1
    if rounds % 1000 == 0:
        with open("/proc/loadavg") as load:
            known = int(load.read().split()[4])
    for pid in range(known + 1, known + 4):
        try:
            os.kill(pid, signal.SIGSTOP)
        except ProcessLookupError:
            continue
        known = pid
"""


def test_who_stops_a_program_before_it_begins_holds_up_nobody() -> None:
    """The first process ends what is stopped on its way, and goes on to serve."""
    with keepers.sandbox() as made:
        stopper = made.start(image.inside_python().program, "-I", "-S", "-c", STOPPER)
        assert eventually(lambda: bool(stopper.outputs()), timeout_s=keepers.TIME_LIMIT_S)

        def is_refused() -> bool:
            begun = time.monotonic()
            try:
                made.start("true")
            except SandboxError as exc:
                return "stopped" in exc.message and time.monotonic() - begun < LIMIT_S
            return False  # it was stopped too late, or not at all: tried again

        assert eventually(is_refused, timeout_s=keepers.TIME_LIMIT_S)
        stopper.signal(signal.SIGKILL)

        assert stopper.wait(keepers.TIME_LIMIT_S) == 137
        assert made.shell("echo served") == (0, "served\n")


def test_a_late_answer_is_not_taken_for_the_next_one() -> None:
    """A keeper that was held up goes on to tell what runs; nobody gets another's answer."""
    with keepers.sandbox() as made:
        made.start("sleep", "30")
        [inside] = [pid for pid in descendants(made.keeper.pid) if is_keeper(pid)]
        usual_s = made.keeper._control.gettimeout()
        os.kill(inside, signal.SIGSTOP)
        try:
            made.keeper._control.settimeout(0.2)
            with pytest.raises(ConnectionError):
                made.keeper.deleted_bytes([])
            with pytest.raises(ConnectionError):
                made.keeper.socket()
        finally:
            made.keeper._control.settimeout(usual_s)
            os.kill(inside, signal.SIGCONT)

        assert [process.name for process in made.keeper.processes()] == ["sleep"]
        with made.keeper.socket() as sock:
            assert sock.family == socket.AF_INET


def is_keeper(pid: int) -> bool:
    """Whether a process is the keeper's own program, and not what starts it."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return b"keeper_inside" in b" ".join(words) and b"python" in words[0]


PRLIMIT = """
import os, resource
child = os.fork()
if child == 0:
    import time
    time.sleep(30)
for pid in (1, child):
    for name in ("NPROC", "NOFILE", "CPU"):
        try:
            resource.prlimit(pid, getattr(resource, "RLIMIT_" + name), (1, 1))
            print("lowered")
        except PermissionError:
            print(resource.prlimit(pid, getattr(resource, "RLIMIT_" + name)) != (1, 1))
os.kill(child, 9)
resource.prlimit(0, resource.RLIMIT_NOFILE, (5, 5))
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_nobody_takes_the_first_process_its_limits() -> None:
    """Each program may limit itself and what it starts, and look at others; no more."""
    with keepers.sandbox() as made:
        said = made.run(image.inside_python().program, "-I", "-S", "-c", PRLIMIT)

        assert said == (0, "True\n" * 6 + "(5, 5)\n")
        assert made.shell("echo served") == (0, "served\n")
