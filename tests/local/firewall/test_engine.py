from __future__ import annotations

import http.client
import select
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING

import pytest

from opencode_magic.core.policy_wire import parse_policy
from opencode_magic.local.firewall.ca import SandboxCA
from opencode_magic.local.firewall.connections import Connection
from opencode_magic.local.firewall.gate import REASON_ENCRYPTED
from opencode_magic.local.firewall.record import Attempt, EgressLog
from opencode_magic.local.firewall.wall import Wall
from tests.local.firewall.hellos import extension, hello, real_hello, server_names
from tests.local.firewall.outside import LIMIT_S, ask, firewall, told

if TYPE_CHECKING:
    from opencode_magic.core.policy import NetworkPolicy
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
            assert _is_over(sock)
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
        assert _is_over(sock)
        records = wall.records(2)

    assert counts == [0, 1]
    assert records[-1].reason == "cut on request"
    assert records[-1].is_end


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


def test_close_leaves_nothing(outside: Outside) -> None:
    """After close no thread of the firewall lives and no connection is open."""
    outside.serve_http("plain.example.com")
    with firewall(outside, {"allow": ["plain.example.com"]}) as wall:
        sock = wall.open_tls("plain.example.com", outside.ca)
        silent = wall.open()
    assert _is_over(sock)
    assert _is_over(silent)
    sock.close()
    silent.close()

    names = {thread.name for thread in threading.enumerate()}
    assert not {"firewall-front", "firewall-relay"} & names
    wall.firewall.close()


def _is_over(sock: socket.socket) -> bool:
    """Whether the other side has ended this connection."""
    try:
        while sock.recv(65536):
            pass
    except OSError as exc:
        return not isinstance(exc, TimeoutError)
    return True


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
        assert _is_over(sock)
        records = wall.records(1)

    assert [told(record)[3:] for record in records] == [("blocked", REASON_ENCRYPTED)]
    assert server.seen == []


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
