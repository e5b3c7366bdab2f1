"""One side of a terminated connection: a socket that never blocks, plain or TLS."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time

_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
READ_BYTES = 128 * 1024
FULL_BYTES = 64 * 1024
"""With more than this waiting to be written, the other side is not read."""
_RECORD_BYTES = 16 * 1024
SPIN_S = 60e-6
"""How long to look again and again for what came quickly the last time: a thread that sleeps and is
woken on another processor loses half of that."""
_thread = threading.local()


class PeerClosedError(Exception):
    """This side has gone away."""


class Peer:
    """Reads what is there, writes what is taken, keeps the rest."""

    def __init__(self, sock: socket.socket | ssl.SSLSocket) -> None:
        sock.settimeout(0)
        self.sock = sock
        self._pieces: list[bytes | memoryview] = []
        self._waiting = 0
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self.is_read_over = False
        self.may_read = True
        """Whether a read may give something; waiting sets it again."""
        self.is_quick = False
        """Whether the last wait for it was short."""

    @property
    def is_full(self) -> bool:
        """Whether what it was given must be written first."""
        return self._waiting > FULL_BYTES

    @property
    def has_unsent(self) -> bool:
        """Whether something still has to be written."""
        return bool(self._pieces)

    def read(self) -> memoryview | None:
        """Give what has come: None for nothing yet, no bytes for the end.

        What it gives is good until the next read of any peer in this thread: a new buffer for
        each read costs more page faults than the data costs time.

        Raises:
            PeerClosedError: The connection broke.
        """
        buffer = _buffer()
        try:
            size = self.sock.recv_into(buffer)
            if self._is_tls and size >= _RECORD_BYTES:
                size = self._read_more(buffer, size)
        except _NOT_NOW:
            self.may_read = False
            return None
        except (OSError, ValueError) as exc:
            raise PeerClosedError from exc
        if not size:
            self.is_read_over = True
        return buffer[:size]

    def write(self, data: bytes | memoryview | None) -> None:
        """Queue bytes, which nobody changes from here on; :meth:`flush` sends them."""
        if data:
            self._pieces.append(data)
            self._waiting += len(data)

    def pass_on(self, data: memoryview) -> None:
        """Send what the other side takes now; a copy is kept of the rest.

        Raises:
            PeerClosedError: The connection broke.
        """
        if self._pieces:
            self.write(bytes(data))
            return
        self.write(data)
        self.flush()
        self._pieces = [bytes(piece) for piece in self._pieces]

    def drop_unsent(self) -> None:
        """Forget what was not sent."""
        self._pieces.clear()
        self._waiting = 0

    def flush(self) -> bool:
        """Send what the other side takes now; whether any of it went.

        Raises:
            PeerClosedError: The connection broke.
        """
        if not self._pieces:
            return False
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        view = memoryview(data)
        sent = 0
        try:
            while sent < len(data):
                sent += self.sock.send(view[sent:])
        except _NOT_NOW:
            # OpenSSL wants the same bytes again after this; they stay in front.
            pass
        except (OSError, ValueError) as exc:
            raise PeerClosedError from exc
        self._waiting -= sent
        self._pieces = [view[sent:]] if sent < len(data) else []
        return sent > 0

    def flush_all(self, *, timeout_s: float) -> None:
        """Send everything that is queued, as long as that takes within a limit.

        Raises:
            PeerClosedError: The connection broke, or the time is over.
        """
        deadline_s = time.monotonic() + timeout_s
        while self._pieces:
            if not self.flush() and not wait_any([(self, select.POLLOUT)], deadline_s):
                raise PeerClosedError

    def say_end(self) -> None:
        """Tell the other side that nothing more comes: TLS ends with a message of its own."""
        if isinstance(self.sock, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                self.sock.unwrap()

    def linger(self, *, timeout_s: float) -> None:
        """End our side, and take what still comes: a reset would destroy the answer on its way."""
        self.say_end()
        deadline_s = time.monotonic() + timeout_s
        buffer = bytearray(65_536)
        with contextlib.suppress(OSError):
            # The base class, because TLS is over: what still comes is not read, only taken.
            socket.socket.shutdown(self.sock, socket.SHUT_WR)
            while wait_any([(self, select.POLLIN)], deadline_s):
                if not socket.socket.recv_into(self.sock, buffer):
                    return

    def _read_more(self, buffer: memoryview, size: int) -> int:
        """Join the TLS records that are there: each is 16 KB at most."""
        with contextlib.suppress(OSError):  # if it broke, the next read says so
            while size < READ_BYTES and (count := self.sock.recv_into(buffer[size:])):
                size += count
        return size


def _buffer() -> memoryview:
    try:
        buffer: memoryview = _thread.buffer
    except AttributeError:
        buffer = _thread.buffer = memoryview(bytearray(READ_BYTES))
    return buffer


def wait_any(wanted: list[tuple[Peer, int]], deadline_s: float) -> int:
    """Wait until one of the sides is ready.

    Returns:
        All that happened, as poll events; 0 when the time (monotonic) is over.

    Raises:
        PeerClosedError: A socket was closed meanwhile.
    """
    began_s = time.monotonic()
    if began_s >= deadline_s:
        return 0
    poll = select.poll()
    peers: dict[int, Peer] = {}
    for peer, events in wanted:
        fd = peer.sock.fileno()
        if fd < 0:
            raise PeerClosedError
        if events:
            peers[fd] = peer
            poll.register(fd, events)
    last = wanted[-1][0]
    found = poll.poll(0)
    while last.is_quick and not found and time.monotonic() < began_s + SPIN_S:
        found = poll.poll(0)
    found = found or poll.poll((deadline_s - began_s) * 1000)
    last.is_quick = time.monotonic() < began_s + 2 * SPIN_S
    happened = 0
    for fd, events in found:
        happened |= events
        if events & ~select.POLLOUT:
            peers[fd].may_read = True
    return happened
