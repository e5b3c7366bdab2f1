"""The head of a plain HTTP request or of a CONNECT, as far as a verdict needs it.

h11 parses every request that is passed on; this only finds where a head ends, before anything
is taken from the connection, and reads the line of a proxy request.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import h11

Pairs = list[tuple[bytes, bytes]]

HEAD_LIMIT_BYTES = 65_536
"""A longer head is answered with 431; common servers stop at 8 to 64 KB."""

_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32} ")
_METHOD_BYTES = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{0,32}")
_CONNECT = re.compile(rb"CONNECT ([^ \r\n]{1,300}) HTTP/1\.[01]\r?\n")
_AUTHORITY = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.%]+)\]|(?P<host>[^\s:\[\]/@?#\\]+))(?::(?P<port>[0-9]{1,5}))?"
)
_PORT_LIMIT = 65_535


@dataclass(frozen=True, slots=True)
class Authority:
    """A host and a port; 0 where none is given."""

    host: str
    port: int


def find_head_end(data: bytes) -> int:
    """Give the length of the head with its empty line; 0 while it is incomplete."""
    ends = [
        at + len(mark) for mark in (b"\r\n\r\n", b"\n\n", b"\n\r\n") if (at := data.find(mark)) >= 0
    ]
    return min(ends, default=0)


def plain_headers(message: h11.Request | h11.InformationalResponse | h11.Response) -> Pairs:
    """Give a message's headers, names in lower case: h11's own sequence is slow to go through."""
    return [(name.lower(), value) for name, value in message.headers.raw_items()]


def is_http(data: bytes) -> bool:
    """Whether these first bytes may be the start of an HTTP/1 request."""
    if _METHOD.match(data) is not None:
        return True
    return _METHOD_BYTES.fullmatch(data) is not None


def parse_connect(head: bytes) -> Authority | None:
    """Read a CONNECT request's target; None for any other request."""
    found = _CONNECT.match(head)
    return None if found is None else parse_authority(found[1].decode("latin-1"))


def parse_authority(text: str) -> Authority | None:
    """Read ``host``, ``host:port``, ``[v6]`` or ``[v6]:port``; None for anything else."""
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        return None
    port = int(found["port"] or 0)
    if port > _PORT_LIMIT:
        return None
    return Authority(found["v6"] or found["host"], port)
