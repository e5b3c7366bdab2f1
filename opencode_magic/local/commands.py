"""Run commands in a sandbox: output as it comes and kept, stdin, signals, time limits."""

from __future__ import annotations

import array
import contextlib
import fcntl
import itertools
import logging
import os
import select
import signal
import termios
import threading
import time
import weakref
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from opencode_magic.errors import UsageMistake
from opencode_magic.local.log import Output, OutputLog, Stream
from opencode_magic.local.pump import pump

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from opencode_magic.local.children import Child
    from opencode_magic.local.isolation import Limits
    from opencode_magic.local.keeper import Keeper

__all__ = ["Command", "CommandSpec", "Output", "StdinUnavailableError", "Stream", "run"]

LOG_LIMIT_BYTES = 256 * 1024 * 1024
"""What is kept of a command's output, most of it on disk; beyond that the oldest is dropped."""
PIECES_AT_ONCE = 64
log = logging.getLogger(__name__)


class StdinUnavailableError(UsageMistake):
    """The command has no stdin, has closed it, or has ended."""


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """What to run."""

    argv: Sequence[str]
    cwd: str = "/vercel"
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to (and stronger than) the sandbox's environment."""
    has_stdin: bool = False
    """Without it stdin is empty."""
    kill_after_s: float | None = None
    """SIGKILL to the whole process group after so long; the exit code is then 137."""
    is_group_ended: bool = False
    """Whether what the command left in its process group ends with it."""
    limits: Limits | None = None
    """Instead of the sandbox's own."""


class Command:
    """One command. Safe to use from any thread.

    Attributes:
        started_ms: Unix time in milliseconds.
        pid: Its process id inside, which is its process group too.
        exit_code: None while it runs; 128 + signal number where a signal ended it.
    """

    def __init__(self, child: Child, spec: CommandSpec, pipes: _Pipes) -> None:
        self.started_ms = time.time_ns() // 1_000_000
        self.pid = child.pid
        self.exit_code: int | None = None
        self._child = child
        self._spec = spec
        self._stdin = pipes.stdin if spec.has_stdin else None
        self._stdin_lock = threading.Lock()
        self._log = OutputLog(LOG_LIMIT_BYTES)
        self._trouble = ""
        self._news = threading.Condition()
        self._wakes: list[Callable[[], None]] = []
        self._reading: dict[Stream, int] = {"stdout": pipes.stdout, "stderr": pipes.stderr}

    @property
    def dropped_bytes(self) -> int:
        """How much of the oldest output is not kept any more."""
        return self._log.dropped_bytes

    @property
    def kept_bytes(self) -> int:
        """How much of the output is kept."""
        with self._news:
            return self._log.kept_bytes

    def outputs(self, after: int = -1, *, most: int | None = None) -> list[Output]:
        """Give what is kept of the output after an index, oldest first. Does not wait.

        Args:
            after: The index of the last piece that is known already.
            most: How many pieces to give at most; without it all of them, which may be much.
        """
        with self._news:
            return list(itertools.islice(self._log.after(after), most))

    def follow(self, after: int = -1) -> Iterator[Output]:
        """Give output from the start (or after an index) and as it comes, until the exit."""
        while True:
            with self._news:
                self._news.wait_for(
                    lambda: self._log.next_index > after + 1 or self.exit_code is not None  # noqa: B023 - called at once
                )
                # Asked in this order: what came before the end is then among what was found.
                is_over = self.exit_code is not None
                found = list(itertools.islice(self._log.after(after), PIECES_AT_ONCE))
            yield from found
            after = found[-1].index if found else after
            if is_over and not found:
                return

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` (from another thread) on new output and at the end; gives the undo."""
        with self._news:
            self._wakes.append(wake)

        def undo() -> None:
            with self._news, contextlib.suppress(ValueError):
                self._wakes.remove(wake)

        return undo

    @property
    def takes_input(self) -> bool:
        """Whether it was started with stdin, which nobody closed, and still runs."""
        return self._stdin is not None and self.exit_code is None

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Give the exit code, or None when it still runs after ``timeout_s``."""
        with self._news:
            self._news.wait_for(lambda: self.exit_code is not None, timeout_s)
            return self.exit_code

    def signal(self, number: int) -> None:
        """Send a signal to the whole process group. Harmless when it has ended."""
        self._child.signal(number)

    def write_stdin(self, data: bytes, *, timeout_s: float = 10.0) -> int:
        """Give how many bytes the command took within the time.

        Raises:
            StdinUnavailableError: It has no stdin, closed it, or has ended.
        """
        deadline = time.monotonic() + timeout_s
        sent = 0
        with self._stdin_lock:
            while sent < len(data):
                if self._stdin is None or self.exit_code is not None:
                    raise StdinUnavailableError("the command takes no input")
                try:
                    sent += os.write(self._stdin, data[sent : sent + 65536])
                except BlockingIOError:
                    left_s = deadline - time.monotonic()
                    if left_s <= 0:
                        break
                    _wait_writable(self._stdin, min(left_s, 0.5))
                except OSError as exc:
                    raise StdinUnavailableError("the command closed its input") from exc
        return sent

    def close_stdin(self) -> None:
        """Let the command see the end of its input. Twice is harmless."""
        with self._stdin_lock:
            fd, self._stdin = self._stdin, None
        if fd is not None:
            os.close(fd)

    def _start(self) -> None:
        """Begin to read; apart from ``__init__``, because the first call may come at once."""
        reader = pump()
        for stream, fd in list(self._reading.items()):
            reader.read(fd, lambda data, stream=stream: self._take(stream, data))  # type: ignore[misc] # mypy cannot type a default
        # A future keeps its callbacks for ever: this one lets go of the command when it is called.
        held = [self]
        self._child.exited.add_done_callback(
            lambda future: reader.call(partial(held.pop()._finish, future.result()))  # noqa: SLF001 - our own
        )
        if self._spec.kill_after_s is not None:
            reader.call_later(self._spec.kill_after_s, partial(_kill, weakref.ref(self)))

    def _take(self, stream: Stream, data: bytes, *, is_note: bool = False) -> None:
        if not data:
            self._reading.pop(stream, None)
            return
        if self.exit_code is not None:
            return  # read so that what runs on is not stopped by a full pipe, and not kept
        with self._news:
            try:
                self._log.append(stream, data, is_note=is_note)
            except OSError as exc:
                self._trouble = f"output was lost: {exc.strerror or exc}"
                log.warning("a command's %s", self._trouble)
        self._tell()

    def _finish(self, code: int) -> None:
        """Keep what stood in the pipes at the exit, then end; nobody waits for a pipe's end."""
        for fd in list(self._reading.values()):
            pump().drain(fd, _waiting_bytes(fd))
        for line in filter(None, (*self._child.notes, self._trouble)):
            self._take("stderr", f"opencode-magic: {line}\n".encode(), is_note=True)
        if self._spec.is_group_ended:
            self.signal(signal.SIGKILL)
        with self._news:
            self.exit_code = code
        self.close_stdin()
        self._tell()

    def _tell(self) -> None:
        with self._news:
            self._news.notify_all()
            wakes = list(self._wakes)
        for wake in wakes:
            with contextlib.suppress(RuntimeError):  # a subscriber's event loop may have closed
                wake()


def _kill(held: weakref.ref[Command]) -> None:
    """End a command whose time is over. Its limit does not hold one that ended long before."""
    command = held()
    if command is not None and command.exit_code is None:
        command.signal(signal.SIGKILL)


def _wait_writable(fd: int, timeout_s: float) -> None:
    """Wait for a pipe; `select` could not, once the server has a thousand files open."""
    waiting = select.poll()
    waiting.register(fd, select.POLLOUT)
    waiting.poll(timeout_s * 1000)


def _waiting_bytes(fd: int) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


@dataclass(slots=True)
class _Pipes:
    """The host's ends of a command's pipes, and the command's own."""

    stdin: int
    stdout: int
    stderr: int
    inner: tuple[int, int, int]


def _make_pipes() -> _Pipes:
    inner_in, stdin = os.pipe()
    stdout, inner_out = os.pipe()
    stderr, inner_err = os.pipe()
    os.set_blocking(stdin, False)
    return _Pipes(stdin, stdout, stderr, (inner_in, inner_out, inner_err))


def run(keeper: Keeper, spec: CommandSpec, base_env: Mapping[str, str]) -> Command:
    """Start a command; raises what ``Keeper.spawn`` raises."""
    pipes = _make_pipes()
    stdin, stdout, stderr = pipes.inner
    try:
        child = keeper.spawn(
            spec.argv,
            env={**base_env, **spec.env},
            cwd=spec.cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            limits=spec.limits,
        )
    except BaseException:
        for fd in (pipes.stdin, pipes.stdout, pipes.stderr):
            os.close(fd)
        raise
    finally:
        for fd in pipes.inner:
            os.close(fd)
    if not spec.has_stdin:
        os.close(pipes.stdin)
    command = Command(child, spec, pipes)
    command._start()  # noqa: SLF001 - same module
    return command
