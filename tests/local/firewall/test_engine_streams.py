"""What passes a terminated connection: bodies, streams, upgrades, and what breaks off."""

from __future__ import annotations

import http.client
import threading
from typing import TYPE_CHECKING

import pytest

from tests.local.firewall.outside import LIMIT_S, ask, firewall

if TYPE_CHECKING:
    import socket

    from tests.local.firewall.outside import Outside

NOT_LISTED = "not in the network policy"
INJECT = {"api.example.com": [{"transform": [{"headers": {"authorization": "Bearer SECRET"}}]}]}


def test_an_answer_streams_as_it_comes(outside: Outside) -> None:
    """Each piece of a chunked answer arrives before the next one is sent."""
    go_on = threading.Event()

    def stream(sock: socket.socket) -> None:
        sock.recv(4096)
        sock.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in (b"one", b"two", b"three"):
            sock.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            go_on.wait(LIMIT_S)
            go_on.clear()
        sock.sendall(b"0\r\n\r\n")

    outside.serve_raw("api.example.com", stream)
    pieces = []
    with firewall(outside, {"allow": INJECT}) as wall, wall.open_tls("api.example.com") as sock:
        client = wall.client(sock, "api.example.com")
        client.request("GET", "/")
        answer = client.getresponse()
        while piece := answer.read1(100):
            pieces.append(piece)
            go_on.set()

    assert pieces == [b"one", b"two", b"three"]


def test_a_large_body_passes_both_ways(outside: Outside) -> None:
    """Megabytes go out and come back whole, spliced and terminated."""
    body = bytes(range(256)) * 4096 * 4
    outside.serve_http("api.example.com")
    outside.serve_http("plain.example.com")
    with firewall(outside, {"allow": {**INJECT, "plain.example.com": []}}) as wall:
        ended = wall.ask("api.example.com", "/", method="POST", body=body)
        with wall.open_tls("plain.example.com", outside.ca) as sock:
            spliced = ask(wall.client(sock, "plain.example.com"), "/", method="POST", body=body)

    assert ended[1].endswith(body)
    assert spliced[1].endswith(body)


def test_continue_is_passed_on(outside: Outside) -> None:
    """A program that waits for 100 Continue gets it from the upstream, then sends its body."""

    def talk(sock: socket.socket) -> None:
        head = sock.recv(4096)
        assert b"100-continue" in head
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = sock.recv(4096)
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

    outside.serve_raw("api.example.com", talk)
    with firewall(outside, {"allow": INJECT}) as wall, wall.open_tls("api.example.com") as sock:
        sock.sendall(
            b"POST / HTTP/1.1\r\nHost: api.example.com\r\nExpect: 100-continue\r\n"
            b"Content-Length: 4\r\n\r\n"
        )
        first = sock.recv(4096)
        sock.sendall(b"body")
        second = sock.recv(4096)

    assert first.startswith(b"HTTP/1.1 100")
    assert second.endswith(b"body")


def test_an_upgraded_connection_passes_bytes(outside: Outside) -> None:
    """After 101 Switching Protocols (WebSocket) bytes go both ways as they come."""

    def talk(sock: socket.socket) -> None:
        sock.recv(4096)
        sock.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\n"
            b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\nhi"
        )
        while data := sock.recv(4096):
            sock.sendall(data.upper())

    outside.serve_raw("api.example.com", talk)
    with firewall(outside, {"allow": INJECT}) as wall, wall.open_tls("api.example.com") as sock:
        sock.sendall(
            b"GET / HTTP/1.1\r\nHost: api.example.com\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\n\r\n"
        )
        answer = b""
        while not answer.endswith(b"\r\n\r\nhi"):
            answer += sock.recv(4096)
        sock.sendall(b"hello")
        echoed = sock.recv(4096)

    assert answer.startswith(b"HTTP/1.1 101")
    assert echoed == b"HELLO"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", b"closed the connection without an answer"),
        (b"nonsense\r\n\r\n", b"not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", b"not valid HTTP"),
    ],
)
def test_a_broken_upstream_is_a_502(outside: Outside, answer: bytes, text: bytes) -> None:
    """What the upstream did wrong is said in plain text."""

    def talk(sock: socket.socket) -> None:
        sock.recv(4096)
        sock.sendall(answer)

    outside.serve_raw("api.example.com", talk)
    with firewall(outside, {"allow": INJECT}) as wall:
        status, body = wall.ask("api.example.com")

    assert status == 502
    assert text in body


def test_an_answer_that_breaks_off_is_no_whole_answer(outside: Outside) -> None:
    """When the upstream hangs up in the middle, the program sees an error, not an end."""

    def talk(sock: socket.socket) -> None:
        sock.recv(4096)
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart")

    outside.serve_raw("api.example.com", talk)
    with firewall(outside, {"allow": INJECT}) as wall, wall.open_tls("api.example.com") as sock:
        client = wall.client(sock, "api.example.com")
        client.request("GET", "/")
        answer = client.getresponse()
        start = answer.read1(100)
        with pytest.raises((OSError, http.client.IncompleteRead)):
            answer.read()
        records = wall.records(2)

    assert start == b"part"
    assert records[-1].reason == "it closed the connection in the middle of its answer"
