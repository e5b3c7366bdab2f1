"""What this machine has in use that no process shows, and by how much that has grown.

What a sandbox hides can be no more than the growth since it began. Others of the machine may have
taken it, or given back: then it is counted from there. Source: proc(5).
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_ON_LISTS = ("MemFree", "Active", "Inactive", "Unevictable", "SReclaimable")
"""What is free, shown by some process or file, or given back when asked for."""

MAPPING_BYTES = 200
"""What the kernel keeps for one mapping of a process: 214 bytes were measured, with pages more."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """What of a machine no process shows as its own; 0 where the machine does not say."""

    shared_bytes: int = 0
    """Shared memory, with every page of it."""
    kernel_bytes: int = 0
    """The kernel's own memory: what waits in sockets and pipes, tables of pages, and the like."""
    tcp_bytes: int = 0
    """What of it waits in TCP connections, of the whole machine."""
    open_files: int = 0


def hidden_now() -> Hidden:
    """Look at the machine."""
    memory = {"Shmem": 0, "MemTotal": 0, **dict.fromkeys(_ON_LISTS, 0)}
    files = 0
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in memory:
                memory[name] = int(rest.split()[0]) * 1024
    with suppress(OSError, ValueError, IndexError):
        files = int(Path("/proc/sys/fs/file-nr").read_text().split()[0])
    tcp = 0
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/net/sockstat").read_text().splitlines():
            if line.startswith("TCP:"):
                tcp = int(line.split()[-1]) * os.sysconf("SC_PAGE_SIZE")
    kernel = memory["MemTotal"] - sum(memory[name] for name in _ON_LISTS)
    return Hidden(memory["Shmem"], max(0, kernel), tcp, files)


def mappings_limit() -> int:
    """Give how many mappings a process may have. Source: proc(5), ``vm/max_map_count``."""
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        return 65_530


class Growth:
    """Measures from the least that was seen since it was made."""

    def __init__(self) -> None:
        self._least = hidden_now()

    def now(self) -> Hidden:
        """Give by how much each has grown."""
        now, least = hidden_now(), self._least
        self._least = least = Hidden(
            min(now.shared_bytes, least.shared_bytes),
            min(now.kernel_bytes, least.kernel_bytes),
            min(now.tcp_bytes, least.tcp_bytes),
            min(now.open_files, least.open_files),
        )
        return Hidden(
            now.shared_bytes - least.shared_bytes,
            now.kernel_bytes - least.kernel_bytes,
            now.tcp_bytes - least.tcp_bytes,
            now.open_files - least.open_files,
        )
