from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from opencode_magic.core.policy_wire import parse_policy
from tests.local.firewall.outside import LIMIT_S, Outside, ask, firewall

if TYPE_CHECKING:
    import socket

HOST = "api.example.com"
INJECT = {HOST: [{"transform": [{"headers": {"authorization": "Bearer SECRET"}}]}]}

TWO_LENGTHS = (
    b"POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


def talk(sock: socket.socket, *requests: bytes) -> bytes:
    """Send requests as they stand, and give everything that comes back until the end."""
    for request in requests:
        sock.sendall(request)
    received = b""
    try:
        while data := sock.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def test_a_chunked_body_passes_with_its_trailers_removed(outside: Outside) -> None:
    """A chunked request arrives whole; trailers that could hide a header are not passed on."""
    seen: list[bytes] = []

    def upstream(sock: socket.socket) -> None:
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += sock.recv(4096)
        seen.append(data)
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    outside.serve_raw(HOST, upstream)
    with firewall(outside, {"allow": INJECT}) as wall, wall.open_tls(HOST) as sock:
        received = talk(
            sock,
            b"POST / HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n"
            b"Connection: close\r\n\r\n3\r\none\r\n",
            b"3\r\ntwo\r\n0\r\nAuthorization: mine\r\n\r\n",
        )

    assert received.endswith(b"ok")
    assert b"one" in seen[0]
    assert b"two" in seen[0]
    assert b"mine" not in seen[0]


def test_old_and_short_requests(outside: Outside) -> None:
    """HTTP/1.0, HEAD and an answer without a length keep their framing."""

    def upstream(sock: socket.socket) -> None:
        head = sock.recv(4096)
        if head.startswith(b"HEAD"):
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n")
        else:
            sock.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end")

    outside.serve_raw(HOST, upstream)
    with firewall(outside, {"allow": INJECT}) as wall:
        with wall.open_tls(HOST) as sock:
            old = talk(sock, b"GET / HTTP/1.0\r\nHost: api.example.com\r\n\r\n")
        head, endless = wall.ask(HOST, method="HEAD"), wall.ask(HOST)

    assert old.endswith(b"\r\n\r\nuntil the end")
    assert head == (200, b"")
    assert endless == (200, b"until the end")


def test_pipelined_requests_are_answered_in_order(outside: Outside) -> None:
    """Two requests in one packet get two answers, each decided for itself."""
    outside.serve_http(HOST)
    policy = {"allow": {HOST: [{"match": {"path": "/no"}, "response": {"statusCode": 204}}]}}
    with firewall(outside, policy) as wall, wall.open_tls(HOST) as sock:
        received = talk(
            sock,
            b"GET /no HTTP/1.1\r\nHost: api.example.com\r\n\r\n"
            b"GET /yes HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n",
        )

    assert received.startswith(b"HTTP/1.1 204")
    assert received.endswith(b"GET /yes api.example.com\n")


def test_a_program_that_hangs_up_ends_the_upstreams_work(outside: Outside) -> None:
    """When the program goes away in the middle of an answer, the upstream notices at once."""
    has_ended = threading.Event()

    def upstream(sock: socket.socket) -> None:
        sock.recv(4096)
        sock.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        try:
            sock.recv(4096)
        finally:
            has_ended.set()

    outside.serve_raw(HOST, upstream)
    with firewall(outside, {"allow": INJECT}) as wall:
        sock = wall.open_tls(HOST)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
        sock.recv(4096)
        sock.close()
        is_over = has_ended.wait(LIMIT_S)
        records = wall.records(2)

    assert is_over
    assert records[-1].reason == "the program went away"


def test_a_refusal_reaches_a_program_that_is_still_sending(outside: Outside) -> None:
    """The answer to a large refused upload is read, not destroyed by a reset."""
    with firewall(outside, {"allow": INJECT}) as wall:
        status, body = wall.ask(
            HOST, method="POST", body=b"x" * 3_000_000, headers={"Host": "other.example.com"}
        )

    assert status == 421
    assert body.startswith(b"opencode-magic firewall: other.example.com is blocked")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET http://other.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 400),
        (b"GET https://other.example.com/ HTTP/1.1\r\nHost: other.example.com\r\n\r\n", 421),
        (b"GET / HTTP/1.1\r\nHost: api.example.com:8443\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: api.example.com@evil.test\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: api.example.com\r\nHost: evil.test\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\n\r\n", 400),
        (b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n", 405),
        (TWO_LENGTHS, 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: api.example.com\r\n folded\r\n\r\n", 400),
        (b"\x16\x03\x01\x00\x05hello", 400),
    ],
)
def test_ambiguous_requests_go_nowhere(outside: Outside, request_: bytes, status: int) -> None:
    """What two servers could read in two ways is refused, recorded, and never passed on."""
    server = outside.serve_http(HOST)
    with firewall(outside, {"allow": INJECT}) as wall, wall.open_tls(HOST) as sock:
        received = talk(sock, request_)
        records = wall.records(1)

    assert received.startswith(b"HTTP/1.1 %d " % status)
    assert [record.verdict for record in records] == ["blocked"]
    assert server.seen == []


def test_absolute_form_is_made_the_origins(outside: Outside) -> None:
    """An absolute request target is passed on as path and query."""
    outside.serve_http(HOST)
    with firewall(outside, {"allow": INJECT}) as wall, wall.open_tls(HOST) as sock:
        received = talk(
            sock,
            b"GET https://api.example.com/a?b=c HTTP/1.1\r\nHost: api.example.com\r\n"
            b"Connection: close\r\n\r\n",
        )

    assert received.endswith(b"GET /a?b=c api.example.com\n")


def test_the_query_is_not_on_record(outside: Outside) -> None:
    """A record shows the path only: queries carry keys."""
    outside.serve_http(HOST)
    with firewall(outside, {"allow": INJECT}) as wall:
        wall.ask(HOST, "/v1?key=SECRET")
        records = wall.records(2)

    assert [record.path for record in records] == ["/v1", "/v1"]
    assert "SECRET" not in repr(records)


def test_the_proxy_port_serves_plain_requests(outside: Outside) -> None:
    """A request in absolute form on the proxy port is decided like plain HTTP."""
    server = outside.serve_http(is_tls=False)
    forward = [{"forwardURL": f"http://127.0.0.1:{server.server_port}"}]
    policy = {"allow": {"demo-model.internal": forward}}
    with firewall(outside, policy, allow_loopback_forward=True) as wall:
        with wall.open("proxy") as sock:
            ours = talk(
                sock,
                b"GET http://demo-model.internal/v1 HTTP/1.1\r\nHost: demo-model.internal\r\n"
                b"Proxy-Connection: keep-alive\r\nConnection: close\r\n\r\n",
            )
        with wall.open("proxy") as sock:
            other = talk(sock, b"GET http://no.example/ HTTP/1.1\r\nHost: no.example\r\n\r\n")

    assert ours.startswith(b"HTTP/1.1 200")
    assert other.startswith(b"HTTP/1.1 403")
    assert "Proxy-Connection" not in server.seen[0][2]


def test_a_kept_upstream_that_ended_is_replaced(outside: Outside) -> None:
    """When the upstream closes between requests, the next request gets a fresh connection."""
    count = 0

    def upstream(sock: socket.socket) -> None:
        nonlocal count
        count += 1
        sock.recv(4096)
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % count)

    outside.serve_raw(HOST, upstream)
    with firewall(outside, {"allow": INJECT}) as wall, wall.open_tls(HOST) as sock:
        client = wall.client(sock, HOST)
        answers = [ask(client), ask(client)]

    assert answers == [(200, b"1"), (200, b"2")]


def test_a_new_rule_holds_for_the_next_request(outside: Outside) -> None:
    """A changed key is used from the next request on, on the same connection."""
    server = outside.serve_http(HOST)
    other = {HOST: [{"transform": [{"headers": {"authorization": "Bearer OTHER"}}]}]}
    with firewall(outside, {"allow": INJECT}) as wall, wall.open_tls(HOST) as sock:
        client = wall.client(sock, HOST)
        ask(client)
        cut = wall.firewall.set_policy(parse_policy({"allow": other}))
        ask(client)

    assert cut == 0
    assert [entry[2]["authorization"] for entry in server.seen] == ["Bearer SECRET", "Bearer OTHER"]
