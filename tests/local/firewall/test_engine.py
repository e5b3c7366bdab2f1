from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from opencode_magic.local.firewall.gate import REASON_ENCRYPTED
from tests.local.firewall.hellos import extension, hello, real_hello, server_names
from tests.local.firewall.outside import ask, firewall, is_over, told

if TYPE_CHECKING:
    from tests.local.firewall.outside import Outside

NOT_LISTED = "not in the network policy"
INJECT = {"api.example.com": [{"transform": [{"headers": {"authorization": "Bearer SECRET"}}]}]}


def test_a_plain_allowed_host_is_spliced(outside: Outside) -> None:
    """TLS with an allowed host is end to end: the program sees the host's own certificate."""
    outside.serve_http("plain.example.com")
    with firewall(outside, {"allow": ["plain.example.com"]}) as wall:
        with wall.open_tls("plain.example.com", outside.ca) as sock:
            port = sock.getsockname()[1]
            status, body = ask(wall.client(sock, "plain.example.com"), "/x")
        records = wall.records(2)

    assert (status, body) == (200, b"GET /x plain.example.com\n")
    assert [told(record) for record in records] == [
        ("tls", "plain.example.com", 443, "allowed", "allowed host, passed through unread"),
        ("tls", "plain.example.com", 443, "allowed", "ended"),
    ]
    assert {record.source_port for record in records} == {port}
    assert records[0].connection == records[1].connection
    assert records[1].is_end
    assert min(records[1].bytes_out, records[1].bytes_in) > 0


def test_an_unlisted_host_is_reset_and_on_record_first(outside: Outside) -> None:
    """A refusal is a reset, and its record with the source port is there when it is seen."""
    server = outside.serve_http("evil.example.org")
    with firewall(outside, {"allow": ["plain.example.com"]}) as wall:
        sock = wall.open()
        port = sock.getsockname()[1]
        context = ssl.create_default_context()
        with pytest.raises(ConnectionResetError):
            context.wrap_socket(sock, server_hostname="evil.example.org")
        records = wall.log.since(0)

    assert [told(record) for record in records] == [
        ("tls", "evil.example.org", 443, "blocked", NOT_LISTED)
    ]
    assert records[0].source_port == port
    assert server.seen == []


def test_tls_without_a_name_is_refused(outside: Outside) -> None:
    """Without a server name there is nothing to allow; the record names the address."""
    with firewall(outside, {"allow": ["plain.example.com"]}) as wall:
        context = ssl.create_default_context()
        context.check_hostname = False
        with pytest.raises(ConnectionResetError):
            context.wrap_socket(wall.open())

        assert [told(record) for record in wall.log.since(0)] == [
            ("tls", "127.0.0.1", 443, "blocked", "TLS without a server name")
        ]


@pytest.mark.parametrize(
    "garbage", [b"SSH-2.0-OpenSSH\r\n", b"\x80\x2e\x01\x00\x02", b"\x16\x02", b"\0"]
)
def test_what_is_not_tls_is_refused(outside: Outside, garbage: bytes) -> None:
    """Another protocol on port 443 is refused with its first bytes."""
    with firewall(outside, {"allow": ["plain.example.com"]}) as wall, wall.open() as sock:
        sock.sendall(garbage)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)

        assert [record.reason for record in wall.log.since(0)] == ["not TLS"]


def test_a_key_is_injected_over_the_programs_own(outside: Outside) -> None:
    """Injected headers replace those that the program sent, in any case and number."""
    server = outside.serve_http("api.example.com")
    with firewall(outside, {"allow": INJECT}) as wall:
        with wall.open_tls("api.example.com") as sock:
            sock.sendall(
                b"GET /v1 HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: mine\r\n"
                b"AUTHORIZATION: again\r\nX-Kept: yes\r\n\r\n"
            )
            answer = sock.recv(4096)
        records = wall.records(2)

    assert answer.startswith(b"HTTP/1.1 200")
    headers = server.seen[0][2]
    assert headers == {
        "Host": "api.example.com",
        "X-Kept": "yes",
        "authorization": "Bearer SECRET",
    }
    assert "SECRET" not in repr(records)
    assert [(r.method, r.path, r.status_code, r.is_end) for r in records] == [
        ("GET", "/v1", 0, False),
        ("GET", "/v1", 200, True),
    ]


def test_kept_alive_requests_use_one_upstream_connection(outside: Outside) -> None:
    """Both sides stay open between requests, and every request has its own record."""
    outside.serve_http("api.example.com")
    with firewall(outside, {"allow": INJECT}) as wall:
        with wall.open_tls("api.example.com") as sock:
            client = wall.client(sock, "api.example.com")
            ports = []
            for path in ("/1", "/2", "/3"):
                client.request("GET", path)
                answer = client.getresponse()
                answer.read()
                ports.append(answer.headers["x-connection"])
        records = wall.records(6)

    assert len(set(ports)) == 1
    assert [record.path for record in records] == ["/1", "/1", "/2", "/2", "/3", "/3"]


def test_the_host_header_must_name_the_tls_host(outside: Outside) -> None:
    """On a terminated host another Host header is refused: no fronting."""
    server = outside.serve_http("api.example.com")
    with firewall(outside, {"allow": {**INJECT, "other.example.com": []}}) as wall:
        status, body = wall.ask("api.example.com", headers={"Host": "other.example.com"})
        records = wall.log.since(0)

    assert status == 421
    assert b"the Host header names another host" in body
    assert [(r.host, r.verdict, r.status_code) for r in records] == [
        ("other.example.com", "blocked", 421)
    ]
    assert server.seen == []


def test_rules_decide_each_request(outside: Outside) -> None:
    """On one connection a rule answers, another forwards, and what fits none passes unchanged."""
    api = outside.serve_http("api.example.com")
    gate = outside.serve_http("gate.example.com")
    policy = {
        "allow": {
            "api.example.com": [
                {"match": {"path": "/no"}, "response": {"statusCode": 403, "body": "no"}},
                {"match": {"method": ["POST"]}, "forwardURL": "https://gate.example.com:444/base"},
            ]
        }
    }
    with firewall(outside, policy) as wall, wall.open_tls("api.example.com") as sock:
        client = wall.client(sock, "api.example.com")
        answers = [
            ask(client, "/no"),
            ask(client, "/v1?a=b", method="POST", body=b"data"),
            ask(client, "/v1"),
        ]

    assert answers == [
        (403, b"no"),
        (200, b"POST /base/v1?a=b gate.example.com:444\ndata"),
        (200, b"GET /v1 api.example.com\n"),
    ]
    assert [entry[1] for entry in (*api.seen, *gate.seen)] == ["/v1", "/base/v1?a=b"]
    assert gate.seen[0][2]["x-forwarded-host"] == "api.example.com"


def test_a_mapping_leads_to_loopback_only_for_internal_names(outside: Outside) -> None:
    """A forwardURL to this machine is followed for ``.internal`` names where it is allowed."""
    server = outside.serve_http(is_tls=False)
    url = f"http://127.0.0.1:{server.server_port}"
    rules = [{"forwardURL": url}]
    policy = {"allow": {"demo-model.internal": rules, "api.example.com": rules}}
    with firewall(outside, policy, allow_loopback_forward=True) as wall:
        mapped = wall.ask("demo-model.internal", "/v1")
        other = wall.ask("api.example.com", "/v1")
    with firewall(outside, policy) as wall:
        refused = wall.ask("demo-model.internal", "/v1")

    assert mapped[0] == 200
    assert (other[0], refused[0]) == (403, 403)
    assert b"leads to this machine" in other[1]
    assert len(server.seen) == 1


def test_plain_http_needs_more_than_an_allowed_host(outside: Outside) -> None:
    """Port 80 is open for forwarded and answered hosts, never with an injected header."""
    server = outside.serve_http(is_tls=False)
    outside.serve_http("plain.example.com", is_tls=False)
    policy = {
        "allow": {
            **INJECT,
            "plain.example.com": [],
            "demo-model.internal": [{"forwardURL": f"http://127.0.0.1:{server.server_port}"}],
        }
    }
    answers = {}
    with firewall(outside, policy, allow_loopback_forward=True) as wall:
        for host in ("plain.example.com", "api.example.com", "demo-model.internal", "no.example"):
            with wall.open("http4") as sock:
                answers[host] = ask(wall.client(sock, host))[0]
        blocked = {(r.host, r.reason) for r in wall.log.since(0) if r.verdict == "blocked"}

    assert answers == {
        "plain.example.com": 403,
        "api.example.com": 403,
        "demo-model.internal": 200,
        "no.example": 403,
    }
    assert blocked == {
        ("plain.example.com", "plain HTTP is not in the network policy; use https"),
        ("api.example.com", "plain HTTP would show the injected header"),
        ("no.example", NOT_LISTED),
    }


def test_the_proxy_port_leads_to_allowed_hosts_only(outside: Outside) -> None:
    """CONNECT is decided by its host and port, and the TLS inside must name the same host."""
    outside.serve_http("plain.example.com")
    outside.serve_http("other.example.com")
    with firewall(outside, {"allow": ["plain.example.com", "other.example.com"]}) as wall:
        answers = []
        for target in ("evil.example.org:443", "plain.example.com:22", "[2001:db8::1]:443"):
            with wall.open("proxy") as sock:
                sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
                answers.append(sock.recv(4096).split(b"\r\n")[0])
        with wall.open("proxy") as sock:
            sock.sendall(b"CONNECT plain.example.com:443 HTTP/1.1\r\n\r\n")
            established = sock.recv(4096)
            context = ssl.create_default_context(cadata=outside.ca.pem.decode())
            with context.wrap_socket(sock, server_hostname="plain.example.com") as wrapped:
                status, _ = ask(wall.client(wrapped, "plain.example.com"))
        with wall.open("proxy") as sock:
            sock.sendall(b"CONNECT plain.example.com:443 HTTP/1.1\r\n\r\n")
            sock.recv(4096)
            with pytest.raises(ConnectionResetError):
                context.wrap_socket(sock, server_hostname="other.example.com")
        blocked = [told(r)[1:3] for r in wall.log.since(0) if r.verdict == "blocked"]

    assert answers == [b"HTTP/1.1 403 Forbidden"] * 3
    assert established.startswith(b"HTTP/1.1 200 ")
    assert status == 200
    assert blocked == [
        ("evil.example.org", 443),
        ("plain.example.com", 22),
        ("2001:db8::1", 443),
        ("other.example.com", 443),
    ]


def test_an_upstream_that_is_not_trusted_gets_no_request(outside: Outside) -> None:
    """The upstream's certificate is verified before anything, also the key, is sent."""
    server = outside.serve_http("wrong.example.com")
    outside.upstreams["api.example.com"] = outside.upstreams["wrong.example.com"]
    with firewall(outside, {"allow": INJECT}) as wall:
        status, body = wall.ask("api.example.com")
        records = wall.records(2)

    assert status == 502
    assert b"certificate is not trusted" in body
    assert [(r.verdict, r.status_code, r.is_end) for r in records] == [
        ("allowed", 0, False),
        ("allowed", 502, True),
    ]
    assert server.seen == []


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1"])
def test_a_name_that_leads_inside_is_refused(outside: Outside, address: str) -> None:
    """A forwardURL, like a name, must lead to the public internet."""
    url = f"http://[{address}]" if ":" in address else f"http://{address}"
    with firewall(outside, {"allow": {"api.example.com": [{"forwardURL": url}]}}) as wall:
        status, _ = wall.ask("api.example.com")

        assert status == 403
        assert [r.verdict for r in wall.log.since(0)] == ["blocked"]


def test_a_name_that_resolves_to_loopback_is_refused(outside: Outside) -> None:
    """An allowed name that the host resolves to loopback is blocked."""
    with firewall(outside, {"allow": ["localhost"]}) as wall:
        with pytest.raises(ConnectionResetError):
            wall.open_tls("localhost")

        assert [told(r) for r in wall.log.since(0)] == [
            ("tls", "localhost", 443, "blocked", "its address is not on the public internet")
        ]


def test_strict_terminates_plain_hosts(outside: Outside) -> None:
    """In strict mode a plain allowed host is read as well, so fronting is refused."""
    outside.serve_http("plain.example.com")
    with firewall(outside, {"allow": ["plain.example.com"]}, is_strict=True) as wall:
        own = wall.ask("plain.example.com")
        fronted = wall.ask("plain.example.com", headers={"Host": "other.example.com"})

    assert (own[0], fronted[0]) == (200, 421)


def test_a_program_that_distrusts_the_authority_is_on_record(outside: Outside) -> None:
    """TLS that the program itself gives up is recorded with that reason."""
    outside.serve_http("api.example.com")
    with firewall(outside, {"allow": INJECT}) as wall:
        with pytest.raises(ssl.SSLCertVerificationError):
            wall.open_tls("api.example.com", outside.ca)
        records = wall.records(1)

    assert [r.reason for r in records] == ["the program does not trust the sandbox's certificates"]


@pytest.mark.parametrize("policy", [{"subnets": {"allow": ["127.0.0.0/8"]}}, {"mode": "allow-all"}])
def test_no_policy_opens_this_machine_by_address(outside: Outside, policy: object) -> None:
    """Neither an allowed subnet nor allow-all leads to loopback, with a server name or without."""
    with firewall(outside, policy) as wall:
        for host in (None, "127.0.0.1"):
            sock = wall.open()
            sock.sendall(real_hello(host))
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
            sock.close()
        records = wall.log.since(0)

    assert [told(record) for record in records] == [
        ("tls", "127.0.0.1", 443, "blocked", "its address is not on the public internet")
    ] * 2


def test_an_encrypted_hello_is_not_spliced(outside: Outside) -> None:
    """With an encrypted ClientHello a plain host is terminated, so no hidden name gets out."""
    server = outside.serve_http("plain.example.com")
    data = hello(server_names(b"plain.example.com"), extension(0xFE0D, b"\0\1"))
    with firewall(outside, {"allow": ["plain.example.com"]}) as wall, wall.open() as sock:
        sock.sendall(data)
        assert is_over(sock)
        records = wall.records(1)

    assert [told(record)[3:] for record in records] == [("blocked", REASON_ENCRYPTED)]
    assert server.seen == []
