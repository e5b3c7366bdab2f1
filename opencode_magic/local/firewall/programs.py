"""A port inside a sandbox -> the program that holds it, where the host's /proc can tell.

A program that has ended, or has let go of its socket, cannot be known any more. Sources: proc(5),
and ``SIOCGSKNS`` of Linux's sockios.h, which leads from a socket to its network namespace.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

LIMIT_PER_S = 10
"""Looking costs some milliseconds: a scan of ports must not slow the refusals down."""

_SIOCGSKNS = 0x894C
_LOCAL_ADDRESS, _INODE = 1, 9
_TABLES = {"udp": ("udp", "udp6"), "dns": ("udp", "udp6")}
_TCP_TABLES = ("tcp", "tcp6")


class ProgramFinder:
    """Finds programs in the network namespace that a listener belongs to. Never raises."""

    def __init__(self, listener: socket.socket) -> None:
        self._namespace = _namespace_of(listener)
        self._window_s = 0.0
        self._count = 0
        self._inside: dict[str, bool] = {}

    def find(self, channel: str, source_port: int) -> str:
        """Give the short name of the program that holds a port; empty where it is not known."""
        if not self._namespace or not source_port or not self._may_look():
            return ""
        folders = [folder for folder in _processes() if self._is_inside(folder)]
        with contextlib.suppress(OSError):
            inodes = _inodes(folders, _TABLES.get(channel, _TCP_TABLES), source_port)
            links = {f"socket:[{inode}]" for inode in inodes}
            for folder in folders:
                if links and _holds(folder, links):
                    return _name(folder)
        return ""

    def _may_look(self) -> bool:
        now_s = time.monotonic()
        if now_s - self._window_s > 1.0:
            self._window_s, self._count = now_s, 0
            self._inside.clear()
        self._count += 1
        return self._count <= LIMIT_PER_S

    def _is_inside(self, folder: Path) -> bool:
        """Whether a process is in the namespace; known ones are not asked again for a second."""
        is_inside = self._inside.get(folder.name)
        if is_inside is None:
            try:
                is_inside = (folder / "ns" / "net").stat().st_ino == self._namespace
            except OSError:
                is_inside = False
            self._inside[folder.name] = is_inside
        return is_inside


def _namespace_of(sock: socket.socket) -> int:
    """Give the number of a socket's namespace; 0 where it is the host's own, or not shown."""
    try:
        fd = fcntl.ioctl(sock.fileno(), _SIOCGSKNS)
    except OSError:
        return 0
    try:
        number = os.fstat(fd).st_ino
        return 0 if number == Path("/proc/self/ns/net").stat().st_ino else number
    except OSError:
        return 0
    finally:
        os.close(fd)


def _processes() -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from (folder for folder in Path("/proc").iterdir() if folder.name.isdigit())


def _inodes(folders: list[Path], tables: tuple[str, ...], port: int) -> set[str]:
    """Give the sockets of a namespace that are bound to a port."""
    found = set()
    wanted = f":{port:04X}"
    for table in tables if folders else ():
        for line in (folders[0] / "net" / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[_LOCAL_ADDRESS].endswith(wanted) and fields[_INODE] != "0":
                found.add(fields[_INODE])
    return found


def _holds(folder: Path, links: set[str]) -> bool:
    with contextlib.suppress(OSError):
        for entry in (folder / "fd").iterdir():
            with contextlib.suppress(OSError):
                if str(entry.readlink()) in links:
                    return True
    return False


def _name(folder: Path) -> str:
    """Give a process's short name. The program chose it: only plain characters are kept."""
    text = (folder / "comm").read_text(errors="replace").strip()
    return "".join(char for char in text if "!" <= char <= "~")[:15]
