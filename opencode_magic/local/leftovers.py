"""Processes of a server that has crashed: known by their pid and the moment they started."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

GONE_TIMEOUT_S = 5.0


def start_ticks(pid: int) -> int:
    """Give when a process started, in the kernel's ticks since boot; 0 where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    # The program's name, in brackets, may hold spaces and brackets itself.
    fields = text.rpartition(")")[2].split()
    state, ticks = fields[0], int(fields[19])
    return 0 if state in {"Z", "X"} else ticks


def end_leftover(pid: int, ticks: int) -> bool:
    """Kill the process that had this pid at this start, if it is still that one, and wait.

    Returns:
        Whether it was there.
    """
    if pid <= 1 or not ticks or start_ticks(pid) != ticks:
        return False
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + GONE_TIMEOUT_S
    while start_ticks(pid) == ticks and time.monotonic() < deadline:
        time.sleep(0.01)
    return True
