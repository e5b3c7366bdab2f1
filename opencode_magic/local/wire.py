"""Messages with file descriptors over a Unix stream socket: length, JSON, SCM_RIGHTS.

Used by the host, by the keeper and inside the sandbox, so it needs the standard library only.
"""

from __future__ import annotations

import array
import json
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MESSAGE_LIMIT_BYTES = 8 * 1024 * 1024
FDS_LIMIT = 32
_HEAD = 4
_RECEIVE_BYTES = 65536
_FD_BYTES = array.array("i").itemsize


class WireError(Exception):
    """The other side is gone or does not keep to the protocol."""


class MessageTooLargeError(WireError):
    """A message is larger than the other side would take; nothing was sent."""


def send_message(
    channel: socket.socket, message: Mapping[str, object], fds: Sequence[int] = ()
) -> None:
    """Send one message whole; its descriptors travel with the first byte.

    Raises:
        WireError: The other side is gone, or took nothing within the socket's time limit.
        MessageTooLargeError: It is too large to send.
    """
    body = json.dumps({**message, "fds": len(fds)}).encode()
    if len(body) > MESSAGE_LIMIT_BYTES:
        msg = f"a message of {len(body)} bytes is over the limit"
        raise MessageTooLargeError(msg)
    data = len(body).to_bytes(_HEAD, "big") + body
    try:
        sent = socket.send_fds(channel, [data], fds) if fds else channel.send(data)
        channel.sendall(data[sent:])
    except OSError as exc:
        msg = f"cannot send: {exc}"
        raise WireError(msg) from exc


class MessageReader:
    """Gives the messages of one socket in order.

    Descriptors are taken only where ``takes_fds``; the kernel drops what is not taken.
    """

    def __init__(self, channel: socket.socket, *, takes_fds: bool) -> None:
        self._channel = channel
        self._takes_fds = takes_fds
        self._buffer = bytearray()
        self._fds: list[int] = []

    def read(self) -> tuple[dict[str, object], list[int]]:
        """Wait for a message; the descriptors (close-on-exec) belong to the caller.

        Raises:
            WireError: The other side closed, or sent what is no message.
        """
        while True:
            found = self._take()
            if found is not None:
                return found
            self._receive()

    def read_ready(self) -> list[tuple[dict[str, object], list[int]]]:
        """Give every whole message after one receive; none where more is to come.

        Raises:
            WireError: The other side closed, or sent what is no message.
        """
        self._receive()
        messages = []
        while (found := self._take()) is not None:
            messages.append(found)
        return messages

    def close(self) -> None:
        """Close descriptors that no message claimed."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def _receive(self) -> None:
        try:
            if self._takes_fds:
                data = self._receive_with_fds()
            else:
                data = self._channel.recv(_RECEIVE_BYTES)
        except OSError as exc:
            msg = f"cannot receive: {exc}"
            raise WireError(msg) from exc
        if not data:
            msg = "the other side closed"
            raise WireError(msg)
        self._buffer += data

    def _receive_with_fds(self) -> bytes:
        # Not socket.recv_fds: Python 3.11 drops its flags, and what came in would be inherited.
        data, controls, _flags, _address = self._channel.recvmsg(
            _RECEIVE_BYTES, socket.CMSG_SPACE(FDS_LIMIT * _FD_BYTES), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, payload in controls:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(payload[: len(payload) - len(payload) % _FD_BYTES])
                self._fds += fds
        return data

    def _take(self) -> tuple[dict[str, object], list[int]] | None:
        if len(self._buffer) < _HEAD:
            return None
        size = int.from_bytes(self._buffer[:_HEAD], "big")
        if size > MESSAGE_LIMIT_BYTES:
            msg = f"a message of {size} bytes is over the limit"
            raise WireError(msg)
        if len(self._buffer) < _HEAD + size:
            return None
        body = bytes(self._buffer[_HEAD : _HEAD + size])
        del self._buffer[: _HEAD + size]
        return self._parse(body)

    def _parse(self, body: bytes) -> tuple[dict[str, object], list[int]]:
        try:
            message = json.loads(body)
        except (ValueError, RecursionError) as exc:
            msg = "a message is not JSON"
            raise WireError(msg) from exc
        count = message.pop("fds", 0) if isinstance(message, dict) else None
        if not isinstance(count, int) or not 0 <= count <= len(self._fds):
            msg = "a message is malformed"
            raise WireError(msg)
        fds, self._fds = self._fds[:count], self._fds[count:]
        return message, fds
