"""The host's side of a sandbox's first process: spawn, signal, and who ended how."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING

from opencode_magic.errors import SandboxError, UsageMistake, clean_line
from opencode_magic.local.wire import MessageReader, MessageTooLargeError, WireError, send_message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

KILLED = 137
_TOO_LONG = "the arguments and the variables together are too long for the kernel"
SPAWN_TIMEOUT_S = 30.0
NOTES_KEPT = 20
"""The latest lines about one program, which may reach limits over and over again."""


class ExecutableNotFoundError(UsageMistake):
    """There is no such program in the sandbox, or it cannot be executed."""


class BadFolderError(UsageMistake):
    """The working folder does not exist in the sandbox, or cannot be entered."""


class ArgumentsTooLongError(UsageMistake):
    """The arguments and variables of a program are more than the kernel passes on."""


class Child:
    """One program that runs in the sandbox.

    Attributes:
        pid: Its process id inside.
        exited: Gets the exit code (128 + signal number where a signal ended it) once.
        notes: Lines about it for a person, such as a limit that was reached.
    """

    def __init__(self, children: Children, pid: int) -> None:
        self.pid = pid
        self.notes: list[str] = []
        self.exited: Future[int] = Future()
        self._children = children

    def wait(self, timeout_s: float | None = None) -> int:
        """Give the exit code.

        Raises:
            TimeoutError: It still runs after ``timeout_s``.
        """
        try:
            return self.exited.result(timeout_s)
        except FutureTimeoutError as exc:
            msg = f"process {self.pid} still runs"
            raise TimeoutError(msg) from exc

    def signal(self, number: int, *, is_group: bool = True) -> None:
        """Send a signal to the program's process group.

        Where the program has ended, what it left behind in its group still gets the signal.
        """
        self._children.signal(self.pid, number, is_group=is_group)


class Children:
    """All programs of one sandbox. One thread reads what its first process says."""

    def __init__(
        self,
        channel: socket.socket,
        end: Callable[[str], None],
        ready_timeout_s: float,
        explain: Callable[[int], str],
    ) -> None:
        """Wait until the first process is ready.

        Args:
            channel: To the first process.
            end: Called once, with the reason, when that is gone.
            ready_timeout_s: How long it may take to get ready.
            explain: Gives a line about a program that ended with this exit code, or nothing.

        Raises:
            WireError: It did not get there.
        """
        self._channel = channel
        self._end = end
        self._explain = explain
        self._reader = MessageReader(channel, takes_fds=False)
        self._lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._running: dict[int, Child] = {}
        self._asked: dict[int, Future[dict[str, object]]] = {}
        self._numbers = itertools.count(1)
        self._is_gone = False
        channel.settimeout(ready_timeout_s)
        self._reader.read()
        channel.settimeout(None)
        threading.Thread(target=self._listen, name="sandbox-children", daemon=True).start()

    def spawn(self, message: Mapping[str, object], fds: Sequence[int]) -> Child:
        """Start a program; see ``Keeper.spawn``."""
        number = next(self._numbers)
        asked: Future[dict[str, object]] = Future()
        with self._lock:
            if self._is_gone:
                raise SandboxError("the sandbox is gone")
            self._asked[number] = asked
        try:
            with self._send_lock:
                send_message(self._channel, {"op": "spawn", "id": number, **message}, fds)
            reply = asked.result(SPAWN_TIMEOUT_S)
        except MessageTooLargeError as exc:
            with self._lock:
                del self._asked[number]
            raise ArgumentsTooLongError(_TOO_LONG) from exc
        except (WireError, FutureTimeoutError) as exc:
            raise SandboxError(f"the sandbox does not start programs any more: {exc}") from exc
        child = reply.get("child")
        if isinstance(child, Child):
            return child
        raise _spawn_error(reply, message)

    def signal(self, pid: int, number: int, *, is_group: bool) -> None:
        """Send a signal; harmless when there is nobody to get it."""
        request = {"op": "signal", "pid": pid, "signal": number, "is_group": is_group}
        with contextlib.suppress(WireError), self._send_lock:
            send_message(self._channel, request)

    def note(self, pid: int, line: str) -> None:
        """Keep a line for the program of this pid, where it runs."""
        with self._lock:
            child = self._running.get(pid)
            if child is not None:
                child.notes.append(line)
                del child.notes[:-NOTES_KEPT]

    def close(self) -> None:
        """Stop talking; the first process ends when it sees that, and all others with it."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        try:
            while True:
                message, _ = self._reader.read()
                self._take(message)
        except (WireError, ValueError) as exc:
            self._end(f"its first process is gone: {exc}")
        with self._lock:
            self._is_gone = True
            running, self._running = self._running, {}
            asked, self._asked = self._asked, {}
        self._channel.close()
        for child in running.values():
            child.exited.set_result(KILLED)
        for future in asked.values():
            future.set_result({"event": "failed", "stage": "gone"})

    def _take(self, message: dict[str, object]) -> None:
        match message.get("event"):
            case "started" | "failed":
                self._take_reply(message)
            case "note":
                with self._lock:
                    for each in self._running.values():
                        each.notes.append(clean_line(str(message.get("line"))))
            case "exited":
                with self._lock:
                    child = self._running.pop(_number(message, "pid"), None)
                if child is not None:
                    code = _number(message, "code")
                    if not child.notes and (line := self._explain(code)):
                        child.notes.append(line)
                    child.exited.set_result(code)

    def _take_reply(self, message: dict[str, object]) -> None:
        with self._lock:
            asked = self._asked.pop(_number(message, "id"), None)
            if asked is None:
                return
            if message["event"] == "started":
                # Known before the caller wakes: its exit may be the very next message.
                child = Child(self, _number(message, "pid"))
                self._running[child.pid] = child
                message = {**message, "child": child}
        asked.set_result(message)


def _number(message: Mapping[str, object], name: str) -> int:
    value = message.get(name)
    if not isinstance(value, int):
        msg = f"a message has no number {name!r}"
        raise ValueError(msg)  # noqa: TRY004 - one error for every malformed message
    return value


def _spawn_error(reply: Mapping[str, object], message: Mapping[str, object]) -> Exception:
    code = reply.get("errno")
    reason = os.strerror(code) if isinstance(code, int) and code else "unknown reason"
    argv = message["argv"]
    name = argv[0] if isinstance(argv, list) and argv else ""
    match reply.get("stage"):
        case "cwd":
            return BadFolderError(f"cannot work in {message['cwd']!r}: {reason}")
        case "exec" if code in {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENOEXEC}:
            return ExecutableNotFoundError(f"exec: {name!r}: executable file not found in $PATH")
        case "exec" if code == errno.E2BIG:
            return ArgumentsTooLongError(_TOO_LONG)
        case "gone":
            return SandboxError("the sandbox is gone")
        case stage:
            return SandboxError(f"cannot start {name!r} ({stage}): {reason}")
