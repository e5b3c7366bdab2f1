"""Answers DNS over UDP and TCP, and records attempts on ports that nobody listens on."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING

from opencode_magic.core.policy import Request, canonical_host, decide
from opencode_magic.local.firewall.dns import (
    CODE_NO_NAME,
    CODE_OK,
    QUERY_LIMIT_BYTES,
    BadQuery,
    make_answer,
    parse_query,
)
from opencode_magic.local.firewall.packets import SNAP_BYTES, parse_packet
from opencode_magic.local.firewall.record import Attempt

if TYPE_CHECKING:
    from opencode_magic.core.egress import Channel
    from opencode_magic.local.firewall.packets import Packet
    from opencode_magic.local.firewall.wall import Wall

DNS_PORT = 53
REASON_NO_WAY = "there is no way out on this port"
REASON_NO_NAME = "not a valid host name"
REASON_PROTOCOL = "there is no way out for this protocol"
SERVED_PORTS: dict[str, set[int]] = {"tcp": {443, 80, 53}, "udp": {53}, "ip": set()}
_CHANNELS: dict[str, Channel] = {"tcp": "tcp", "udp": "udp", "ip": "ip"}
_DATAGRAMS = 64
_IP_PKTINFO = 8
_IPV6_FREEBIND = 78
_LENGTH_BYTES = 2
_OUTGOING = 4  # PACKET_OUTGOING of packet(7), which the socket module does not name everywhere


class UdpLookups:
    """Answers on one UDP socket, from the very address that was asked."""

    def __init__(self, wall: Wall, sock: socket.socket) -> None:
        self._wall = wall
        self._sock = sock
        with contextlib.suppress(OSError):
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
                # Answers leave from addresses that no interface has.
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)

    def serve(self) -> None:
        """Answer what is waiting."""
        for _ in range(_DATAGRAMS):
            try:
                data, info, _, sender = self._sock.recvmsg(QUERY_LIMIT_BYTES + 1, 128)
            except OSError:
                return
            answer = answer_query(self._wall, data, sender[1])
            if answer:
                with contextlib.suppress(OSError):
                    self._sock.sendmsg([answer], _reply_info(info), 0, sender)


def answer_query(wall: Wall, data: bytes, source_port: int) -> bytes:
    """Give the answer to one message, and put it on record; empty where there is none to give."""
    question = parse_query(data)
    if isinstance(question, BadQuery):
        attempt = Attempt("dns", "", DNS_PORT, source_port)
        _block(wall, attempt, "not a DNS question", "malformed")
        return question.answer
    host = canonical_host(question.name)
    attempt = Attempt("dns", host or question.name, DNS_PORT, source_port)
    decision = decide(wall.policy, Request(question.name, DNS_PORT))
    if host is None or not decision.is_allowed:
        _block(wall, attempt, decision.reason, _parent(question.name))
        return make_answer(question, CODE_NO_NAME)
    if wall.lookup_quota.is_within(f"+{_parent(host)}"):
        wall.allow(attempt, decision.reason)
    return make_answer(question, CODE_OK, wall.names.address_for(host, question.kind))


def answer_stream(wall: Wall, data: bytes, source_port: int) -> tuple[int | None, bytes]:
    """Answer the whole messages in a TCP stream.

    Returns:
        How many bytes they take, and the answers; None where the stream cannot be followed.
    """
    taken = 0
    answers = bytearray()
    while len(data) - taken >= _LENGTH_BYTES:
        size = int.from_bytes(data[taken : taken + _LENGTH_BYTES], "big")
        if not 0 < size <= QUERY_LIMIT_BYTES:
            return None, b""
        message = data[taken + _LENGTH_BYTES : taken + _LENGTH_BYTES + size]
        if len(message) < size:
            break
        answer = answer_query(wall, message, source_port)
        answers += len(answer).to_bytes(2, "big") + answer
        taken += _LENGTH_BYTES + size
    return taken, bytes(answers)


class PacketWatch:
    """Records the attempts that one AF_PACKET socket sees."""

    def __init__(self, wall: Wall, sock: socket.socket) -> None:
        self._wall = wall
        self._sock = sock
        self._skip = 14 if sock.type == socket.SOCK_RAW else 0

    def serve(self) -> None:
        """Record what is waiting."""
        for _ in range(_DATAGRAMS):
            try:
                data, sender = self._sock.recvfrom(SNAP_BYTES)
            except OSError:
                return
            if sender[2] == _OUTGOING:
                continue  # on loopback each packet is seen twice
            packet = parse_packet(data[self._skip :])
            if packet is not None and not _is_served(packet):
                self._record(packet)

    def _record(self, packet: Packet) -> None:
        host = self._wall.name_at(packet.address)
        attempt = Attempt(packet.channel, host, packet.port, packet.source_port)
        reason = REASON_PROTOCOL if packet.channel == "ip" else REASON_NO_WAY
        _block(self._wall, attempt, reason, packet.channel)


def record_unlisted(wall: Wall) -> None:
    """Put on record how many attempts went without one of their own."""
    for group, count in wall.lookup_quota.close_window().items():
        is_allowed = group.startswith("+")
        host = group.removeprefix("+")
        if host in SERVED_PORTS:
            attempt = Attempt(_CHANNELS[host], "*", 0)
        else:
            attempt = Attempt("dns", f"*.{host}", DNS_PORT)
        reason = f"{count} more attempts of this kind"
        if is_allowed:
            wall.allow(attempt, reason)
        else:
            wall.block(attempt, reason)


def _block(wall: Wall, attempt: Attempt, reason: str, group: str) -> None:
    if wall.lookup_quota.is_within(group):
        wall.block(attempt, reason)


def _is_served(packet: Packet) -> bool:
    """Whether one of our listeners sees this itself, or it is our own answer."""
    ports = SERVED_PORTS[packet.channel]
    return packet.port in ports or (packet.channel == "udp" and packet.source_port in ports)


def _parent(name: str) -> str:
    return ".".join(name.lower().rsplit(".", 2)[-2:])


def _reply_info(info: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Give the control data that makes a reply come from the address that was asked."""
    for level, kind, data in info:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            _, _, asked = struct.unpack("I4s4s", data[:12])
            return [(level, kind, struct.pack("I4s4s", 0, asked, b"\0" * 4))]
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return [(level, kind, data[:16] + b"\0" * 4)]
    return []
