"""A sandbox's namespaces, seen from the host: start, enter, spawn, connect, close.

``Keeper.prepare`` makes the network namespace and hands out its listeners; ``enter`` builds the
sandbox inside it; ``spawn`` runs a program there. All commands of a sandbox share one set of
namespaces, and all of it ends with the keeper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from opencode_magic.local.isolation import Limits, SandboxSpec


@dataclass(frozen=True, slots=True)
class KeeperPlace:
    """What a keeper needs to know before there is a sandbox for it."""

    sandboxes: Path
    """Every sandbox's folder stands under this one."""
    opencode: Path | None = None
    """The binary that sandboxes may be given."""


class Keeper:
    """The owner of one sandbox's namespaces. Safe to use from any thread.

    Attributes:
        listeners: ``tls4``, ``tls6`` (TCP 443), ``http4``, ``http6`` (TCP 80), ``dns4``, ``dns6``
            (UDP 53), ``dnstcp4``, ``dnstcp6`` (TCP 53), ``proxy`` (TCP 127.0.0.1:3128), all
            listening and non-blocking; and ``packets``, an AF_PACKET socket (SOCK_DGRAM, all
            protocols) bound to ``lo``.
        uid: The host's user id that the sandbox's processes and files belong to.
        pid: The host's process id of the outermost process.
    """

    listeners: Mapping[str, socket.socket]
    uid: int
    pid: int

    @classmethod
    def prepare(cls, place: KeeperPlace) -> Keeper:
        """Give a keeper with namespaces and listeners, and no sandbox in it yet.

        Raises:
            HomeUnavailableError: Isolation cannot be had here; names what is missing.
        """
        raise NotImplementedError

    @classmethod
    def start(cls, place: KeeperPlace, spec: SandboxSpec) -> Keeper:
        """Give a keeper with the sandbox in it: ``prepare`` and ``enter`` in one."""
        keeper = cls.prepare(place)
        keeper.enter(spec)
        return keeper

    def enter(self, spec: SandboxSpec) -> None:
        """Build the sandbox. Makes its folders where they are missing. Once per keeper."""
        raise NotImplementedError

    def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        stdin: int,
        stdout: int,
        stderr: int,
        limits: Limits | None = None,
    ) -> Child:
        """Start a program in the sandbox, in a process session of its own.

        Args:
            argv: Program and arguments; a bare name is looked up in ``env["PATH"]``.
            env: The whole environment.
            cwd: An absolute path inside.
            stdin: A pipe's end; the caller keeps (and closes) its own copy. The same for
                ``stdout`` and ``stderr``. Never a file of the host.
            limits: Instead of the sandbox's own.

        Raises:
            ExecutableNotFoundError: There is no such program.
            BadFolderError: ``cwd`` cannot be entered.
            SandboxError: The sandbox is gone.
        """
        raise NotImplementedError

    def connect(self, port: int, *, timeout_s: float = 5.0) -> socket.socket:
        """Give a blocking socket connected to a loopback port inside.

        Raises:
            OSError: Nothing listens there.
        """
        raise NotImplementedError

    def close(self) -> None:
        """End everything inside and wait for it. Twice is harmless."""
        raise NotImplementedError


class Child:
    """One program that runs in the sandbox.

    Attributes:
        pid: Its process id inside.
        exited: Gets the exit code (128 + signal number where a signal ended it) once.
    """

    pid: int
    exited: Future[int]

    def wait(self, timeout_s: float | None = None) -> int:
        """Give the exit code; raises TimeoutError when it still runs after ``timeout_s``."""
        raise NotImplementedError

    def signal(self, number: int, *, is_group: bool = True) -> None:
        """Send a signal to the program's process group. Harmless when it has ended."""
        raise NotImplementedError
