"""The firewall and the policy's model agree: what ``decide`` says is what a program meets."""

from __future__ import annotations

import http.client
import json
import ssl
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opencode_magic.core.policy import Request, decide, decide_address
from opencode_magic.core.policy_wire import parse_policy
from opencode_magic.local.firewall.way_out import WayOut
from tests.local.firewall.outside import ConnectProxy, Outside, firewall

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from opencode_magic.core.policy import NetworkPolicy, Rule
    from tests.local.firewall.outside import Wall, _Server

HOSTS = ("one.example.com", "two.example.com", "three.example.org", "example.com", "one.internal")
BY_ADDRESS = {"four.example.com": "192.175.48.1", "six.example.com": "2620:4f:8000::1"}
"""Names whose addresses are asked for and checked. All go by a proxy on loopback."""
ADDRESSES = tuple(BY_ADDRESS.values())
FORWARD = "forward.example.net"
PATTERNS = (
    *(*HOSTS, *BY_ADDRESS, FORWARD),
    *("*.example.com", "*.example.org", "*.one.example.com", "*.one.internal"),
)
SPELLINGS = ("{}", "{}.", "x.{}", "x{}", "{}.example.net")
LOOPBACK = "http://127.0.0.1:PORT/inner"
"""The port is known later."""
OWN = {"body": "own", "contentType": "text/x-own"}

text = st.sampled_from(["/", "/v1", "/v1/models", "a", "b", ""])


def matchers(values: st.SearchStrategy[str], expressions: list[str]) -> st.SearchStrategy[object]:
    """Give matchers of each kind: plain, exact, prefix and RE2."""
    return st.one_of(
        values,
        values.map(lambda value: {"exact": value}),
        values.map(lambda value: {"startsWith": value}),
        st.sampled_from(expressions).map(lambda value: {"regex": value}),
    )


def pairs(keys: list[str], expressions: list[str]) -> st.SearchStrategy[list[object]]:
    """Give matchers of names and values, with either left out."""
    key = matchers(st.sampled_from(keys), expressions)
    value = matchers(text, ["^[ab]$", "^$", "."])
    pair = st.fixed_dictionaries({}, optional={"key": key, "value": value})
    return st.lists(pair, max_size=2)


match = st.fixed_dictionaries(
    {},
    optional={
        "path": matchers(text, ["^/v1", "models$", "^/(v1|v2)/?$", "."]),
        "method": st.lists(st.sampled_from(["GET", "post", "HEAD"]), max_size=2),
        "queryString": pairs(["mode", "mo", "kind"], ["^mo", "d$"]),
        "headers": pairs(["x-kind", "X-Kind", "x-", "host"], ["^x-", "kind$"]),
    },
)
header = st.sampled_from([{"x-injected": value} for value in "123"])
action = st.one_of(
    st.lists(header, min_size=1, max_size=2).map(
        lambda headers: {"transform": [{"headers": one} for one in headers]}
    ),
    st.sampled_from([203, 403]).map(lambda code: {"response": {"statusCode": code, **OWN}}),
    st.sampled_from([{"forwardURL": f"https://{FORWARD}/base"}, {"forwardURL": LOOPBACK}]),
)
rule = st.builds(
    lambda matched, acted: {"match": matched, **acted}, st.one_of(st.just({}), match), action
)
subnets = st.fixed_dictionaries(
    {},
    optional={
        kind: st.lists(st.sampled_from([*found, "192.0.0.0/8", "::/0"]), max_size=2)
        for kind, found in (
            ("allow", ["192.175.48.0/24", "2620:4f:8000::/48", "192.175.48.1"]),
            ("deny", ["192.175.48.0/30", "2620:4f:8000::1/128", "198.51.100.0/24"]),
        )
    },
)
policies: st.SearchStrategy[dict[str, object]] = st.one_of(
    st.sampled_from([{"mode": "deny-all"}, {"mode": "allow-all"}, {"allow": [*HOSTS[:2]]}]),
    st.fixed_dictionaries(
        {
            "subnets": subnets,
            "allow": st.dictionaries(
                st.sampled_from(PATTERNS), st.lists(rule, max_size=3), max_size=4
            ),
        },
        optional={"mode": st.just("custom")},
    ),
)


@dataclass(frozen=True)
class Asked:
    """One request of a program, to a host or to an address."""

    host: str
    method: str = "GET"
    path: str = "/"
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    scheme: Literal["https", "http"] = "https"

    @property
    def target(self) -> str:
        """The request line's target."""
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path


requests = st.builds(
    Asked,
    host=st.one_of(
        st.builds(
            lambda form, name: form.format(name), st.sampled_from(SPELLINGS), st.sampled_from(HOSTS)
        ),
        st.sampled_from([*HOSTS, *BY_ADDRESS, *ADDRESSES, *ADDRESSES]),
    ),
    method=st.sampled_from(["GET", "POST", "HEAD"]),
    path=st.sampled_from(["/", "/v1", "/v1/models", "/v2", "/%761", "/v1//mode%6Cs", "/v1/%c3%a9"]),
    query=st.lists(
        st.tuples(st.sampled_from(["mode", "kind"]), st.sampled_from(["a", "b", ""])), max_size=2
    ).map(tuple),
    headers=st.dictionaries(
        st.sampled_from(["x-kind", "X-Other", "x-injected"]), st.sampled_from("ab"), max_size=2
    ),
    scheme=st.sampled_from(["https", "https", "http"]),
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, object], Asked]:
    """Give a policy and a request, whose host the policy names more often than by chance."""
    asked, policy = draw(requests), draw(policies)
    hosts = policy.get("allow")
    if isinstance(hosts, dict) and asked.host not in ADDRESSES and draw(st.integers(0, 3)):
        hosts = {**hosts, asked.host.rstrip("."): draw(st.lists(rule, min_size=1, max_size=3))}
        policy = {**policy, "allow": hosts}
    return policy, asked


@dataclass
class World:
    """Upstreams that answer under every name, and a firewall whose policy the tests change."""

    outside: Outside
    server: _Server
    inner_port: int
    wall: Wall

    def parse(self, policy: object) -> NetworkPolicy:
        """Read a policy, and put it in force."""
        whole = json.dumps(policy).replace("PORT", str(self.inner_port))
        parsed = parse_policy(json.loads(whole))
        self.wall.firewall.set_policy(parsed)
        return parsed


@pytest.fixture(scope="module", params=[False, True], ids=["usual", "strict"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """The world, with a firewall that passes plain hosts through, and with a strict one."""
    folder: Path = tmp_path_factory.mktemp("outside")
    outside = Outside(folder)
    server, inner = outside.serve_http("one.example.com"), outside.serve_http(is_tls=False)
    inner.seen = server.seen
    for spelling in SPELLINGS:
        for host in (*HOSTS, FORWARD):
            outside.upstreams[spelling.format(host).rstrip(".")] = ("127.0.0.1", server.server_port)
    context = server.socket.context  # type: ignore[attr-defined]  # it was wrapped in TLS
    context.sni_callback = _any_name(outside)
    proxy = ConnectProxy(server.server_port, inner.server_port)
    options = {
        "look_up": lambda host, _: (BY_ADDRESS[host],),
        "way_out": WayOut("127.0.0.1", proxy.port),
        "is_strict": request.param,
        "allow_loopback_forward": True,
    }
    with firewall(outside, {"mode": "deny-all"}, **options) as wall:
        yield World(outside, server, inner.server_port, wall)
    proxy.close()
    outside.close()


def _any_name(outside: Outside) -> object:
    def choose(sock: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        sock.context = outside.ca.context_for(name or "unnamed.example")

    return choose


FRONTS = {"https": "tls4", "http": "http4"}
REFUSED = ("refused", None, None)


def expected(policy: NetworkPolicy, asked: Asked) -> tuple[str, object, object]:
    """Say what the model means for a program: refused, its own answer, or the upstream's."""
    own = asked.headers.get("x-injected")
    connection = decide(policy, Request(asked.host))
    if not connection.is_allowed:
        is_allowed = asked.scheme == "https" and decide_address(policy, asked.host).is_allowed
        return ("upstream", own, asked.target) if is_allowed else REFUSED
    whole = Request(
        asked.host,
        443 if asked.scheme == "https" else 80,
        asked.method,
        asked.path,
        tuple(parse_qsl(urlencode(asked.query), keep_blank_values=True)),
        (*asked.headers.items(), ("host", asked.host)),
    )
    rule = decide(policy, whole).rule if connection.must_terminate else None
    if rule is not None and rule.response is not None:
        return ("own answer", rule.response.status_code, None)
    if rule is not None and rule.forward_url:
        return expected_forward(rule, asked, own)
    if not may_reach(policy, asked, rule):
        return REFUSED
    injected = (rule.headers or {}).get("x-injected", own) if rule is not None else own
    return ("upstream", injected, asked.target)


def may_reach(policy: NetworkPolicy, asked: Asked, rule: Rule | None) -> bool:
    """Whether the host's address may be reached: by plain HTTP only in allowed subnets."""
    address = BY_ADDRESS.get(asked.host)
    if address and any(address_in(address, net) for net in policy.subnets_deny):
        return False
    if asked.scheme == "https":
        return True
    if address is None:
        return False  # nobody in this world speaks it under the other names
    is_in_subnet = any(address_in(address, net) for net in policy.subnets_allow)
    return policy.mode == "allow-all" or (is_in_subnet and rule is None)


def expected_forward(rule: Rule, asked: Asked, own: str | None) -> tuple[str, object, object]:
    """Say where a forwarded request goes: to loopback only from a name of the user's mappings."""
    base = rule.forward_url.rpartition("/")[2]
    if base == "inner" and not asked.host.rstrip(".").endswith(".internal"):
        return REFUSED
    return ("upstream", own, f"/{base}{asked.target}")


def address_in(address: str, net: object) -> bool:
    return decide_address(
        parse_policy({"allow": [], "subnets": {"allow": [str(net)]}}), address
    ).is_allowed


def met(world: World, asked: Asked) -> tuple[str, object, object]:
    """Ask through the firewall; say what the program met."""
    wall = world.wall
    world.server.seen.clear()
    context = ssl.create_default_context(cadata=(wall.ca.pem + world.outside.ca.pem).decode())
    # A name with a trailing dot is sent as it stands, which no certificate has.
    context.check_hostname = False
    is_address = asked.host in ADDRESSES
    try:
        is_tunnelled = is_address and asked.scheme == "https"
        sock = tunnel(wall, asked.host) if is_tunnelled else wall.open(FRONTS[asked.scheme])
        if asked.scheme == "https":
            sock = context.wrap_socket(sock, server_hostname=None if is_address else asked.host)
        with sock:
            client = wall.client(sock, asked.host)
            client.request(asked.method, asked.target, headers=dict(asked.headers))
            answer = client.getresponse()
            answer.read()
    except (OSError, http.client.HTTPException):
        return REFUSED
    if not world.server.seen:
        is_own = answer.getheader("content-type") == OWN["contentType"]
        return ("own answer", answer.status, None) if is_own else REFUSED
    [(method, target, headers, _)] = world.server.seen
    assert method == asked.method
    return ("upstream", headers.get("x-injected"), target)


def tunnel(wall: Wall, address: str) -> socket.socket:
    """Ask the proxy port for an address, as a program without a name for it does."""
    sock = wall.open("proxy")
    authority = f"[{address}]:443" if ":" in address else f"{address}:443"
    sock.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
    head = sock.recv(4096)
    if b" 200 " not in head[:20]:
        sock.close()
        raise ConnectionRefusedError(head)
    return sock


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(case=cases())
def test_the_firewall_does_what_the_model_says(
    world: World, case: tuple[dict[str, object], Asked]
) -> None:
    """For any policy and request a program meets exactly what the model decides."""
    policy, asked = case
    parsed = world.parse(policy)

    assert met(world, asked) == expected(parsed, asked)


def test_every_outcome_is_among_them(world: World) -> None:
    """Each way that a request can end is met once by hand, so that the property is no tautology."""
    rules: list[object] = [
        {"match": {"path": "/v2"}, "response": {"statusCode": 403, **OWN}},
        {"match": {"path": "/v1"}, "forwardURL": f"https://{FORWARD}/base"},
        {"match": {"queryString": [{"key": "mode"}]}, "forwardURL": LOOPBACK},
        {"match": {"method": ["POST"]}, "transform": [{"headers": {"x-injected": "1"}}]},
    ]
    hosts = {
        "one.example.com": rules,
        "one.internal": rules,
        "example.com": [],
        "*.example.com": [],
    }
    subnets = {"allow": ["192.175.48.0/24"], "deny": ["2620:4f:8000::/48"]}
    parsed = world.parse({"allow": hosts, "subnets": subnets})

    asked = [
        Asked("three.example.org"),
        Asked("example.com", headers={"x-injected": "mine"}),
        Asked("one.example.com", path="/v2"),
        Asked("one.example.com", path="/v1"),
        Asked("one.example.com", query=(("mode", ""),)),
        Asked("one.internal", query=(("mode", ""),)),
        Asked("one.example.com", "POST", headers={"x-injected": "mine"}),
        Asked("one.example.com"),
        Asked("four.example.com"),
        Asked("six.example.com"),
        *map(Asked, ADDRESSES),
        Asked("example.com", scheme="http"),
        Asked("four.example.com", scheme="http"),
        Asked("one.example.com", path="/v2", scheme="http"),
        Asked("one.example.com", "POST", scheme="http"),
    ]
    outcomes = [met(world, one) for one in asked]

    assert outcomes == [
        REFUSED,
        ("upstream", "mine", "/"),
        ("own answer", 403, None),
        ("upstream", None, "/base/v1"),
        REFUSED,
        ("upstream", None, "/inner/?mode="),
        ("upstream", "1", "/"),
        ("upstream", None, "/"),
        ("upstream", None, "/"),
        REFUSED,
        ("upstream", None, "/"),
        REFUSED,
        REFUSED,
        ("upstream", None, "/"),
        ("own answer", 403, None),
        REFUSED,
    ]
    assert outcomes == [expected(parsed, one) for one in asked]


def test_the_cases_are_of_every_kind() -> None:
    """What is generated has every mode, matcher, action and list, and meets every outcome."""
    kinds: Counter[str] = Counter()
    words = ["allow-all", "deny-all", "exact", "startsWith", "regex", "path", "method", "headers"]
    words += ["queryString", "transform", "response", "forwardURL", "subnets", "deny"]

    @settings(max_examples=400, database=None, derandomize=True, deadline=None)
    @given(case=cases())
    def look(case: tuple[dict[str, object], Asked]) -> None:
        policy, asked = case
        whole = json.dumps(policy)
        kinds.update(word for word in words if f'"{word}"' in whole)
        parsed = parse_policy(json.loads(whole.replace("PORT", "9")))
        kind, value, target = expected(parsed, asked)
        kinds[kind] += 1
        kinds["injected"] += kind == "upstream" and value in {"1", "2", "3"}
        kinds["forwarded"] += str(target).startswith(("/base", "/inner"))
        kinds["plain"] += asked.scheme == "http" and kind == "upstream"
        kinds["by address"] += asked.host in ADDRESSES and kind == "upstream"

    look()

    assert len(kinds) == len(words) + 3 + 4, kinds
    assert min(kinds.values()) >= 4, kinds
