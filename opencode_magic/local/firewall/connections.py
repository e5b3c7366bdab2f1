"""The live connections of one sandbox: who they go to, and how they are cut."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from opencode_magic.core.policy import Request, Rule
    from opencode_magic.local.firewall.record import Attempt

_DRAIN_STEP_S = 0.005
_LINGER_OFF = struct.pack("ii", 1, 0)


class Connection:
    """One connection of a program inside, from its verdict to its end.

    ``cut`` may be called from any thread; closing belongs to the thread that serves it.
    """

    def __init__(self, attempt: Attempt, client: socket.socket) -> None:
        self.attempt = attempt
        self.request: Request | None = None
        """The request that is being served, where TLS ends here."""
        self.rule: Rule | None = None
        self.address = ""
        """Where outside it leads, once connected; empty for what the user mapped."""
        self.is_unchecked = False
        """Where it leads is known to the user's upstream proxy alone."""
        self.is_terminated = False
        self.is_plain = False
        """Plain HTTP: each request names its own host."""
        self.is_by_address = False
        """Allowed by the subnet of its address and not by its name."""
        self.cut_reason = ""
        self.bytes_out = 0
        self.bytes_in = 0
        self._sockets = [client]
        self._is_closed = False
        self._lock = threading.Lock()

    @property
    def host(self) -> str:
        """Where it goes, by name where there is one."""
        return self.attempt.host

    @property
    def is_cut(self) -> bool:
        """Whether it was cut before its end."""
        return bool(self.cut_reason)

    def own(self, sock: socket.socket) -> bool:
        """Add a socket that is cut and closed with the rest; False where it is cut already."""
        with self._lock:
            if self._is_closed or self.cut_reason:
                abort(sock)
                return False
            self._sockets.append(sock)
            return True

    def replace(self, old: socket.socket, new: socket.socket) -> None:
        """Put a socket in the place of the one it wraps."""
        with self._lock:
            self._sockets = [new if sock is old else sock for sock in self._sockets]

    def disown(self, sock: socket.socket) -> None:
        """Close one socket before the others."""
        with self._lock:
            self._sockets = [kept for kept in self._sockets if kept is not sock]
            sock.close()

    def cut(self, reason: str) -> bool:
        """End it at once, from outside; False where it has ended already."""
        with self._lock:
            if self._is_closed or self.cut_reason:
                return False
            self.cut_reason = reason
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    # The base class: an SSLSocket's own would take its state from the thread
                    # that serves it.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
            return True

    def close(self, *, is_abort: bool = False) -> None:
        """Close all its sockets; with a reset where it was cut or aborted."""
        with self._lock:
            self._is_closed = True
            for sock in self._sockets:
                if is_abort or self.cut_reason:
                    abort(sock)
                else:
                    sock.close()
            self._sockets.clear()


class Connections:
    """All live connections, bounded. Thread-safe."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._live: dict[int, Connection] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._live)

    def add(self, connection: Connection) -> bool:
        """Keep a connection; False where there are too many."""
        with self._lock:
            if len(self._live) >= self._limit:
                return False
            self._live[id(connection)] = connection
            return True

    def discard(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        with self._lock:
            self._live.pop(id(connection), None)

    def cut(self, reason: str, is_meant: Callable[[Connection], bool]) -> int:
        """Cut those that are meant; give their number."""
        with self._lock:
            live = list(self._live.values())
        meant = [connection for connection in live if is_meant(connection)]
        # Those that a thread waits for come last: each that wakes takes its turn of this one's.
        meant.sort(key=lambda connection: connection.is_terminated)
        return sum(connection.cut(reason) for connection in meant)


def drain(sock: socket.socket, *, timeout_s: float) -> None:
    """Wait until the other side has what was sent: a reset destroys what is still on its way."""
    deadline_s = time.monotonic() + timeout_s
    with contextlib.suppress(OSError):
        while time.monotonic() < deadline_s:
            left = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4)
            if not any(left):
                return
            time.sleep(_DRAIN_STEP_S)


def abort(sock: socket.socket) -> None:
    """Close a socket with a reset, so that the other side knows at once."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
    sock.close()
