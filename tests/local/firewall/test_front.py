from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opencode_magic.local.firewall import front as front_module
from tests.local.firewall.hellos import hello, real_hello, server_names
from tests.local.firewall.outside import LIMIT_S, Outside, ask, firewall
from tests.local.firewall.test_dns import query

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.local.firewall.outside import Wall

POLICY = {
    "allow": {
        "plain.example.com": [],
        "fixed.example.com": [{"response": {"statusCode": 200, "body": "still here"}}],
    }
}


@pytest.fixture(scope="module")
def wall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wall]:
    """One firewall for everything that tries to break it."""
    folder: Path = tmp_path_factory.mktemp("outside")
    made = Outside(folder)
    made.serve_http("plain.example.com")
    with firewall(made, POLICY) as running:
        yield running
    made.close()


def is_alive(wall: Wall) -> bool:
    """Whether the firewall still answers on every front."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(LIMIT_S)
        sock.sendto(query("plain.example.com"), ("127.0.0.1", wall.ports["dns4"]))
        assert sock.recv(600)
    with wall.open("http4") as sock:
        plain = ask(wall.client(sock, "fixed.example.com"))
    return plain == wall.ask("fixed.example.com") == (200, b"still here")


heads = st.one_of(
    st.binary(max_size=400),
    st.binary(max_size=100).map(lambda tail: hello(server_names(b"fixed.example.com")) + tail),
    st.binary(max_size=60).map(lambda name: hello(server_names(name))),
    st.binary(max_size=100).map(b"GET / HTTP/1.1\r\nHost: fixed.example.com\r\n".__add__),
    st.binary(max_size=100).map(b"CONNECT plain.example.com:443 HTTP/1.1\r\n\r\n".__add__),
    st.binary(max_size=40).map(lambda data: len(data).to_bytes(2, "big") + data),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=heads, front=st.sampled_from(["tls4", "http4", "proxy", "dnstcp4"]))
def test_no_bytes_break_a_listener(wall: Wall, data: bytes, front: str) -> None:
    """Whatever arrives on a listener, the connection ends and the firewall lives."""
    with wall.open(front) as sock, contextlib.suppress(OSError):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(data, ("127.0.0.1", wall.ports["dns4"]))

    assert is_alive(wall)


def test_slow_and_silent_connections_hold_nothing_up(wall: Wall) -> None:
    """Hundreds of connections that say half a word, or nothing, leave the others fast."""
    first = real_hello("plain.example.com")[:60]
    with contextlib.ExitStack() as stack:
        for count in range(300):
            sock = stack.enter_context(wall.open(("tls4", "http4", "proxy")[count % 3]))
            if count % 2:
                sock.sendall(first if count % 3 == 0 else b"GET / HTT")
        started = time.monotonic()
        assert is_alive(wall)
        took_s = time.monotonic() - started

    assert took_s < 1.0


@pytest.mark.parametrize("record_bytes", [1, 60])
def test_half_a_hello_in_many_records_costs_little(wall: Wall, record_bytes: int) -> None:
    """A hello in thousands of records, which never ends, leaves the others fast."""
    piece = b"\x16\x03\x01" + record_bytes.to_bytes(2, "big") + b"a" * record_bytes
    data = b"\x16\x03\x01\0\4\1\0\xff\xff" + piece * (60_000 // len(piece))
    with contextlib.ExitStack() as stack:
        for _ in range(150):
            sock = stack.enter_context(wall.open())
            with contextlib.suppress(OSError):
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
        started = time.monotonic()
        for _ in range(3):
            assert is_alive(wall)
        took_s = time.monotonic() - started

    assert took_s < 1.0


def test_too_many_waiting_connections_push_the_oldest_out(outside: Outside) -> None:
    """The number of connections without a verdict is bounded, and each loser is on record."""
    with firewall(outside, POLICY) as wall, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(wall.open()) for _ in range(front_module.WAITING_LIMIT // 4)]
        wall.firewall._front.waiting_limit = 100
        late = stack.enter_context(wall.open())
        with pytest.raises(ConnectionResetError):
            socks[0].recv(1)
        records = wall.records(1)
        late.close()

    assert records[0].reason == "too many connections at once"


def test_a_hello_in_single_bytes_is_understood(wall: Wall) -> None:
    """A ClientHello that arrives byte by byte gets the same verdict."""
    data = real_hello("evil.example.org")
    seq = wall.log.last_seq
    with wall.open() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in data:
            sock.sendall(bytes([byte]))
        with pytest.raises(ConnectionResetError):
            sock.recv(1)

    assert [record.host for record in wall.log.since(seq)] == ["evil.example.org"]


def test_huge_heads_are_refused(wall: Wall) -> None:
    """A head beyond 64 KB is answered with 431, terminated and plain."""
    big = b"GET / HTTP/1.1\r\nHost: fixed.example.com\r\nX-Big: " + b"x" * 100_000
    for sock in (wall.open("http4"), wall.open_tls("fixed.example.com")):
        with sock, contextlib.suppress(ConnectionResetError, BrokenPipeError):
            sock.sendall(big)
            assert sock.recv(4096).startswith(b"HTTP/1.1 431")


def test_http_2_is_answered_with_http_1(wall: Wall) -> None:
    """A program that offers HTTP/2 first gets HTTP/1.1 on a terminated host."""
    context = ssl.create_default_context(cadata=wall.ca.pem.decode())
    context.set_alpn_protocols(["h2", "http/1.1"])
    with context.wrap_socket(wall.open(), server_hostname="fixed.example.com") as sock:
        protocol = sock.selected_alpn_protocol()
        status, _ = ask(wall.client(sock, "fixed.example.com"))

    assert (protocol, status) == ("http/1.1", 200)


def test_hundreds_of_parallel_connections_are_served(wall: Wall) -> None:
    """Many connections at once get their verdicts, allowed and blocked alike."""
    results: list[str] = []

    def one(host: str) -> None:
        try:
            results.append(str(wall.ask(host)[0]))
        except OSError as exc:
            results.append(type(exc).__name__)

    hosts = ["fixed.example.com", "evil.example.org"] * 100
    threads = [threading.Thread(target=one, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(results) == ["200"] * 100 + ["ConnectionResetError"] * 100
