"""One thread that reads the pipes of all commands and keeps their deadlines."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import queue
import select
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK_BYTES = 65536
_LONGEST_WAIT_S = 3600.0
log = logging.getLogger(__name__)


class Pump:
    """Calls back on its own thread, one call at a time. Safe to use from any thread.

    A call that fails is on record and concerns nobody else.
    """

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._wake, select.EPOLLIN)
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._readers: dict[int, Callable[[bytes], None]] = {}
        self._watched: dict[int, Callable[[], None]] = {}
        self._deadlines: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        threading.Thread(target=self._serve, name="command-pump", daemon=True).start()

    def call(self, task: Callable[[], None]) -> None:
        """Run a task on the pump's thread, soon and in order."""
        self._calls.put(task)
        os.eventfd_write(self._wake, 1)

    def call_later(self, delay_s: float, task: Callable[[], None]) -> None:
        """Run a task on the pump's thread after so many seconds."""
        entry = (time.monotonic() + delay_s, next(self._numbers), task)
        self.call(lambda: heapq.heappush(self._deadlines, entry))

    def read(self, fd: int, take: Callable[[bytes], None]) -> None:
        """Give ``take`` what comes from a pipe, then ``b""``; the pump closes the pipe then."""
        os.set_blocking(fd, False)

        def start() -> None:
            self._readers[fd] = take
            self._poll.register(fd, select.EPOLLIN)

        self.call(start)

    def watch(self, fd: int, task: Callable[[], None]) -> None:
        """Run a task once, when a descriptor such as a pidfd becomes readable; then close it."""

        def start() -> None:
            self._watched[fd] = task
            self._poll.register(fd, select.EPOLLIN)

        self.call(start)

    def drain(self, fd: int, most_bytes: int) -> None:
        """Read what stands in a pipe now, up to so many bytes. On the pump's thread only."""
        while fd in self._readers and most_bytes > 0:
            got = self._read_once(fd, min(most_bytes, _CHUNK_BYTES))
            if not got:
                return
            most_bytes -= got

    def _serve(self) -> None:
        while True:
            for fd, _event in self._poll.poll(self._time_left_s()):
                if fd == self._wake:
                    self._run_calls()
                elif fd in self._readers:
                    self._read_once(fd, _CHUNK_BYTES)
                elif fd in self._watched:
                    task = self._watched.pop(fd)
                    self._poll.unregister(fd)
                    os.close(fd)
                    _run(task)
            while self._deadlines and self._deadlines[0][0] <= time.monotonic():
                _run(heapq.heappop(self._deadlines)[2])

    def _time_left_s(self) -> float | None:
        if not self._deadlines:
            return None
        # Not longer than the kernel can be asked to wait for, which is 24 days.
        return min(max(0.0, self._deadlines[0][0] - time.monotonic()), _LONGEST_WAIT_S)

    def _run_calls(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        while True:
            try:
                task = self._calls.get_nowait()
            except queue.Empty:
                return
            _run(task)

    def _read_once(self, fd: int, most_bytes: int) -> int:
        try:
            data = os.read(fd, most_bytes)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        take = self._readers[fd]
        if not data:
            del self._readers[fd]
            self._poll.unregister(fd)
            os.close(fd)
        _run(partial(take, data))
        return len(data)


def _run(task: Callable[[], None]) -> None:
    try:
        task()
    except Exception:  # a background thread's outer edge
        log.exception("a command's output or end could not be handled")


_lock = threading.Lock()
_pumps: list[Pump] = []


def pump() -> Pump:
    """Give the one pump of this process."""
    with _lock:
        if not _pumps:
            _pumps.append(Pump())
        return _pumps[0]
