from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from opencode_magic.local import walls_limits
from opencode_magic.local.walls_limits import ATTEMPTS, Met, judge
from tests.local import readable
from tests.local.servers import processes_with, wait_for

NAME = "om-outlives-7c1e"
UP = """
import fcntl, os, socket, struct, sys
with socket.socket() as sock:
    fcntl.ioctl(sock, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""A new network has a loopback that is down: brings it up, then runs what it is given."""


def without_walls(source: str, folder: str) -> str:
    """Make an attempt as an ordinary user in a bare namespace; gives what it printed."""
    argv = [*(readable.drop() if os.geteuid() == 0 else [])]
    argv += [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "--net",
        "--",
        *(readable.open_python(), "-I", "-c", UP),
    ]
    folders = dict.fromkeys(walls_limits.FOLDERS, folder)
    argv += ["-I", "-c", walls_limits.PROGRAM, *walls_limits.arguments(source, folders, 0.1)]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_the_attempt_succeeds_where_there_is_no_limit(attempt: str) -> None:
    """The control: in a bare namespace the same program takes all that it asks for."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o777)
        said = without_walls(ATTEMPTS[attempt][0], folder)
        left = list(Path(folder).iterdir())

    assert said == "it worked\n"
    assert left == []


def test_what_hides_outlives_its_parent_outside() -> None:
    """The control: where no sandbox ends, the same process lives on."""
    without_walls(f"outlive({NAME!r})", "/var/tmp")
    wait_for(lambda: len(processes_with(NAME)) == 1, 5)
    [pid] = processes_with(NAME)
    os.kill(pid, 9)


def test_a_limit_counts_only_with_its_own_words() -> None:
    """An attempt that ended for another reason, or worked, is open."""
    name, cpu = "open files", "processor time"
    held = judge({name: Met(0, "OSError [Errno 24] Too many open files"), cpu: Met(128 + 24, "")})
    others = [
        *judge({name: Met(0, "it worked"), cpu: Met(0, "it worked")}),
        *judge({name: Met(1, "NameError"), cpu: Met(128 + 9, "")}),
        *judge({name: Met(None, "")}),
    ]

    assert [check.detail for check in held] == [
        "stopped: OSError [Errno 24] Too many open files",
        "stopped: CPU time limit exceeded",
    ]
    assert {check.state for check in others} == {"blocked"}
