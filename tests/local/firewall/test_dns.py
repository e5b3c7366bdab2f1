from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_magic.local.firewall.dns import (
    TYPE_A,
    TYPE_AAAA,
    BadQuery,
    Question,
    SyntheticAddresses,
    parse_query,
)
from opencode_magic.local.firewall.quota import Quota
from tests.local.firewall.outside import LIMIT_S, Outside, firewall, told

POLICY = {"allow": ["api.example.com", "*.example.net"]}


def query(name: str, kind: int = TYPE_A) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".") if part)
    return b"\x12\x34\x01\x00\x00\x01" + b"\0" * 6 + labels + b"\0" + bytes([0, kind, 0, 1])


def code_of(answer: bytes) -> int:
    return answer[3] & 0x0F


def test_a_question_is_read() -> None:
    """Name, kind and number come out as they were asked."""
    assert parse_query(query("API.example.com", TYPE_AAAA)) == Question(
        0x1234, 0x0100, "API.example.com", TYPE_AAAA, query("API.example.com", TYPE_AAAA)[12:]
    )


@given(st.binary(max_size=200))
def test_any_bytes_are_a_question_or_none(data: bytes) -> None:
    """No input raises, and an answer to a bad one is short."""
    found = parse_query(data)

    assert isinstance(found, Question) or len(found.answer) in {0, 12}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        query("a.example")[:20],
        query("a.example")[:-4],
        query("a.example").replace(b"\x00\x01" + b"\0" * 6, b"\x00\x02" + b"\0" * 6, 1),
        query("a.example")[:12] + b"\xc0\x0c\0\1\0\1",
        query(".".join(["a" * 63] * 5)),
        b"\x12\x34\x81\x00" + query("a.example")[4:],
        b"\x12\x34\x28\x00" + query("a.example")[4:],
        query("a.example")[:-1] + b"\x03",
    ],
)
def test_what_is_no_question_is_refused(data: bytes) -> None:
    """Truncated, doubled, pointing, too long, answers, updates and other classes are refused."""
    assert isinstance(parse_query(data), BadQuery)


def test_a_dot_inside_a_label_is_no_second_label() -> None:
    """A label that holds a dot or a control character is shown escaped, so no host matches it."""
    data = b"\x12\x34\x01\x00\x00\x01" + b"\0" * 6 + b"\x0bexample.com\0\0\1\0\1"
    found = parse_query(data)

    assert isinstance(found, Question)
    assert found.name == "example\\046com"


@given(st.lists(st.text("ab.", min_size=1, max_size=4), max_size=20))
def test_every_name_keeps_its_own_address(names: list[str]) -> None:
    """A name has one address of each family, no other has it, and it leads back to the name."""
    synthetic = SyntheticAddresses()
    found = {name: synthetic.address_for(name, TYPE_A) for name in names}

    assert len(set(found.values())) == len(set(names))
    for name in names:
        for kind, network in ((TYPE_A, synthetic.NETWORK_4), (TYPE_AAAA, synthetic.NETWORK_6)):
            address = synthetic.address_for(name, kind)
            assert address is not None
            assert ipaddress.ip_address(address) in network
            assert synthetic.name_of(address) == name


def test_synthetic_addresses_are_bounded() -> None:
    """The oldest name gives its address away when there are too many."""
    synthetic = SyntheticAddresses()
    synthetic.LIMIT = 2
    addresses = [synthetic.address_for(name, TYPE_A) for name in ("a", "b", "c")]

    assert addresses[2] == addresses[0]
    assert synthetic.name_of(str(addresses[0])) == "c"
    assert synthetic.name_of("203.0.113.1") == synthetic.name_of("no address") == ""
    assert synthetic.address_for("a", 16) is None


def test_allowed_names_only_are_answered(outside: Outside) -> None:
    """Over UDP an allowed name has an address, another does not exist, and both are recorded."""
    with firewall(outside, POLICY) as wall:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(LIMIT_S)
            sock.connect(("127.0.0.1", wall.ports["dns4"]))
            answers = []
            for name in ("api.example.com", "evil.example.org", "a.b.example.net", "example.net"):
                sock.send(query(name))
                answers.append(sock.recv(600))
            port = sock.getsockname()[1]
        records = wall.log.since(0)

    assert [code_of(answer) for answer in answers] == [0, 3, 0, 3]
    assert answers[0][-4:] == b"\xc6\x12\x00\x01"
    assert [told(record) for record in records] == [
        ("dns", "api.example.com", 53, "allowed", "allowed host"),
        ("dns", "evil.example.org", 53, "blocked", "not in the network policy"),
        ("dns", "a.b.example.net", 53, "allowed", "allowed host"),
        ("dns", "example.net", 53, "blocked", "not in the network policy"),
    ]
    assert {record.source_port for record in records} == {port}


def test_tcp_is_answered_message_by_message(outside: Outside) -> None:
    """Over TCP two questions in one packet, and one in two, are answered in order."""
    first, second = query("api.example.com"), query("evil.example.org")
    stream = b"".join(len(data).to_bytes(2, "big") + data for data in (first, second, first))
    with firewall(outside, POLICY) as wall, wall.open("dnstcp4") as sock:
        sock.sendall(stream[:-5])
        received = b""
        while len(received) < len(first) + 16 + len(second) + 4:
            received += sock.recv(600)
        sock.sendall(stream[-5:])
        received += sock.recv(600)

    codes = []
    while received:
        size = int.from_bytes(received[:2], "big")
        codes.append(code_of(received[2 : 2 + size]))
        received = received[2 + size :]
    assert codes == [0, 3, 0]


def test_other_kinds_of_an_allowed_name_are_empty(outside: Outside) -> None:
    """TXT, HTTPS and the like have no data, so no key for an encrypted hello can come this way."""
    with (
        firewall(outside, POLICY) as wall,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.settimeout(LIMIT_S)
        sock.sendto(query("api.example.com", 65), ("127.0.0.1", wall.ports["dns4"]))
        answer = sock.recv(600)

    assert (code_of(answer), answer[7]) == (0, 0)


def test_a_tunnel_is_refused_and_bounded(outside: Outside) -> None:
    """Thousands of names under one parent are all refused, and do not fill the record."""
    with (
        firewall(outside, POLICY) as wall,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.settimeout(LIMIT_S)
        sock.connect(("127.0.0.1", wall.ports["dns4"]))
        codes = set()
        for count in range(1000):
            sock.send(query(f"data{count}.tunnel.example"))
            codes.add(code_of(sock.recv(600)))
        records = wall.log.since(0)

    assert codes == {3}
    assert len(records) <= Quota.LIMIT
    assert {record.verdict for record in records} == {"blocked"}
