"""``/proc`` of a keeper's process namespace -> what the sandbox's processes use.

Runs in the keeper, which sees the sandbox's processes and no others. Standard library only.
"""

from __future__ import annotations

import contextlib
import os

_KIB = 1024
_BLOCK_BYTES = 512
_HIDDEN = 1 << 62
"""What a process is taken to have written that hides how much it was."""


def usage() -> dict[str, object]:
    """Give a row for each of the sandbox's processes but its first, the largest first.

    A row is: pid here, pid inside, session inside, memory in bytes, bytes written, name.
    """
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]  # noqa: PTH208 - light imports
    rows = [row for row in map(_row, pids) if row is not None]
    return {"rows": sorted(rows, key=lambda row: row[3], reverse=True)}


def _row(pid: int) -> tuple[int, int, int, int, int, str] | None:
    try:
        with open(f"/proc/{pid}/status", "rb") as status:  # noqa: PTH123 - light imports
            text = status.read().decode(errors="replace")
    except OSError:
        return None
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    here_and_inside = fields.get("NSpid", "0").split()
    is_ours = len(here_and_inside) < 2 or here_and_inside[1] == "1"  # noqa: PLR2004 - both namespaces
    if is_ours or fields.get("State", "Z").startswith("Z"):
        return None
    session = fields.get("NSsid", "0").split()[-1]
    memory = sum(_bytes(fields.get(name, "0")) for name in ("RssAnon", "RssShmem", "VmSwap"))
    name = fields.get("Name", "")
    return pid, int(here_and_inside[1]), int(session), memory, _written(pid), name


def _bytes(text: str) -> int:
    words = text.split()
    return int(words[0]) * _KIB if words and words[0].isdigit() else 0


def _written(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/io", "rb") as io:  # noqa: PTH123 - light imports
            for line in io:
                if line.startswith(b"write_bytes:"):
                    return int(line.split()[1])
    except OSError:
        return _HIDDEN
    return 0


def proportional_bytes(pid: int) -> int | None:
    """Give a process's share of memory, shared pages divided; None where it cannot be known."""
    total = 0
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:  # noqa: PTH123 - light imports
            for line in rollup:
                if line.startswith((b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")):
                    total += int(line.split()[1]) * _KIB
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it has ended
    except OSError:
        return None
    return total


def deleted_bytes(pids: list[int]) -> int:
    """Give how much disk is held by open files that have no name any more."""
    seen: dict[tuple[int, int], int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - light imports
                with contextlib.suppress(OSError):
                    found = os.stat(f"/proc/{pid}/fd/{fd}")  # noqa: PTH116 - light imports
                    if found.st_nlink == 0:
                        seen[(found.st_dev, found.st_ino)] = found.st_blocks * _BLOCK_BYTES
    return sum(seen.values())
