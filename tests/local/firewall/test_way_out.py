from __future__ import annotations

import socket

import pytest

from opencode_magic.core.policy_wire import parse_policy
from opencode_magic.local.firewall.resolve import NOTE_PROXY, REASON_UNCHECKED
from opencode_magic.local.firewall.way_out import WayOut, load_way_out
from tests.local.firewall.outside import (
    Outside,
    Proxy,
    ask,
    firewall,
    pass_both_ways,
    told,
)


class CompanyProxy(Proxy):
    """A CONNECT proxy that leads every name to one upstream, or answers as it is told."""

    def __init__(self, upstream_port: int, answer: bytes = b"") -> None:
        self.heads: list[bytes] = []
        self._upstream_port = upstream_port
        self._answer = answer
        super().__init__()

    def serve(self, sock: socket.socket) -> None:
        """Lead to the upstream, whatever is named."""
        self.heads.append(sock.recv(4096))
        with sock:
            if self._answer:
                sock.sendall(self._answer)
                return
            with socket.create_connection(("127.0.0.1", self._upstream_port)) as upstream:
                sock.sendall(b"HTTP/1.1 200 OK\r\nVia: company\r\n\r\n")
                pass_both_ways(sock, upstream)


INJECT = [{"transform": [{"headers": {"authorization": "Bearer SECRET"}}]}]
POLICY = {"allow": {"plain.invalid": [], "api.invalid": INJECT}}


@pytest.fixture
def upstream_port(outside: Outside) -> int:
    """An upstream that only the proxy knows: its names resolve nowhere."""
    port = outside.serve_http("plain.invalid").server_port
    outside.upstreams.clear()
    return port


def test_allowed_hosts_go_through_the_users_proxy(outside: Outside, upstream_port: int) -> None:
    """After the verdict the user's proxy resolves and connects, with the user's credentials."""
    proxy = CompanyProxy(upstream_port)
    way_out = load_way_out({"HTTPS_PROXY": f"http://me:p%40ss@127.0.0.1:{proxy.port}"})
    with firewall(outside, POLICY, way_out=way_out) as wall:
        with wall.open_tls("plain.invalid", outside.ca) as sock:
            status, _ = ask(wall.client(sock, "plain.invalid"))
        with pytest.raises(ConnectionResetError):
            wall.open_tls("evil.invalid")
    proxy.close()

    assert status == 200
    assert [head.split(b"\r\n") for head in proxy.heads] == [
        [
            b"CONNECT plain.invalid:443 HTTP/1.1",
            b"Host: plain.invalid:443",
            b"Proxy-Authorization: Basic bWU6cEBzcw==",
            b"",
            b"",
        ]
    ]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 407 Authenticate\r\n\r\n", b"the upstream proxy answered 407"),
        (b"SSH-2.0\r\n\r\n", b"the upstream proxy does not speak HTTP"),
        (b"HTTP/1.1 200", b"the upstream proxy closed the connection"),
    ],
)
def test_what_the_proxy_says_is_told(outside: Outside, answer: bytes, text: bytes) -> None:
    """A proxy that refuses or breaks is named in the answer."""
    proxy = CompanyProxy(0, answer)
    with firewall(outside, POLICY, way_out=WayOut("127.0.0.1", proxy.port)) as wall:
        status, body = wall.ask("api.invalid")
    proxy.close()

    assert status == 502
    assert text in body


def test_hosts_of_no_proxy_go_without_it() -> None:
    """NO_PROXY names hosts and their children."""
    way_out = load_way_out({"https_proxy": "proxy.example:8080", "no_proxy": "example.com, .test"})

    assert way_out is not None
    assert (way_out.host, way_out.port) == ("proxy.example", 8080)
    names = ["example.com", "api.example.com", "a.test", "example.org"]
    assert [way_out.is_for(name) for name in names] == [False, False, False, True]
    assert not WayOut("proxy.example", 8080, no_proxy="*").is_for("example.org")


def test_only_http_proxies_are_taken() -> None:
    """Another kind of proxy is an error that repeats no password; none at all is none."""
    assert load_way_out({}) is None
    with pytest.raises(ValueError, match="must be an http:// URL") as caught:
        load_way_out({"HTTPS_PROXY": "socks5://me:SECRET@proxy.example"})

    assert "SECRET" not in str(caught.value)
    assert "SECRET" not in repr(load_way_out({"HTTPS_PROXY": "http://me:SECRET@proxy.example"}))


DENYING = {**POLICY, "subnets": {"deny": ["10.0.0.0/8"]}}
PUBLIC = "2606:4700::1111"
"""Looks like an address of the internet; nothing is sent to it, only named to a proxy."""


def test_what_only_the_proxy_can_find_is_refused_where_subnets_are_denied(
    outside: Outside, upstream_port: int
) -> None:
    """An address that nobody here knows cannot be held against a denied subnet: it is refused."""
    proxy = CompanyProxy(upstream_port)
    with firewall(outside, DENYING, way_out=WayOut("127.0.0.1", proxy.port)) as wall:
        with pytest.raises(ConnectionResetError):
            wall.open_tls("plain.invalid", outside.ca)
        status, body = wall.ask("api.invalid")
        blocked = [told(record) for record in wall.records(2)]
    proxy.close()

    assert proxy.heads == []
    assert (status, REASON_UNCHECKED.encode() in body) == (403, True)
    assert blocked == [
        ("tls", "plain.invalid", 443, "blocked", REASON_UNCHECKED),
        ("tls", "api.invalid", 443, "blocked", REASON_UNCHECKED),
    ]


def test_the_record_says_that_the_proxy_finds_the_address(
    outside: Outside, upstream_port: int
) -> None:
    """Where no subnet is denied the proxy resolves the name, and the record says so."""
    proxy = CompanyProxy(upstream_port)
    with firewall(outside, POLICY, way_out=WayOut("127.0.0.1", proxy.port)) as wall:
        with wall.open_tls("plain.invalid", outside.ca):
            pass
        wall.ask("api.invalid")
        allowed = {record.host: record.reason for record in wall.records(3) if not record.is_end}
    proxy.close()

    assert {host: reason.endswith(NOTE_PROXY) for host, reason in allowed.items()} == {
        "plain.invalid": True,
        "api.invalid": True,
    }


def test_a_checked_address_is_what_the_proxy_is_asked_for(
    outside: Outside, upstream_port: int
) -> None:
    """Under denied subnets the proxy gets the address that was checked, never the name."""
    proxy = CompanyProxy(upstream_port)
    way_out = WayOut("127.0.0.1", proxy.port)
    with firewall(
        outside, DENYING, way_out=way_out, look_up=lambda _host, _port: ["10.0.0.1", PUBLIC]
    ) as wall:
        with wall.open_tls("plain.invalid", outside.ca) as sock:
            status, _ = ask(wall.client(sock, "plain.invalid"))
        wall.ask("api.invalid")
        reasons = [record.reason for record in wall.records(2)]
    proxy.close()

    assert status == 200
    assert {head.split(b"\r\n")[0] for head in proxy.heads} == {
        f"CONNECT [{PUBLIC}]:443 HTTP/1.1".encode()
    }
    assert not any(NOTE_PROXY in reason for reason in reasons)


def test_a_denied_subnet_cuts_what_the_proxy_resolved(outside: Outside, upstream_port: int) -> None:
    """A policy that comes later and denies subnets ends connections whose address is not known."""
    proxy = CompanyProxy(upstream_port)
    with (
        firewall(outside, POLICY, way_out=WayOut("127.0.0.1", proxy.port)) as wall,
        wall.open_tls("plain.invalid", outside.ca) as sock,
    ):
        first = ask(wall.client(sock, "plain.invalid"))[0]
        same = wall.firewall.set_policy(parse_policy(POLICY))
        cut = wall.firewall.set_policy(parse_policy(DENYING))
    proxy.close()

    assert (first, same, cut) == (200, 0, 1)


@pytest.mark.parametrize("kind", ["https", "socks4", "socks5", "socks5h", "ftp"])
def test_other_kinds_of_proxy_are_refused_by_name(kind: str) -> None:
    """What cannot be used is one line that names the kind, and no password."""
    with pytest.raises(ValueError, match=rf"must be an http:// URL, not {kind}://$") as caught:
        load_way_out({"https_proxy": f"{kind}://me:SECRET@proxy.example:1"})

    assert "SECRET" not in str(caught.value)
