"""Connections that a change of the policy, a cut or the end takes away."""

from __future__ import annotations

import select
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from opencode_magic.core.policy_wire import parse_policy
from opencode_magic.local.firewall.ca import SandboxCA
from opencode_magic.local.firewall.connections import Connection
from opencode_magic.local.firewall.record import Attempt, EgressLog
from opencode_magic.local.firewall.wall import Wall
from tests.local.firewall.outside import LIMIT_S, ask, firewall, is_over

if TYPE_CHECKING:
    from opencode_magic.core.policy import NetworkPolicy
    from tests.local.firewall.outside import Outside

NOT_LISTED = "not in the network policy"
INJECT = {"api.example.com": [{"transform": [{"headers": {"authorization": "Bearer SECRET"}}]}]}

MOST_ON_ITS_WAY = 64 << 20
"""More than the buffers between an upstream and a program hold."""


def test_a_policy_change_cuts_what_it_forbids(outside: Outside) -> None:
    """Within 100 ms a spliced and a terminated connection end, and an allowed one stays."""
    for host in ("a.example.com", "b.example.com"):
        outside.serve_http(host)
    outside.serve_http("api.example.com")
    with firewall(outside, {"allow": {**INJECT, "a.example.com": [], "b.example.com": []}}) as wall:
        spliced = wall.open_tls("a.example.com", outside.ca)
        kept = wall.open_tls("b.example.com", outside.ca)
        ended = wall.open_tls("api.example.com")
        for sock, host in ((spliced, "a.example.com"), (ended, "api.example.com")):
            assert ask(wall.client(sock, host))[0] == 200
        started = time.monotonic()
        count = wall.firewall.set_policy(parse_policy({"allow": ["b.example.com"]}))
        for sock in (spliced, ended):
            assert select.select([sock], [], [], LIMIT_S)[0]
            assert is_over(sock)
        took_s = time.monotonic() - started
        assert ask(wall.client(kept, "b.example.com"))[0] == 200
        with pytest.raises(ConnectionResetError):
            wall.open_tls("a.example.com", outside.ca)
        for sock in (spliced, kept, ended):
            sock.close()

    assert count == 2
    assert took_s < 0.1


def test_cut_ends_the_connections_to_one_host(outside: Outside) -> None:
    """A running answer is cut on request, and the record says why."""
    is_asked = threading.Event()

    def hang(sock: socket.socket) -> None:
        sock.recv(4096)
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nstart")
        is_asked.set()
        sock.recv(4096)

    outside.serve_raw("api.example.com", hang)
    with firewall(outside, {"allow": INJECT}) as wall, wall.open_tls("api.example.com") as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
        is_asked.wait(LIMIT_S)
        counts = [wall.firewall.cut("other.example.com"), wall.firewall.cut("api.example.com")]
        assert is_over(sock)
        records = wall.records(2)

    assert counts == [0, 1]
    assert records[-1].reason == "cut on request"
    assert records[-1].is_end


@pytest.mark.parametrize("is_read", [True, False])
def test_a_policy_change_cuts_a_long_answer_that_passes(
    outside: Outside,
    is_read: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Also while its bytes are only counted, and where the program has ceased to take them."""

    def talk(sock: socket.socket) -> None:
        sock.recv(4096)
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (1 << 40))
        while True:
            sock.sendall(bytes(1 << 20))

    outside.serve_raw("api.example.com", talk)
    with firewall(outside, {"allow": INJECT}) as wall, wall.open_tls("api.example.com") as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
        taken = 0
        while taken < 8 << 20:
            taken += len(sock.recv(1 << 20))
        if not is_read:
            time.sleep(0.5)
        count = wall.firewall.set_policy(parse_policy({"allow": ["b.example.com"]}))
        came = 0
        while came < MOST_ON_ITS_WAY and (size := len(read_or_end(sock))):
            came += size
        records = wall.records(2)

    assert count == 1
    assert came < MOST_ON_ITS_WAY
    assert (records[-1].is_end, records[-1].reason) == (True, "cut: the network policy changed")
    assert records[-1].bytes_in >= taken


def read_or_end(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1 << 20)
    except OSError:
        return b""


def test_close_leaves_nothing(outside: Outside) -> None:
    """After close no thread of the firewall lives and no connection is open."""
    outside.serve_http("plain.example.com")
    with firewall(outside, {"allow": ["plain.example.com"]}) as wall:
        sock = wall.open_tls("plain.example.com", outside.ca)
        silent = wall.open()
    assert is_over(sock)
    assert is_over(silent)
    sock.close()
    silent.close()

    names = {thread.name for thread in threading.enumerate()}
    assert not {"firewall-front", "firewall-relay"} & names
    wall.firewall.close()


def test_a_denied_subnet_cuts_what_leads_there() -> None:
    """A live connection whose address a new policy denies is forbidden from then on."""
    wall = make_wall(parse_policy({"allow": ["a.example"]}))
    near, far = socket.socketpair()
    connection = Connection(Attempt("tls", "a.example", 443), near)
    connection.address = "8.8.8.8"
    before = wall.is_forbidden(connection)
    wall.policy = parse_policy({"allow": ["a.example"], "subnets": {"deny": ["8.8.8.0/24"]}})
    after = wall.is_forbidden(connection)
    connection.close()
    far.close()

    assert (before, after) == (False, True)


def make_wall(policy: NetworkPolicy) -> Wall:
    return Wall(
        policy,
        ca=SandboxCA.create(),
        record=EgressLog(),
        upstreams={},
        upstream_ca=None,
        allow_loopback_forward=False,
        is_strict=False,
        way_out=None,
    )
