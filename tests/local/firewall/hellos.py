"""ClientHellos as OpenSSL writes them, and as nobody should."""

from __future__ import annotations

import ssl


def real_hello(host: str | None, protocols: list[str] | None = None) -> bytes:
    """Give the first flight of OpenSSL for a host."""
    context = ssl.create_default_context()
    if host is None:
        context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(protocols)
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=host)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError


def number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def extension(kind: int, value: bytes) -> bytes:
    return number(kind, 2) + number(len(value), 2) + value


def server_names(*names: bytes, kind: int = 0) -> bytes:
    entries = b"".join(number(kind, 1) + number(len(name), 2) + name for name in names)
    return extension(0, number(len(entries), 2) + entries)


def hello(*extensions: bytes, record_bytes: int = 16_384) -> bytes:
    """Give a minimal ClientHello, cut into records of a size."""
    joined = b"".join(extensions)
    body = b"\x03\x03" + b"r" * 32 + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    if extensions:
        body += number(len(joined), 2) + joined
    message = b"\x01" + number(len(body), 3) + body
    pieces = [message[at : at + record_bytes] for at in range(0, len(message), record_bytes)]
    return b"".join(b"\x16\x03\x01" + number(len(piece), 2) + piece for piece in pieces)
