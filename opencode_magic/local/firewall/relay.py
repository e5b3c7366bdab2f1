"""Copies bytes between pairs of sockets: one thread for all spliced connections of a sandbox.

One thread with epoll copies as fast as two threads a connection (both wait for the same
interpreter lock), and thousands of idle connections cost no thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opencode_magic.local.firewall.connections import Connection

CHUNK_BYTES = 2 * 1024 * 1024
"""What is read at once: fewer, larger pieces pass half as fast again as 64 KB."""
SMALL_CHUNK_BYTES = 64 * 1024
FEW_PAIRS = 16
"""With more connections than this each reads small chunks: one that stalls holds what it read."""
ROUND_BYTES = 4 * 1024 * 1024
"""How much of one connection is copied before the others get their turn."""
IDLE_TIMEOUT_S = 900.0
_SWEEP_S = 5.0
_REST_S = 0.5
_logger = logging.getLogger(__name__)
_READABLE = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR


@dataclass(slots=True, eq=False)
class _End:
    """One side of a pair: its socket, and what still has to be written to it."""

    sock: socket.socket
    pair: _Pair
    peer: _End = field(init=False, repr=False)
    pending: bytes = b""
    is_read_over: bool = False
    is_write_over: bool = False
    events: int = 0

    @property
    def wanted(self) -> int:
        """What to wait for."""
        events = 0
        if not self.is_read_over and not self.peer.pending:
            events |= select.EPOLLIN
        if self.pending:
            events |= select.EPOLLOUT
        return events


@dataclass(slots=True, eq=False)
class _Pair:
    """One spliced connection."""

    connection: Connection
    on_end: Callable[[Connection, str], None]
    client: _End = field(init=False)
    upstream: _End = field(init=False)
    used_s: float = field(default_factory=time.monotonic)
    is_over: bool = False


class Relay:
    """The copying thread. ``add`` may be called from any thread."""

    def __init__(self, *, idle_timeout_s: float = IDLE_TIMEOUT_S) -> None:
        self._idle_timeout_s = idle_timeout_s
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._wake, select.EPOLLIN)
        self._ends: dict[int, _End] = {}
        self._fresh: deque[_Pair] = deque()
        self._buffer = memoryview(bytearray(CHUNK_BYTES))
        self._is_closed = False
        self._may_copy = threading.Event()
        self._may_copy.set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="firewall-relay", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(
        self,
        connection: Connection,
        client: socket.socket,
        upstream: socket.socket,
        on_end: Callable[[Connection, str], None],
    ) -> None:
        """Copy both ways until both sides have ended; then ``on_end`` gets the reason.

        The sockets belong to the connection, which closes them after ``on_end``.
        """
        pair = _Pair(connection, on_end)
        pair.client = _End(client, pair)
        pair.upstream = _End(upstream, pair)
        pair.client.peer = pair.upstream
        pair.upstream.peer = pair.client
        client.settimeout(0)
        upstream.settimeout(0)
        with self._lock:
            if not self._is_closed:
                self._fresh.append(pair)
                os.eventfd_write(self._wake, 1)
                return
        self._end(pair, "the firewall ended")

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Copy nothing for a moment: who cuts many connections needs the interpreter alone."""
        self._may_copy.clear()
        try:
            yield
        finally:
            self._may_copy.set()

    def close(self) -> None:
        """End all pairs and the thread."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            os.eventfd_write(self._wake, 1)
        if self._thread.ident is None:
            self._finish()
        else:
            self._thread.join()

    def _run(self) -> None:
        swept_s = time.monotonic()
        while not self._is_closed:
            for fd, events in self._poll.poll(_SWEEP_S):
                if not self._may_copy.is_set():
                    self._may_copy.wait(_REST_S)
                if fd == self._wake:
                    self._admit()
                elif (end := self._ends.get(fd)) is not None:
                    self._guard(end, events)
            now_s = time.monotonic()
            if now_s - swept_s > _SWEEP_S:
                swept_s = now_s
                self._sweep(now_s)
        self._finish()

    def _guard(self, end: _End, events: int) -> None:
        try:
            self._serve(end, events)
        except Exception as exc:  # noqa: BLE001 - the thread's outer edge: one pair, not all
            _logger.error("a relayed connection ended with %s", type(exc).__name__)  # noqa: TRY400 - no traceback: its locals are what a program sent
            self._end(end.pair, "it was reset")

    def _admit(self) -> None:
        os.eventfd_read(self._wake)
        while self._fresh:
            pair = self._fresh.popleft()
            try:
                for end in (pair.client, pair.upstream):
                    fd = end.sock.fileno()
                    end.events = end.wanted
                    self._poll.register(fd, end.events)
                    self._ends[fd] = end
            except (OSError, ValueError):
                self._end(pair, "it was closed")

    def _serve(self, end: _End, events: int) -> None:
        pair = end.pair
        pair.used_s = time.monotonic()
        try:
            if pair.connection.is_cut:
                self._end(pair, pair.connection.cut_reason)
                return
            if end.pending:
                self._flush(end)
            if events & _READABLE and not end.is_read_over:
                self._pump(end)
            if events & select.EPOLLERR:
                # What came before the reset was copied; the event itself would never cease.
                self._end(pair, "it was reset")
                return
        except OSError:
            self._end(pair, pair.connection.cut_reason or "it was reset")
            return
        if pair.client.is_write_over and pair.upstream.is_write_over:
            self._end(pair, pair.connection.cut_reason)
            return
        self._watch(end)
        self._watch(end.peer)

    def _pump(self, source: _End) -> None:
        """Copy what the source has, until it has no more, or its peer takes no more."""
        sink = source.peer
        is_crowded = len(self._ends) > 2 * FEW_PAIRS
        chunk_bytes = SMALL_CHUNK_BYTES if is_crowded else CHUNK_BYTES
        for _ in range(ROUND_BYTES // chunk_bytes):
            if sink.pending:
                return
            try:
                size = source.sock.recv_into(self._buffer, chunk_bytes)
            except BlockingIOError:
                return
            if not size:
                source.is_read_over = True
                self._finish_writing(sink)
                return
            self._count(source, size)
            sent = 0
            with contextlib.suppress(BlockingIOError):
                sent = sink.sock.send(self._buffer[:size])
            if sent < size:
                sink.pending = bytes(self._buffer[sent:size])

    def _flush(self, sink: _End) -> None:
        with contextlib.suppress(BlockingIOError):
            sent = sink.sock.send(sink.pending)
            sink.pending = sink.pending[sent:]
        if not sink.pending and sink.peer.is_read_over:
            self._finish_writing(sink)

    @staticmethod
    def _finish_writing(sink: _End) -> None:
        if not sink.pending and not sink.is_write_over:
            sink.is_write_over = True
            with contextlib.suppress(OSError):
                sink.sock.shutdown(socket.SHUT_WR)

    @staticmethod
    def _count(source: _End, size: int) -> None:
        if source is source.pair.client:
            source.pair.connection.bytes_out += size
        else:
            source.pair.connection.bytes_in += size

    def _watch(self, end: _End) -> None:
        wanted = end.wanted
        if wanted != end.events:
            # With no event left to wait for, EPOLLHUP would still be reported without end.
            fd = end.sock.fileno()
            if not wanted:
                self._poll.unregister(fd)
            elif not end.events:
                self._poll.register(fd, wanted)
            else:
                self._poll.modify(fd, wanted)
            end.events = wanted

    def _end(self, pair: _Pair, reason: str) -> None:
        if pair.is_over:
            return
        pair.is_over = True
        for end in (pair.client, pair.upstream):
            fd = end.sock.fileno()
            if self._ends.get(fd) is end:
                del self._ends[fd]
                if end.events:
                    with contextlib.suppress(OSError):
                        self._poll.unregister(fd)
        pair.on_end(pair.connection, reason)

    def _sweep(self, now_s: float) -> None:
        pairs = {id(end.pair): end.pair for end in self._ends.values()}
        for pair in pairs.values():
            if pair.connection.is_cut:
                self._end(pair, pair.connection.cut_reason)
            elif now_s - pair.used_s > self._idle_timeout_s:
                self._end(pair, "nothing was sent for a long time")

    def _finish(self) -> None:
        pairs = {id(end.pair): end.pair for end in self._ends.values()}
        with self._lock:
            fresh = list(self._fresh)
            self._fresh.clear()
        for pair in (*pairs.values(), *fresh):
            self._end(pair, "the sandbox ended")
        self._poll.close()
        os.close(self._wake)
