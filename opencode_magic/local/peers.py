"""A connection on this machine's loopback -> the user who opened it.

The kernel's own table tells it: proc(5), ``/proc/net/tcp``, whose addresses are hexadecimal in the
machine's byte order.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

_TABLES = ("tcp", "tcp6")
_UID, _INODE = 7, 9


def owner_of(sock: socket.socket) -> int | None:
    """Give the user id of whoever holds the other end of an accepted connection.

    Args:
        sock: Accepted over IPv4, on loopback; the other end may be an IPv6 socket that names an
            IPv4 address.

    Returns:
        None where it is not known: the other end was closed (the table then shows user 0 for
        everybody's), or is not on this machine.

    Raises:
        OSError: The table cannot be read now: no file may be left.
    """
    try:
        ours, theirs = sock.getsockname(), sock.getpeername()
    except OSError:
        return None
    pair = f"{_hexadecimal(theirs)} {{}}{_hexadecimal(ours)} "
    wanted = {
        "tcp": f": {pair.format('')}".encode(),
        "tcp6": f": {_MAPPED}{pair.format(_MAPPED)}".encode(),
    }
    for table in _TABLES:
        # A machine without IPv6 has no table of it. Line by line: it may have many megabytes.
        with suppress(FileNotFoundError), Path("/proc/self/net", table).open("rb") as lines:
            for line in lines:
                if wanted[table] in line:
                    # What stands before the first colon is the line's number.
                    fields = line.split()
                    return int(fields[_UID]) if fields[_INODE] != b"0" else None
    return None


def _word(address: bytes) -> str:
    return address[::-1].hex().upper() if sys.byteorder == "little" else address.hex().upper()


_MAPPED = _word(bytes(4)) * 2 + _word(b"\0\0\xff\xff")


def _hexadecimal(address: tuple[str, int]) -> str:
    host, port = address
    return f"{_word(bytes(int(part) for part in host.split('.')))}:{port:04X}"
