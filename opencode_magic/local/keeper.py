"""A sandbox's namespaces, seen from the host: start, enter, spawn, connect, close.

``Keeper.prepare`` makes the network namespace and hands out its listeners; ``enter`` builds the
sandbox inside it; ``spawn`` runs a program there. All commands of a sandbox share one set of
namespaces, and all of it ends with the keeper.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import platform
import socket
import subprocess
import tempfile
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, cast

from opencode_magic.errors import SandboxError
from opencode_magic.local import image, isolation, start
from opencode_magic.local.cgroups import Cgroup, family_of
from opencode_magic.local.children import KILLED, Child, Children
from opencode_magic.local.gauge import Breach, Counted, Process
from opencode_magic.local.pump import pump
from opencode_magic.local.seccomp import seccomp_filter
from opencode_magic.local.start import KeeperPlace
from opencode_magic.local.watchdog import Watchdog
from opencode_magic.local.wire import MessageReader, WireError, send_message

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opencode_magic.local.isolation import Limits, SandboxSpec
    from opencode_magic.local.resources import Resources

__all__ = ["Child", "Keeper", "KeeperPlace"]

READY_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0
BREACHES_KEPT = 100
log = logging.getLogger(__name__)


class Keeper:
    """The owner of one sandbox's namespaces. Safe to use from any thread.

    Attributes:
        listeners: ``tls4``, ``tls6`` (TCP 443), ``http4``, ``http6`` (TCP 80), ``dns4``, ``dns6``
            (UDP 53), ``dnstcp4``, ``dnstcp6`` (TCP 53), ``proxy`` (TCP 127.0.0.1:3128), all
            blocking; and ``packets``, an AF_PACKET socket (SOCK_DGRAM) on ``lo`` that gives the
            first bytes, from the IP head on, of each attempt on a place without a listener.
            All but ``proxy`` are bound to every address, and ``getsockname`` of an accepted
            connection tells where it wanted to go. The ``dns`` sockets have IP_PKTINFO on: the
            answer must leave from the address that was asked. The ``6`` ones are missing where
            the host has no IPv6.
        uid: The host's user id that the sandbox's processes and files belong to.
        pid: The host's process id of the outermost process.
        ended: Gets why, once, when the sandbox or its keeper is gone.
        breaches: The latest limits that were reached, and who was ended for it, oldest first.
    """

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, uid: int) -> None:
        self.listeners: Mapping[str, socket.socket] = {}
        self.uid = uid
        self.pid = process.pid
        self.ended: Future[str] = Future()
        self._process = process
        self._control = control
        self._reader = MessageReader(control, takes_fds=True)
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._children: Children | None = None
        self._limits: Limits | None = None
        self._name = ""
        self._watchdog: Watchdog | None = None
        self._group: Cgroup | None = None
        self.breaches: list[Breach] = []

    @classmethod
    def prepare(cls, place: KeeperPlace) -> Keeper:
        """Give a keeper with namespaces and listeners, and no sandbox in it yet.

        Raises:
            HomeUnavailableError: Isolation cannot be had here; names what is missing.
        """
        uid = start.spare_uid()
        _open_to_keepers(place, uid)
        control, inner = socket.socketpair()
        with inner, tempfile.TemporaryFile() as errors:
            try:
                argv = start.command(place, uid, inner.fileno())
                process = start.popen(argv, fds=[inner.fileno()], stderr=errors.fileno())
            except BaseException:
                control.close()
                raise
            keeper = cls(process, control, os.geteuid() if uid is None else uid)
            inner.close()
            try:
                keeper._greet()
                # Nothing of the agent's runs yet: what is started later is in the group by itself.
                keeper._join(place)
            except WireError as exc:
                keeper.close()
                errors.seek(0)
                raise start.unavailable(errors.read(4000)) from exc
        pump().watch(os.pidfd_open(process.pid), keeper._outermost_ended)
        return keeper

    @classmethod
    def start(cls, place: KeeperPlace, spec: SandboxSpec) -> Keeper:
        """Give a keeper with the sandbox in it: ``prepare`` and ``enter`` in one."""
        keeper = cls.prepare(place)
        try:
            keeper.enter(spec)
        except BaseException:
            keeper.close()
            raise
        return keeper

    def enter(self, spec: SandboxSpec) -> None:
        """Build the sandbox. Makes its folders where they are missing. Once per keeper.

        Raises:
            HomeUnavailableError: The sandbox cannot be built; says what bubblewrap said.
        """
        owner = None if self.uid == os.geteuid() else self.uid
        image.make_folders(spec.folder, spec.ca_bundle or image.host_ca_bundle(), owner)
        self._name, self._limits = spec.name, spec.limits
        if self._group is not None:
            self._group.hold(spec.limits)
        channel, inner = socket.socketpair()
        with inner, tempfile.TemporaryFile() as errors:
            seccomp = _pipe_with(seccomp_filter(platform.machine()))
            words = isolation.sandbox_arguments(spec)
            arguments = _pipe_with(b"".join(word.encode() + b"\0" for word in words))
            argv = [start.program("bwrap"), "--args", str(isolation.ARGUMENTS_FD), "--"]
            argv += isolation.sandbox_command()
            first = [_pipe_with(path.read_bytes()) for path in isolation.FIRST_PROGRAM.values()]
            fds = [inner.fileno(), seccomp, arguments, errors.fileno(), *first]
            numbers = [isolation.CHANNEL_FD, isolation.SECCOMP_FD, isolation.ARGUMENTS_FD, 2]
            numbers += isolation.FIRST_PROGRAM
            try:
                self._request({"op": "enter", "argv": argv, "numbers": numbers}, fds)
                inner.close()
                self._children = Children(channel, self._end, READY_TIMEOUT_S, self._explain)
            except WireError as exc:
                channel.close()
                errors.seek(0)
                raise start.unavailable(errors.read(4000)) from exc
            finally:
                for fd in (seccomp, arguments, *first):
                    os.close(fd)
        self._watchdog = Watchdog(self, spec.folder, spec.limits, self._note)
        self._watchdog.start()

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
            stdin: A pipe's end, never a file of the host; the caller closes its own copy.
            stdout: The same.
            stderr: The same.
            limits: Instead of the sandbox's own.

        Raises:
            ExecutableNotFoundError: There is no such program.
            BadFolderError: ``cwd`` cannot be entered.
            SandboxError: The sandbox is gone, or has no process left to give.
        """
        if self._children is None or self._limits is None:
            raise SandboxError("the sandbox is not built yet")
        if os.geteuid() != self.uid:
            for fd in {stdin, stdout, stderr}:
                os.fchown(fd, self.uid, self.uid)
        message = {
            "argv": list(argv),
            "env": dict(env),
            "cwd": cwd,
            "limits": (limits or self._limits).rlimits(),
        }
        return self._children.spawn(message, [stdin, stdout, stderr])

    def connect(self, port: int, *, timeout_s: float = 5.0) -> socket.socket:
        """Give a blocking socket connected to a loopback port inside.

        Raises:
            OSError: Nothing listens there, or the sandbox is gone.
        """
        last = OSError(f"nothing listens on port {port} inside")
        for family, address in (("4", "127.0.0.1"), ("6", "::1")):
            sock = self.socket(family)
            try:
                sock.settimeout(timeout_s)
                sock.connect((address, port))
                sock.settimeout(None)
            except OSError as exc:
                sock.close()
                last = exc
            else:
                return sock
        raise last

    def socket(self, family: str = "4") -> socket.socket:
        """Give an unconnected TCP socket of the sandbox's network, for a caller that connects it.

        Raises:
            OSError: The sandbox is gone, or has no such family.
        """
        try:
            message, fds = self._request({"op": "socket", "family": family})
        except WireError as exc:
            raise ConnectionError(str(exc)) from exc
        if not fds:
            raise OSError(message.get("errno"), "no such socket")
        return socket.socket(fileno=fds[0])

    @property
    def is_alive(self) -> bool:
        """Whether the sandbox's processes can still run."""
        return self._process.poll() is None and not self.ended.done()

    def processes(self) -> list[Process]:
        """Give what runs inside, the largest first, without the sandbox's own first process.

        Raises:
            OSError: The sandbox is gone.
        """
        rows = self._ask({"op": "usage"}).get("rows")
        return [Process(*row) for row in rows] if isinstance(rows, list) else []

    def shares(self, pids: Sequence[int]) -> Mapping[int, int]:
        """Give each process's share of memory, shared pages divided, where it can be known."""
        shares = self._ask_each("shares", pids).items()
        return {pid: share for pid, share in shares if share is not None}

    def hidden_bytes(self, pids: Sequence[int]) -> Mapping[int, int]:
        """Give the shared memory that each process may hold beyond what its tables show."""
        return self._ask_each("hidden", pids)

    def waiting_bytes(self) -> Mapping[str, int]:
        """Give the most that may wait in sockets inside, in those of ``tcp`` and in ``other``."""
        idle = sum(sock.type == socket.SOCK_STREAM for sock in self.listeners.values())
        return cast("dict[str, int]", self._ask({"op": "waiting", "idle": idle})["waiting"])

    def count(self, kind: Counted, pids: Sequence[int]) -> Mapping[int, int]:
        """Give how many of a kind each process has."""
        return self._ask_each(kind, pids)

    def deleted_bytes(self, pids: Sequence[int]) -> int:
        """Give the disk held by open files that have no name any more."""
        return int(str(self._ask({"op": "deleted", "pids": list(pids)}).get("bytes", 0)))

    def unseen_files(self, pids: Sequence[int]) -> Mapping[int, int]:
        """Give how many files without a name each process may hold besides its open ones."""
        return self._ask_each("unseen", pids)

    def kill(self, pids: Sequence[int]) -> None:
        """End processes, by their pid in ``processes``, at once."""
        self._ask({"op": "kill", "pids": list(pids)})

    def limit(self, resources: Resources) -> None:
        """Let all processes inside have so much together, from now on.

        Processors are held to where they were asked for and there is a control group.
        """
        if self._watchdog is not None:
            self._watchdog.limit_memory(resources.memory_bytes)
        if self._group is not None:
            self._group.limit_memory(resources.memory_bytes)
            if resources.wanted_vcpus is not None:
                self._group.limit_processors(resources.wanted_vcpus)

    def kernel_kills(self) -> int:
        """Give how many processes the kernel has ended for the sandbox's memory."""
        return 0 if self._group is None else self._group.kernel_kills()

    def close(self) -> None:
        """End everything inside and wait for it. Twice is harmless."""
        self._end("it was closed")
        if self._watchdog is not None:
            self._watchdog.stop()
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        for listener in self.listeners.values():
            listener.close()
        if self._children is not None:
            self._children.close()
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(CLOSE_TIMEOUT_S)
        if self._group is not None:
            self._group.close()
        with self._lock:  # whoever waited for an answer was woken by the shutdown
            self._control.close()
            self._reader.close()

    def _join(self, place: KeeperPlace) -> None:
        self._group = None if place.cgroups is None else place.cgroups.make()
        if self._group is None:
            return
        try:
            self._group.add(family_of(self._process.pid))
        except OSError as exc:
            log.warning("a sandbox has no control group: %s", exc.strerror)
            with contextlib.suppress(OSError):  # some of it is there: then it ends with the rest
                self._group.folder.rmdir()
                self._group = None

    def _explain(self, code: int) -> str:
        """Say why a program ended, where it was the kernel that ended it for the memory."""
        if code != KILLED or self._watchdog is None:
            return ""
        return self._watchdog.kernel_line()

    def _outermost_ended(self) -> None:
        # As root the outermost process has another user than the rest, so that its death is not
        # theirs: the keeper ends when its socket does, and everything with it.
        self._end("its outermost process is gone")
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)

    def _greet(self) -> None:
        self._control.settimeout(READY_TIMEOUT_S)
        message, fds = self._reader.read()
        names = message.get("listeners")
        if not isinstance(names, list) or len(names) != len(fds):
            msg = "the keeper did not hand out its listeners"
            raise WireError(msg)
        self.listeners = {
            str(name): socket.socket(fileno=fd) for name, fd in zip(names, fds, strict=True)
        }
        self._control.settimeout(REQUEST_TIMEOUT_S)

    def _request(
        self, message: Mapping[str, object], fds: Sequence[int] = ()
    ) -> tuple[dict[str, object], list[int]]:
        with self._lock:
            number = next(self._numbers)
            send_message(self._control, {**message, "id": number}, fds)
            while True:
                reply, received = self._reader.read()
                if reply.get("id") == number:
                    return reply, received
                for fd in received:  # the answer to a request whose time was up
                    os.close(fd)

    def _ask_each(self, op: str, pids: Sequence[int]) -> dict[int, Any]:
        found = self._ask({"op": op, "pids": list(pids)}).get(op)
        return {int(pid): what for pid, what in found.items()} if isinstance(found, dict) else {}

    def _ask(self, message: Mapping[str, object]) -> dict[str, object]:
        try:
            return self._request(message)[0]
        except WireError as exc:
            raise ConnectionError(str(exc)) from exc

    def _note(self, breach: Breach) -> None:
        self.breaches.append(breach)
        del self.breaches[:-BREACHES_KEPT]
        log.warning("sandbox %s: %s", self._name, breach.line)
        if self._children is not None:
            self._children.note(breach.process.inner_session, breach.line)

    def _end(self, reason: str) -> None:
        with contextlib.suppress(Exception):  # somebody else said why before
            self.ended.set_result(reason)


def _open_to_keepers(place: KeeperPlace, uid: int | None) -> None:
    """Make the folder of the sandboxes; a spare user may pass it, and see nothing in it."""
    place.sandboxes.mkdir(mode=0o700, parents=True, exist_ok=True)
    if uid is not None:
        place.sandboxes.chmod(0o711)


def _pipe_with(data: bytes) -> int:
    """Give the reading end of a pipe that holds the data; it must fit a pipe (64 KiB)."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(data)
    return reading
