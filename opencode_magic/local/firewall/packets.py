"""The first bytes of an IP packet -> an attempt to leave on a port where nobody listens.

The kernel refuses such an attempt before anyone is asked; the keeper's AF_PACKET socket still sees
its first packet. Sources: RFC 791, RFC 8200, RFC 9293.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Literal

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

SNAP_BYTES = 256

_TCP = 6
_UDP = 17
_SYN = 0x02
_SYN_ACK = 0x12
_LATER_FRAGMENT = 0x1FFF
_V4, _V6 = 4, 6


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of an attempt."""

    channel: Literal["tcp", "udp", "ip"]
    address: str
    """Where it wanted to go."""
    port: int
    source_port: int


def parse_packet(data: bytes) -> Packet | None:
    """Read one IP packet; None for what is no attempt to leave. Never raises."""
    try:
        found = _split(data)
        if found is None:
            return None
        protocol, wanted, body = found
        if wanted.is_loopback:
            return None
        if protocol not in {_TCP, _UDP}:
            return Packet("ip", str(wanted), 0, 0)
        if protocol == _TCP and body[13] & _SYN_ACK != _SYN:
            return None
        source_port, port = struct.unpack_from("!HH", body)
    except (IndexError, struct.error, ValueError):
        return None
    return Packet("tcp" if protocol == _TCP else "udp", str(wanted), port, source_port)


def _split(data: bytes) -> tuple[int, Address, bytes] | None:
    """Give protocol, destination and what follows the IP head."""
    version = data[0] >> 4
    if version == _V4:
        if int.from_bytes(data[6:8], "big") & _LATER_FRAGMENT:
            return None
        return data[9], ipaddress.ip_address(data[16:20]), data[(data[0] & 0x0F) * 4 :]
    if version == _V6:
        return data[6], ipaddress.ip_address(data[24:40]), data[40:]
    return None
