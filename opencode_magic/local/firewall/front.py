"""One thread that accepts, waits for first bytes without taking them, and answers look-ups.

A connection costs nothing but its socket until its first bytes are whole: slow and half-open
connections hold no thread, and nothing goes anywhere before the verdict.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from opencode_magic.core.policy import Request, decide
from opencode_magic.local.firewall.gate import Arrival, Gate
from opencode_magic.local.firewall.head import (
    HEAD_LIMIT_BYTES,
    find_head_end,
    is_http,
    parse_connect,
)
from opencode_magic.local.firewall.lookups import (
    PacketWatch,
    UdpLookups,
    answer_stream,
    record_unlisted,
)
from opencode_magic.local.firewall.tls import (
    HELLO_LIMIT_BYTES,
    ClientHello,
    Incomplete,
    NotTls,
    parse_client_hello,
)
from opencode_magic.local.firewall.wall import REASON_TOO_MANY, Wall

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Kind = Literal["tls", "http", "proxy", "dns"]

HEAD_TIMEOUT_S = 10.0
WAITING_LIMIT = 1024
REASON_TOO_SLOW = "it did not say in time where it wants to go"
REASON_SILENT = "it ended before it said where it wants to go"
REASON_NOT_HTTP = "not HTTP"
_ACCEPTS = 64
_RECHECK_S = 0.05
_TICK_S = 0.5
_PEEK_BYTES = max(HEAD_LIMIT_BYTES, HELLO_LIMIT_BYTES) + 4096
_logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Waiting:
    """A connection whose first bytes are not whole yet."""

    arrival: Arrival
    kind: Kind
    deadline_s: float
    seen_bytes: int = 0
    is_stalled: bool = False
    is_answered: bool = False
    """A DNS connection that had its answers: its end is no attempt."""


class Front:
    """The thread in front of everything. It owns the listeners."""

    def __init__(self, wall: Wall, gate: Gate, listeners: Mapping[str, socket.socket]) -> None:
        self._wall = wall
        self._gate = gate
        self._listeners = dict(listeners)
        self._selector = selectors.DefaultSelector()
        self._waiting: dict[_Waiting, None] = {}
        self.waiting_limit = WAITING_LIMIT
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._wake_in, self._wake_out = socket.socketpair()
        self._next_check_s = 0.0
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="firewall-front", daemon=True)
        self._selector.register(self._wake_in, selectors.EVENT_READ, lambda: None)
        for name, sock in self._listeners.items():
            sock.settimeout(0)
            self._selector.register(sock, selectors.EVENT_READ, self._handler(name, sock))

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, the listeners and everything that waits."""
        if self._is_closed:
            return
        self._is_closed = True
        self._wake_out.send(b"x")
        if self._thread.is_alive():
            self._thread.join()
        for waiting in list(self._waiting):
            waiting.arrival.sock.close()
        self._waiting.clear()
        self._selector.close()
        for sock in (*self._listeners.values(), self._wake_in, self._wake_out):
            sock.close()
        os.close(self._spare)

    def _handler(self, name: str, sock: socket.socket) -> Callable[[], None]:
        """Give what is done when a listener has something."""
        if name.startswith("packets"):
            return PacketWatch(self._wall, sock).serve
        if name.startswith("dns") and sock.type == socket.SOCK_DGRAM:
            return UdpLookups(self._wall, sock).serve
        kinds: tuple[Kind, ...] = ("tls", "http", "proxy", "dns")
        for kind in kinds:
            if name.startswith(kind):
                return lambda: self._accept(kind, sock)
        raise ValueError(f"no front for the listener {name!r}")

    def _run(self) -> None:
        while not self._is_closed:
            timeout_s = _RECHECK_S if self._waiting else _TICK_S
            for key, _ in self._selector.select(timeout_s):
                self._guard(key.data)
            self._guard(self._recheck)

    def _guard(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:
            # The thread's outer edge: one connection must never end the firewall.
            _logger.exception("the firewall's front went on after an error")

    def _accept(self, kind: Kind, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS):
            try:
                sock, peer = listener.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in {errno.EMFILE, errno.ENFILE}:
                    self._accept_without_room(kind, listener)
                return
            self._welcome(kind, sock, peer[1])

    def _accept_without_room(self, kind: Kind, listener: socket.socket) -> None:
        """Refuse with the one descriptor that is kept for this."""
        os.close(self._spare)
        with contextlib.suppress(OSError):
            sock, peer = listener.accept()
            self._gate.refuse(self._arrival(kind, sock, peer[1]), REASON_TOO_MANY)
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _arrival(self, kind: Kind, sock: socket.socket, source_port: int) -> Arrival:
        channel = kind
        return Arrival(
            sock, channel, str(sock.getsockname()[0]), source_port, self._wall.next_connection_id()
        )

    def _welcome(self, kind: Kind, sock: socket.socket, source_port: int) -> None:
        sock.settimeout(0)
        if kind != "dns":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        arrival = self._arrival(kind, sock, source_port)
        if len(self._waiting) >= self.waiting_limit:
            self._drop(next(iter(self._waiting)), REASON_TOO_MANY)
        self._wait_for(_Waiting(arrival, kind, time.monotonic() + HEAD_TIMEOUT_S))

    def _wait_for(self, waiting: _Waiting) -> None:
        self._waiting[waiting] = None
        sock = waiting.arrival.sock
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._look(waiting))
        self._look(waiting)

    def _forget(self, waiting: _Waiting) -> None:
        """Stop waiting; the socket is as it was when it was accepted."""
        if self._waiting.pop(waiting, 0) is None:
            if not waiting.is_stalled:
                self._selector.unregister(waiting.arrival.sock)
            with contextlib.suppress(OSError):
                waiting.arrival.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def _drop(self, waiting: _Waiting, reason: str) -> None:
        """Stop waiting and refuse."""
        self._forget(waiting)
        if waiting.is_answered:
            waiting.arrival.sock.close()
        else:
            self._gate.refuse(waiting.arrival, reason)

    def _look(self, waiting: _Waiting) -> None:
        """Look at the first bytes, which stay where they are, and act when they are whole."""
        try:
            data = waiting.arrival.sock.recv(_PEEK_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end_silent(waiting)
        elif waiting.is_stalled and len(data) == waiting.seen_bytes:
            return  # read before, and not worth another time
        elif not self._act(waiting, data):
            self._wait_for_more(waiting, len(data))

    def _end_silent(self, waiting: _Waiting) -> None:
        """Take leave of a program that said nothing.

        A program that tries both address families at once drops the slower connection: towards an
        allowed name that is no attempt to leave, and it is not recorded.
        """
        name = self._wall.name_at(waiting.arrival.address)
        if decide(self._wall.policy, Request(name)).is_allowed:
            self._forget(waiting)
            waiting.arrival.sock.close()
        else:
            self._drop(waiting, REASON_SILENT)

    def _wait_for_more(self, waiting: _Waiting, size: int) -> None:
        sock = waiting.arrival.sock
        if size > waiting.seen_bytes:
            waiting.seen_bytes = size
            # Readable again only with more than this: peeked bytes would wake us without end.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size + 1)
        elif not waiting.is_stalled:
            # Readable with nothing new: the program has ended its side. Looked at again by time.
            waiting.is_stalled = True
            self._selector.unregister(sock)

    def _recheck(self) -> None:
        now_s = time.monotonic()
        if now_s < self._next_check_s:
            return
        self._next_check_s = now_s + _RECHECK_S
        record_unlisted(self._wall)
        for waiting in list(self._waiting):
            if waiting.deadline_s <= now_s:
                self._drop(waiting, REASON_TOO_SLOW)
            elif waiting.is_stalled:
                self._look(waiting)

    def _act(self, waiting: _Waiting, data: bytes) -> bool:
        """Give whole first bytes to the gate; False while they are not."""
        if waiting.kind == "tls":
            return self._act_tls(waiting, data)
        if waiting.kind == "dns":
            return self._act_dns(waiting, data)
        if not is_http(data):
            self._drop(waiting, REASON_NOT_HTTP)
            return True
        end = find_head_end(data)
        if not end and len(data) < HEAD_LIMIT_BYTES:
            return False
        self._forget(waiting)
        authority = parse_connect(data[:end]) if waiting.kind == "proxy" else None
        if authority is None:
            self._gate.admit_http(waiting.arrival)
            return True
        waiting.arrival.sock.recv(end)
        arrival = self._gate.admit_connect(waiting.arrival, authority)
        if arrival is not None:
            self._wait_for(_Waiting(arrival, "tls", time.monotonic() + HEAD_TIMEOUT_S))
        return True

    def _act_tls(self, waiting: _Waiting, data: bytes) -> bool:
        match parse_client_hello(data):
            case Incomplete():
                if len(data) <= HELLO_LIMIT_BYTES:
                    return False
                self._drop(waiting, "the ClientHello is too long")
            case NotTls(reason):
                self._drop(waiting, reason)
            case ClientHello() as hello:
                self._forget(waiting)
                self._gate.admit_tls(waiting.arrival, hello)
        return True

    def _act_dns(self, waiting: _Waiting, data: bytes) -> bool:
        taken, answers = answer_stream(self._wall, data, waiting.arrival.source_port)
        if taken is None:
            self._forget(waiting)
            waiting.arrival.sock.close()
            return True
        if not taken:
            return False
        with contextlib.suppress(OSError):
            waiting.arrival.sock.recv(taken)
            waiting.arrival.sock.send(answers)
        waiting.seen_bytes = 0
        waiting.is_answered = True
        with contextlib.suppress(OSError):
            waiting.arrival.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        return True
