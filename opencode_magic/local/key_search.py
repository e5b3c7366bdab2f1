"""A sandbox's injected values -> whether they stand anywhere inside, looked for from outside.

The agent's programs cannot answer for such a search, since none of them takes part in it: files,
names, processes' arguments and environments are read by the server.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from opencode_magic.local.cgroups import family_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from opencode_magic.core.policy import NetworkPolicy

SHORTEST_VALUE_CHARS = 16
"""A shorter value may stand somewhere by chance."""
FILE_LIMIT_BYTES = 64 * 1024 * 1024
TOTAL_LIMIT_BYTES = 512 * 1024 * 1024
TIME_LIMIT_S = 4.0
DEPTH_LIMIT = 64
ENTRY_LIMIT = 200_000
MEMORY_FOLDERS = ("/tmp", "/run", "/dev/shm", "/etc", "/var/tmp")  # noqa: S108 - inside the sandbox
"""What is seen only through a process inside, beside the sandbox's own folders on disk."""
_CHUNK_BYTES = 1024 * 1024
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(slots=True)
class Found:
    """What a search has seen. Says kinds of places, never a text from inside."""

    hits: list[str] = field(default_factory=list)
    files: int = 0
    processes: int = 0
    is_whole: bool = True
    """Whether everything there was could be read, within the limits."""

    def to_json(self) -> dict[str, object]:
        """Give the form of the local home's API."""
        return {
            "hits": self.hits,
            "files": self.files,
            "processes": self.processes,
            "isWhole": self.is_whole,
        }


def injected_values(policy: NetworkPolicy) -> tuple[bytes, ...]:
    """Give the values that the firewall injects, without their scheme, if long enough to find."""
    values = {
        value.rpartition(" ")[2].encode()
        for entry in policy.hosts
        for rule in entry.rules
        for value in (rule.headers or {}).values()
    }
    return tuple(sorted(value for value in values if len(value) >= SHORTEST_VALUE_CHARS))


def search(values: Sequence[bytes], folder: Path, pid: int) -> Found:
    """Look for values in a sandbox.

    Args:
        values: What must not be there; searched for as they stand.
        folder: The sandbox's own folder on this machine.
        pid: The outermost of its processes.
    """
    return _Search(values).run(folder, pid)


class _Search:
    def __init__(self, values: Sequence[bytes]) -> None:
        self._values = values
        self._found = Found()
        self._left_bytes = TOTAL_LIMIT_BYTES
        self._deadline_s = time.monotonic() + TIME_LIMIT_S
        self._seen: set[tuple[int, int]] = set()

    def run(self, folder: Path, pid: int) -> Found:
        family = family_of(pid)
        first = max(family, key=_depth_as_first)
        for member in family:
            self._read_process(member, is_closed=member == first)
        self._walk(os.fsencode(folder))
        for name in MEMORY_FOLDERS:
            self._walk(os.fsencode(f"/proc/{first}/root{name}"))
        return self._found

    def _read_process(self, pid: int, *, is_closed: bool) -> None:
        """Read a process's arguments and environment.

        The sandbox's first process is our own, and has closed its environment to everybody.
        """
        for name, words in (("cmdline", "the arguments"), ("environ", "the environment")):
            try:
                with open(f"/proc/{pid}/{name}", "rb") as file:  # noqa: PTH123 - no path to follow
                    text = file.read(_CHUNK_BYTES)
            except (FileNotFoundError, ProcessLookupError):
                return
            except OSError:
                self._found.is_whole &= is_closed
            else:
                self._look(text, f"{words} of a process")
        self._found.processes += 1

    def _walk(self, top: bytes) -> None:
        """Read all files below a folder. Links are not followed; each file is read once."""
        try:
            fd = os.open(top, _OPEN_FOLDER)
        except FileNotFoundError:
            return
        except OSError:
            self._found.is_whole = False
            return
        self._read_folder(fd, 0)

    def _read_folder(self, fd: int, depth: int) -> None:
        """Read a folder, and close it.

        As many are open as it is deep: a path could lead elsewhere by the time it is opened.
        """
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    self._look(os.fsencode(entry.name), "the name of a file")
                    if len(self._seen) > ENTRY_LIMIT or time.monotonic() > self._deadline_s:
                        self._found.is_whole = False
                        return
                    try:
                        self._read_entry(entry.name, fd, depth)
                    except FileNotFoundError:
                        continue
                    except OSError:
                        self._found.is_whole = False
        finally:
            os.close(fd)

    def _read_entry(self, name: str, folder: int, depth: int) -> None:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if (found.st_dev, found.st_ino) in self._seen:
            return
        self._seen.add((found.st_dev, found.st_ino))
        if stat.S_ISLNK(found.st_mode):
            self._look(os.fsencode(os.readlink(name, dir_fd=folder)), "a link")
        elif stat.S_ISREG(found.st_mode):
            self._read_file(name, folder)
        elif stat.S_ISDIR(found.st_mode):
            if depth < DEPTH_LIMIT:
                self._read_folder(os.open(name, _OPEN_FOLDER, dir_fd=folder), depth + 1)
            else:
                self._found.is_whole = False

    def _read_file(self, name: str, folder: int) -> None:
        fd = os.open(name, _OPEN_FILE, dir_fd=folder)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return
            self._found.files += 1
            overlap, size = b"", 0
            while chunk := os.read(fd, _CHUNK_BYTES):
                size += len(chunk)
                self._left_bytes -= len(chunk)
                self._look(overlap + chunk, "a file")
                overlap = chunk[-max(map(len, self._values), default=1) :]
                is_late = time.monotonic() > self._deadline_s
                if size > FILE_LIMIT_BYTES or self._left_bytes < 0 or is_late:
                    self._found.is_whole = False
                    return
        finally:
            os.close(fd)

    def _look(self, text: bytes, kind: str) -> None:
        if kind not in self._found.hits and any(value in text for value in self._values):
            self._found.hits.append(kind)


def _depth_as_first(pid: int) -> int:
    """Give how many process namespaces a process is in, where it is the first of the innermost.

    The first process of the sandbox lives as long as it does, and has its root.
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as status:  # noqa: PTH123 - no path to follow
            numbers = next(line.split()[1:] for line in status if line.startswith(b"NSpid:"))
    except (OSError, StopIteration):
        return 0
    return len(numbers) if numbers[-1:] == [b"1"] else 0
