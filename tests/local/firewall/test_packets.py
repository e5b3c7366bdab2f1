from __future__ import annotations

import ipaddress
import struct
import time

from hypothesis import given
from hypothesis import strategies as st

from opencode_magic.core.policy_wire import parse_policy
from opencode_magic.local.firewall.ca import SandboxCA
from opencode_magic.local.firewall.engine import Firewall
from opencode_magic.local.firewall.front import REASON_SILENT
from opencode_magic.local.firewall.packets import Packet, parse_packet
from opencode_magic.local.firewall.record import EgressLog
from tests.local import keepers
from tests.local.firewall.outside import told


def packet(protocol: int, address: str, body: bytes, *, flags: int = 0) -> bytes:
    wanted = ipaddress.ip_address(address)
    if wanted.version == 6:
        return (
            b"\x60\0\0\0" + struct.pack("!HBB", len(body), protocol, 64) + wanted.packed * 2 + body
        )
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, flags, 64, protocol, 0)
    return head + wanted.packed * 2 + body


def tcp(port: int, flags: int) -> bytes:
    return struct.pack("!HHIIBBHHH", 40_000, port, 0, 0, 0x50, flags, 0, 0, 0)


def test_first_packets_are_attempts() -> None:
    """A SYN, a datagram and any other protocol to a place outside are attempts."""
    datagram = struct.pack("!HHHH", 40_000, 9999, 8, 0)

    assert [
        parse_packet(packet(6, "203.0.113.5", tcp(22, 0x02))),
        parse_packet(packet(6, "2001:db8::5", tcp(22, 0x02))),
        parse_packet(packet(17, "203.0.113.5", datagram)),
        parse_packet(packet(1, "203.0.113.5", b"\x08\0\0\0")),
    ] == [
        Packet("tcp", "203.0.113.5", 22, 40_000),
        Packet("tcp", "2001:db8::5", 22, 40_000),
        Packet("udp", "203.0.113.5", 9999, 40_000),
        Packet("ip", "203.0.113.5", 0, 0),
    ]


def test_the_rest_is_no_attempt() -> None:
    """Answers, later packets and fragments, and what stays on loopback are left out."""
    others = [
        packet(6, "203.0.113.5", tcp(22, 0x12)),
        packet(6, "203.0.113.5", tcp(22, 0x10)),
        packet(6, "127.0.0.1", tcp(22, 0x02)),
        packet(6, "::1", tcp(22, 0x02)),
        packet(17, "203.0.113.5", b"12345678", flags=10),
        packet(6, "203.0.113.5", b"short"),
        b"",
        b"\x90",
    ]

    assert [parse_packet(data) for data in others] == [None] * len(others)


@given(st.binary(max_size=80))
def test_any_bytes_are_an_attempt_or_none(data: bytes) -> None:
    """No packet raises."""
    found = parse_packet(data)

    assert found is None or 0 <= found.port <= 65_535


KNOCK = """
import socket
for host in ("api.example.com", "203.0.113.5"):
    sock = socket.create_connection((host, 443), 5)
    print(sock.getsockname()[1])
    sock.close()
"""

INSIDE = """
import socket, ssl

def port_of(family, kind, address, port, send=None):
    sock = socket.socket(family, kind)
    sock.settimeout(5)
    sock.bind(("", 0))
    seen = "through"
    try:
        sock.connect((address, port))
        if send is not None:
            sock.send(send)
            if kind == socket.SOCK_STREAM:
                sock.recv(1)
    except ConnectionError as exc:
        seen = type(exc).__name__
    print(sock.getsockname()[1], seen)

S, D, V4, V6 = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.AF_INET, socket.AF_INET6
port_of(V4, S, "203.0.113.5", 22)
port_of(V6, S, "2001:db8::5", 8080)
port_of(V4, D, "203.0.113.5", 9999, b"x")
port_of(V6, D, "2001:db8::5", 443, b"quic")
port_of(V4, S, socket.gethostbyname("api.example.com"), 5432)
port_of(V4, S, "203.0.113.5", 443, b"SSH-2.0")
port_of(V6, S, "2001:db8::5", 443, b"SSH-2.0")
port_of(V4, S, "203.0.113.5", 80, b"\\0")
try:
    socket.gethostbyname("evil.example.org")
except OSError:
    pass
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
for address in ("203.0.113.5", "2001:db8::5"):
    with context.wrap_socket(
        socket.create_connection((address, 443), 5), server_hostname="api.example.com"
    ) as tls:
        tls.sendall(b"GET / HTTP/1.1\\r\\nHost: api.example.com\\r\\n\\r\\n")
        print(tls.recv(1000).split(b"\\r\\n")[0])
"""


def test_every_way_out_of_a_namespace_ends_at_the_firewall() -> None:
    """Inside a real namespace other ports, addresses, UDP and IPv6 are refused and on record."""
    policy = parse_policy({"allow": {"api.example.com": [{"response": {"statusCode": 418}}]}})
    log = EgressLog()
    with keepers.sandbox() as box:
        firewall = Firewall(box.keeper.listeners, policy, ca=SandboxCA.create(), record=log)
        firewall.start()
        try:
            code, output = box.python(INSIDE)
            deadline = time.monotonic() + 5
            while log.last_seq < 12 and time.monotonic() < deadline:
                log.wait(log.last_seq, timeout_s=0.2)
        finally:
            firewall.close()
    lines = output.split("\n")
    blocked = {record.source_port: record for record in log.since(0) if record.verdict == "blocked"}
    by_port = [told(blocked[int(line.split()[0])])[:4] for line in lines[:8]]

    assert code == 0, output
    assert by_port == [
        ("tcp", "203.0.113.5", 22, "blocked"),
        ("tcp", "2001:db8::5", 8080, "blocked"),
        ("udp", "203.0.113.5", 9999, "blocked"),
        ("udp", "2001:db8::5", 443, "blocked"),
        ("tcp", "api.example.com", 5432, "blocked"),
        ("tls", "203.0.113.5", 443, "blocked"),
        ("tls", "2001:db8::5", 443, "blocked"),
        ("http", "203.0.113.5", 80, "blocked"),
    ]
    assert [line.split()[1] for line in lines[:8]] == [
        "ConnectionRefusedError",
        "ConnectionRefusedError",
        "through",
        "through",
        "ConnectionRefusedError",
        "ConnectionResetError",
        "ConnectionResetError",
        "ConnectionResetError",
    ]
    assert lines[8:10] == ["b'HTTP/1.1 418 '"] * 2
    assert "evil.example.org" in {record.host for record in blocked.values()}


def test_a_spare_connection_to_an_allowed_host_is_no_refusal() -> None:
    """Who only knocks is refused on record, unless it is at an allowed host's own door."""
    policy = parse_policy({"allow": ["api.example.com"]})
    log = EgressLog()
    with keepers.sandbox() as box:
        firewall = Firewall(box.keeper.listeners, policy, ca=SandboxCA.create(), record=log)
        firewall.start()
        try:
            _, output = box.python(KNOCK)
            deadline = time.monotonic() + 5
            while log.last_seq < 3 and time.monotonic() < deadline:
                log.wait(log.last_seq, timeout_s=0.2)
        finally:
            firewall.close()
    ports = [int(line) for line in output.split()]
    found = [record for record in log.since(0) if record.source_port in ports]

    assert [(record.source_port, told(record)) for record in found] == [
        (ports[1], ("tls", "203.0.113.5", 443, "blocked", REASON_SILENT))
    ]
