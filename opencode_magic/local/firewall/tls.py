"""The first bytes of a TLS connection -> what its ClientHello says in the clear.

Sources: RFC 8446 section 4.1.2 (ClientHello), RFC 6066 section 3 (server_name), RFC 9849
(encrypted ClientHello). Nothing is decrypted and nothing is answered here.
"""

from __future__ import annotations

from dataclasses import dataclass

HELLO_LIMIT_BYTES = 65_536
"""A ClientHello that is longer is refused; real ones stay under 4 KB."""
RECORDS_LIMIT = 1024
"""A ClientHello in more records is refused; real ones have one or two, and each costs time."""

_HANDSHAKE = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_ALPN = 16
_ENCRYPTED_HELLO = 0xFE0D
_RECORD_LIMIT_BYTES = 16_384
_RECORD_HEAD_BYTES = 5
_MAJOR_VERSION = 3


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a program shows before anything is encrypted."""

    server_name: str = ""
    """As sent; empty where there is none."""
    has_encrypted_hello: bool = False
    """A second, encrypted ClientHello may name another host (or be grease: it cannot be told)."""
    protocols: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Incomplete:
    """More bytes are needed."""


@dataclass(frozen=True, slots=True)
class NotTls:
    """These bytes are no ClientHello, whatever follows."""

    reason: str


Hello = ClientHello | Incomplete | NotTls


class _MalformedError(Exception):
    """A length leads outside its field."""


def parse_client_hello(data: bytes) -> Hello:  # noqa: PLR0911 - each return is one case of the format
    """Read the ClientHello at the start of a connection, in any fragmentation. Never raises."""
    message = _join_records(data)
    if not isinstance(message, bytes):
        return message
    if message and message[0] != _CLIENT_HELLO:
        return NotTls("not a ClientHello")
    if len(message) < 4:  # noqa: PLR2004 - type and length of a handshake message
        return Incomplete()
    length = int.from_bytes(message[1:4], "big")
    if length > HELLO_LIMIT_BYTES:
        return NotTls("the ClientHello is too long")
    if len(message) < 4 + length:
        return Incomplete()
    try:
        return _parse_body(_Reader(message[4 : 4 + length]))
    except _MalformedError:
        return NotTls("the ClientHello is malformed")


def _join_records(data: bytes) -> bytes | Incomplete | NotTls:
    """Give the handshake bytes so far, taken out of their TLS records."""
    joined = bytearray()
    at = records = 0
    while at < len(data):
        records += 1
        if records > RECORDS_LIMIT:
            return NotTls("the ClientHello is in too many pieces")
        if data[at] != _HANDSHAKE:
            return NotTls("not TLS")
        head = data[at : at + _RECORD_HEAD_BYTES]
        if len(head) > 1 and head[1] != _MAJOR_VERSION:
            return NotTls("not TLS")
        if len(head) < _RECORD_HEAD_BYTES:
            break
        length = int.from_bytes(head[3:5], "big")
        if not 0 < length <= _RECORD_LIMIT_BYTES:
            return NotTls("not TLS")
        at += _RECORD_HEAD_BYTES
        joined += data[at : at + length]
        at += length
        if _is_whole(joined):
            break
    return bytes(joined) if joined else Incomplete()


def _is_whole(joined: bytearray) -> bool:
    return len(joined) >= 4 and len(joined) >= 4 + int.from_bytes(joined[1:4], "big")  # noqa: PLR2004 - type and length


def _parse_body(body: _Reader) -> ClientHello | NotTls:
    body.take(2 + 32)  # version, random
    body.take(body.number(1))  # session id
    body.take(body.number(2))  # cipher suites
    body.take(body.number(1))  # compression methods
    if not body.left:
        return ClientHello()
    extensions = _Reader(body.take(body.number(2)))
    names: list[str] = []
    protocols: tuple[bytes, ...] = ()
    has_encrypted_hello = False
    while extensions.left:
        kind = extensions.number(2)
        value = _Reader(extensions.take(extensions.number(2)))
        if kind == _SERVER_NAME:
            names += _parse_names(value)
        elif kind == _ALPN:
            protocols = _parse_protocols(value)
        elif kind == _ENCRYPTED_HELLO:
            has_encrypted_hello = True
    if len(names) > 1:
        return NotTls("the ClientHello names two hosts")
    return ClientHello(names[0] if names else "", has_encrypted_hello, protocols)


def _parse_names(value: _Reader) -> list[str]:
    entries = _Reader(value.take(value.number(2)))
    names = []
    while entries.left:
        kind = entries.number(1)
        name = entries.take(entries.number(2))
        if kind == 0:
            # Latin-1 keeps every byte; what is no ASCII name is refused as a name later.
            names.append(name.decode("latin-1"))
    return names


def _parse_protocols(value: _Reader) -> tuple[bytes, ...]:
    entries = _Reader(value.take(value.number(2)))
    protocols = []
    while entries.left:
        protocols.append(entries.take(entries.number(1)))
    return tuple(protocols)


class _Reader:
    """Takes bytes from the front, and never beyond the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise _MalformedError
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")
