from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from opencode_magic.local.firewall.judge import (
    REASON_BAD_TARGET,
    REASON_DOTS,
    REASON_FORWARD_ALL,
    REASON_FORWARD_DOTS,
    REASON_FORWARD_SPELLING,
    REASON_SPELLING,
    REASON_TRACE,
)
from tests.local.firewall.outside import firewall, told

if TYPE_CHECKING:
    from tests.local.firewall.outside import Outside

HOST = "api.example.com"
INJECT = {HOST: [{"transform": [{"headers": {"authorization": "Bearer SECRET"}}]}]}


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "trace"])
def test_no_method_echoes_an_injected_header(outside: Outside, method: str) -> None:
    """What an upstream answers with the request it got is refused, by a reason on record."""
    server = outside.serve_http(HOST)
    with firewall(outside, {"allow": INJECT}) as wall:
        status, _ = wall.ask(HOST, method=method)

        assert [told(record)[3:] for record in wall.log.since(0)] == [("blocked", REASON_TRACE)]
    assert status == 405
    assert server.seen == []


@pytest.mark.parametrize("path", ["/v3/../admin", "/v3/%2e%2e/admin", "/v3/.%252e/x", "/v3/..;/x"])
def test_dot_segments_do_not_escape_a_path_rule(outside: Outside, path: str) -> None:
    """A path that means another one upstream is refused where rules look at paths."""
    server = outside.serve_http(HOST)
    rule = {"match": {"path": {"startsWith": "/v3/"}}, **INJECT[HOST][0]}
    with firewall(outside, {"allow": {HOST: [rule]}}) as wall:
        status, _ = wall.ask(HOST, path)

        assert [told(record)[3:] for record in wall.log.since(0)] == [("blocked", REASON_DOTS)]
    assert status == 400
    assert server.seen == []


@pytest.mark.parametrize(
    "path", ["/admin", "/%61dmin", "//admin", "///%61%64min", "/adm%69n/", "/admin%2Dold"]
)
def test_a_path_rule_holds_for_every_spelling(outside: Outside, path: str) -> None:
    """A rule meets a path also where it is written with encodings or more slashes."""
    server = outside.serve_http(HOST)
    rule = {"match": {"path": {"startsWith": "/admin"}}, "response": {"statusCode": 403}}
    with firewall(outside, {"allow": {HOST: [rule]}}) as wall:
        status, _ = wall.ask(HOST, path)

    assert (status, server.seen) == (403, [])


@pytest.mark.parametrize(
    "path",
    [
        "/;/admin",
        "/%3b/admin",
        "/x%2f%61dmin",
        "/x%5Cadmin",
        "/x\\admin",
        "/admin%00",
        "/%2561dmin",
        "/%%361dmin",
        "/admin%",
        "/x%c0%afadmin",
        "/x%C1%9Cadmin",
        "/x%e0%80%afadmin",
        "/%c1%a1dmin",
        "/%ef%bd%81dmin",
        "/x%ef%bc%8fadmin",
        "/x%e2%88%95admin",
        "/x%c2%a5admin",
        "/admin%3fx",
        "/admin%23",
        "/%09admin",
        "/admin%0d%0a",
        "/%ff",
        "//x/admin",
        "///x/admin",
        "https://api.example.com//x/admin",
    ],
)
def test_a_path_with_two_meanings_is_refused_by_path_rules(outside: Outside, path: str) -> None:
    """What servers read in different ways does not pass rules that look at paths."""
    server = outside.serve_http(HOST)
    rule = {"match": {"path": "/admin"}, "response": {"statusCode": 403}}
    with firewall(outside, {"allow": {HOST: [rule], "example.com": []}}) as wall:
        status, _ = wall.ask(HOST, path)
        told_reasons = [told(record)[3:] for record in wall.log.since(0)]

    assert (status, server.seen) == (400, [])
    assert told_reasons == [("blocked", REASON_SPELLING)]


def test_a_host_header_is_what_the_upstream_reads(outside: Outside) -> None:
    """A name that is only the allowed one once it is converted goes nowhere."""
    server = outside.serve_http(HOST)
    names = [b"api.ex\xadample.com", b"api.example.c\xbam", b"\xaapi.example.com"]
    with firewall(outside, {"allow": INJECT}) as wall:
        for name in names:
            with wall.open_tls(HOST) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % name)
                assert sock.recv(65536).startswith(b"HTTP/1.1 400 ")
        told_reasons = [told(record)[3:] for record in wall.log.since(0)]

    assert server.seen == []
    assert told_reasons == [("blocked", REASON_BAD_TARGET)] * len(names)


def test_hosts_without_path_rules_take_any_spelling(outside: Outside) -> None:
    """Where no rule looks at paths a path passes byte for byte."""
    server = outside.serve_http(HOST)
    path = "/%61//x;y=1/group%2Fproject?a=%2f"
    with firewall(outside, {"allow": INJECT}) as wall:
        wall.ask(HOST, path)

    assert [target for _, target, _, _ in server.seen] == [path]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/../admin", REASON_FORWARD_DOTS),
        ("/v1/%2e./%2E%2e/admin", REASON_FORWARD_DOTS),
        ("/..%2fadmin", REASON_FORWARD_DOTS),
        ("/..%5cadmin", REASON_FORWARD_DOTS),
        ("/%25252e%25252e%25252fadmin", REASON_FORWARD_DOTS),
        ("/%2525252525252e/admin", REASON_FORWARD_DOTS),
        ("/%%32%65%%32%65/admin", REASON_FORWARD_DOTS),
        ("/..%00/admin", REASON_FORWARD_DOTS),
        ("/%c0%ae%c0%ae/admin", REASON_FORWARD_SPELLING),
        ("/%25c0%25ae%25c0%25ae/admin", REASON_FORWARD_SPELLING),
        ("/%f0%80%80%ae./admin", REASON_FORWARD_SPELLING),
        ("/..%c0%afadmin", REASON_FORWARD_SPELLING),
        ("/%ef%bc%8e%ef%bc%8e/admin", REASON_FORWARD_SPELLING),
        ("/%e2%80%a5/admin", REASON_FORWARD_SPELLING),
        ("*", REASON_FORWARD_ALL),
    ],
)
def test_a_forwarded_request_stays_under_its_base(outside: Outside, path: str, reason: str) -> None:
    """No spelling of a path leaves the part of a server that a forwardURL leads to."""
    server = outside.serve_http(is_tls=False)
    rules = [{"forwardURL": f"http://127.0.0.1:{server.server_port}/base"}]
    policy = {"allow": {"ollama.internal": rules}}
    with firewall(outside, policy, allow_loopback_forward=True) as wall:
        status, _ = wall.ask("ollama.internal", path, method="OPTIONS" if path == "*" else "GET")
        records = [told(record)[3:] for record in wall.log.since(0)]
        kept = wall.ask("ollama.internal", "/v1/.../a..b/%2541/%c3%a9?next=/../x")

    assert (status, records) == (400, [("blocked", reason)])
    assert kept[0] == 200
    assert [target for _, target, _, _ in server.seen] == [
        "/base/v1/.../a..b/%2541/%c3%a9?next=/../x"
    ]
