"""Sees attempts on ports where nobody listens, which the kernel refuses before anyone is asked.

A filter in the kernel lets through only the first packet of a TCP connection and UDP datagrams,
so that relayed traffic costs nothing here. Sources: packet(7), RFC 791, RFC 8200, RFC 9293.
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import Literal

SNAP_BYTES = 256
_SO_ATTACH_FILTER = 26
_ACCEPT = 0x40000
_PKTTYPE = 0xFFFFF000 + 4
_OUTGOING = 4
_NET = 0xFFF00000
_TCP = 6
_UDP = 17
_SYN = 0x02
_SYN_ACK = 0x12

# Classic BPF: code, jump if true, jump if false, operand. Jumps count from the next step.
_PROGRAM = (
    (0x20, 0, 0, _PKTTYPE),  # 0: how the packet came
    (0x15, 19, 0, _OUTGOING),  # 1: drop; on loopback each packet is seen twice
    (0x30, 0, 0, _NET + 0),  # 2: IP version
    (0x54, 0, 0, 0xF0),
    (0x15, 1, 0, 0x40),  # 4: to 6 for IPv4
    (0x15, 8, 15, 0x60),  # 5: to 14 for IPv6, or drop
    (0x30, 0, 0, _NET + 9),  # 6: protocol
    (0x15, 14, 0, _UDP),  # 7: accept
    (0x15, 0, 12, _TCP),  # 8: or drop
    (0x30, 0, 0, _NET + 0),  # 9: length of the IPv4 head
    (0x54, 0, 0, 0x0F),
    (0x64, 0, 0, 2),
    (0x07, 0, 0, 0),
    (0x05, 0, 0, 4),  # 13: to 18
    (0x30, 0, 0, _NET + 6),  # 14: next header
    (0x15, 6, 0, _UDP),  # 15: accept
    (0x15, 0, 4, _TCP),  # 16: or drop
    (0x01, 0, 0, 40),  # 17: length of the IPv6 head
    (0x50, 0, 0, _NET + 13),  # 18: TCP flags
    (0x54, 0, 0, _SYN_ACK),
    (0x15, 1, 0, _SYN),  # 20: accept the first packet only
    (0x06, 0, 0, 0),  # 21: drop
    (0x06, 0, 0, _ACCEPT),  # 22: accept
)


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of an attempt."""

    channel: Literal["tcp", "udp"]
    address: str
    """Where it wanted to go."""
    port: int
    source_port: int
    source: str = ""


def attach_filter(sock: socket.socket) -> None:
    """Let the kernel drop everything that is no attempt."""
    packed = b"".join(struct.pack("HBBI", *step) for step in _PROGRAM)
    buffer = ctypes.create_string_buffer(packed)
    fprog = struct.pack("HP", len(_PROGRAM), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def parse_packet(data: bytes) -> Packet | None:
    """Read one IP packet; None for what is no attempt to leave. Never raises."""
    try:
        version = data[0] >> 4
        if version == 4:  # noqa: PLR2004 - IPv4
            size = (data[0] & 0x0F) * 4
            protocol = data[9]
            source, address = data[12:16], data[16:20]
            is_later_fragment = bool(int.from_bytes(data[6:8], "big") & 0x1FFF)
        elif version == 6:  # noqa: PLR2004 - IPv6
            size = 40
            protocol = data[6]
            source, address = data[8:24], data[24:40]
            is_later_fragment = False
        else:
            return None
        if is_later_fragment or protocol not in {_TCP, _UDP}:
            return None
        body = data[size:]
        if protocol == _TCP and body[13] & _SYN_ACK != _SYN:
            return None
        source_port, port = struct.unpack_from("!HH", body)
        wanted = ipaddress.ip_address(address)
    except (IndexError, struct.error, ValueError):
        return None
    if wanted.is_loopback:
        return None
    return Packet(
        "tcp" if protocol == _TCP else "udp",
        str(wanted),
        port,
        source_port,
        str(ipaddress.ip_address(source)),
    )
