"""What a watchdog needs of a sandbox, and what it says of a limit that was reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MIB = 1024**2
Kind = Literal["memory", "disk", "files", "open files", "connections", "watches"]
Counted = Literal["files", "sockets", "mappings", "watches"]


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the sandbox."""

    pid: int
    """As the keeper knows it."""
    inner_pid: int
    inner_session: int
    """The pid inside of the command it belongs to, unless it made a session of its own."""
    memory_bytes: int
    written_bytes: int
    name: str


@dataclass(frozen=True, slots=True)
class Breach:
    """A limit was reached and a process was ended for it."""

    kind: Kind
    used: int
    limit: int
    process: Process

    @property
    def line(self) -> str:
        """What a person reads."""
        return f"{self.process.name!r} was ended: {over(self.limit, self.kind)}"


def over(limit: int, kind: Kind) -> str:
    """Say which limit a sandbox is over."""
    most = {
        "files": f"{limit} files of disk",
        "open files": f"{limit} open files",
        "watches": f"{limit} watches by epoll",
        "connections": f"{limit // _MIB} MiB in connections",
        "memory": f"{limit // _MIB} MiB of memory",
    }.get(kind, f"{limit // _MIB} MiB of disk")
    return f"the sandbox is over its limit of {most}"


class Gauge(Protocol):
    """What a watchdog needs of a keeper."""

    def processes(self) -> list[Process]:
        """Give the sandbox's processes, the largest first."""

    def shares(self, pids: Sequence[int]) -> Mapping[int, int]:
        """Give each process's share of memory, where it can be known."""

    def waiting_bytes(self) -> Mapping[str, int]:
        """Give the most that may wait in sockets inside, in those of ``tcp`` and in ``other``."""

    def count(self, kind: Counted, pids: Sequence[int]) -> Mapping[int, int]:
        """Give how many of a kind each process has; watches are those of epoll."""

    def deleted_bytes(self, pids: Sequence[int]) -> int:
        """Give the disk held by open files without a name."""

    def unseen_files(self, pids: Sequence[int]) -> Mapping[int, int]:
        """Give how many files without a name each process may hold besides its open ones."""

    def hidden_bytes(self, pids: Sequence[int]) -> Mapping[int, int]:
        """Give the shared memory that each process may hold without having it in its tables."""

    def kernel_kills(self) -> int:
        """Give how many processes the kernel has ended for the sandbox's memory."""

    def kill(self, pids: Sequence[int]) -> None:
        """End processes at once."""
