"""A port inside a sandbox, published on loopback for one user: bytes go both ways."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from opencode_magic.local.peers import owner_of

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK_BYTES = 65536
CONNECTIONS_LIMIT = 256
FIRST_BYTES_TIMEOUT_S = 0.5
RETRY_S = 0.05


def _answer(status: str, code: str, message: str) -> bytes:
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


NOT_LISTENING = _answer(
    "502 Bad Gateway", "SANDBOX_NOT_LISTENING", "Nothing listens on this port inside."
)
NOT_YOURS = _answer("403 Forbidden", "FORBIDDEN", "This port belongs to another user's sandbox.")


class PublishedPort:
    """One published port. It listens once it is made, and until it is closed.

    Args:
        connect: Gives a new connection to the port inside, or raises OSError.
        owner_uid: Whom it serves, beside root; this process's own user where it is not said. On a
            machine that many share, loopback is everybody's.
    """

    def __init__(
        self, connect: Callable[[], socket.socket], *, owner_uid: int | None = None
    ) -> None:
        self._connect = connect
        self._users = {0, os.geteuid() if owner_uid is None else owner_uid}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.host_port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_closed = False
        threading.Thread(target=self._accept, name="published-port", daemon=True).start()

    @property
    def url(self) -> str:
        """Where the port can be reached."""
        return f"http://127.0.0.1:{self.host_port}"

    def close(self) -> None:
        """Stop listening and end every connection. Twice is harmless."""
        with self._lock:
            self._is_closed = True
            sockets = [self._listener, *self._open]
            self._open.clear()
        for item in sockets:
            _end(item)

    def _accept(self) -> None:
        while True:
            try:
                outside, _ = self._listener.accept()
            except OSError:
                if self._is_closed:
                    return
                time.sleep(RETRY_S)  # no file is left, for now
                continue
            if not self._is_ours(outside):
                _tell(outside, NOT_YOURS)
                _end(outside)
                continue
            if not self._add(outside):
                _end(outside)
                continue
            try:
                threading.Thread(target=self._serve, args=(outside,), daemon=True).start()
            except RuntimeError:
                self._drop(outside)  # no thread is left, for now

    def _serve(self, outside: socket.socket) -> None:
        try:
            inside = self._connect()
        except OSError:
            _answer_not_listening(outside)
            self._drop(outside)
            return
        if not self._add(inside):
            _end(inside)
            self._drop(outside)
            return
        back = threading.Thread(target=_copy, args=(inside, outside), daemon=True)
        with suppress(RuntimeError):  # no thread is left, for now
            back.start()
            _copy(outside, inside)
            back.join()
        self._drop(outside)
        self._drop(inside)

    def _is_ours(self, outside: socket.socket) -> bool:
        while not self._is_closed:
            try:
                return owner_of(outside) in self._users
            except OSError:
                time.sleep(RETRY_S)  # no file is left, for now
        return False

    def _add(self, item: socket.socket) -> bool:
        with self._lock:
            if self._is_closed or len(self._open) >= 2 * CONNECTIONS_LIMIT:
                return False
            self._open.add(item)
        return True

    def _drop(self, item: socket.socket) -> None:
        with self._lock:
            self._open.discard(item)
        _end(item)


def _copy(source: socket.socket, target: socket.socket) -> None:
    buffer = bytearray(CHUNK_BYTES)
    view = memoryview(buffer)
    try:
        while count := source.recv_into(buffer):
            target.sendall(view[:count])
    except OSError:
        # One direction broke: nothing can be answered on the other.
        for item in (source, target):
            with suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)
    else:
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def _answer_not_listening(outside: socket.socket) -> None:
    with suppress(OSError):
        # Unread bytes would turn the close into a reset, and the answer would be lost.
        outside.settimeout(FIRST_BYTES_TIMEOUT_S)
        outside.recv(CHUNK_BYTES)
        outside.sendall(NOT_LISTENING)


def _tell(outside: socket.socket, answer: bytes) -> None:
    with suppress(OSError):
        outside.settimeout(0)  # the thread that accepts waits for nobody
        outside.sendall(answer)


def _end(item: socket.socket) -> None:
    with suppress(OSError):
        item.shutdown(socket.SHUT_RDWR)
    item.close()
