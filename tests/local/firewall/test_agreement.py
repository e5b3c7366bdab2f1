"""The firewall and the policy's model agree: what ``decide`` says is what a program meets."""

from __future__ import annotations

import http.client
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opencode_magic.core.policy import Request, decide
from opencode_magic.core.policy_wire import parse_policy
from tests.local.firewall.outside import Outside, ask, firewall

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from opencode_magic.core.policy import NetworkPolicy
    from tests.local.firewall.outside import Wall, _Server

HOSTS = ("one.example.com", "two.example.com", "three.example.org", "example.com")
PATTERNS = (*HOSTS, "*.example.com", "*.example.org", "*.one.example.com")
SPELLINGS = ("{}", "{}.", "x.{}", "x{}", "{}.example.net")

text = st.sampled_from(["/", "/v1", "/v1/models", "a", "b", ""])
matcher = st.one_of(
    text,
    text.map(lambda value: {"exact": value}),
    text.map(lambda value: {"startsWith": value}),
    st.sampled_from(["^/v1", "models$", "^[ab]$", "."]).map(lambda value: {"regex": value}),
)
pair = st.fixed_dictionaries({"key": st.sampled_from(["mode", "x-kind"]), "value": matcher})
match = st.fixed_dictionaries(
    {},
    optional={
        "path": matcher,
        "method": st.lists(st.sampled_from(["GET", "post"]), max_size=2),
        "queryString": st.lists(pair, max_size=1),
        "headers": st.lists(pair, max_size=1),
    },
)
action = st.one_of(
    st.sampled_from([{"transform": [{"headers": {"x-injected": value}}]} for value in "123"]),
    st.sampled_from([{"response": {"statusCode": code, "body": "own"}} for code in (203, 403)]),
)
rule = st.builds(lambda matched, acted: {"match": matched, **acted}, match, action)
policies = st.one_of(
    st.just({"mode": "deny-all"}),
    st.dictionaries(st.sampled_from(PATTERNS), st.lists(rule, max_size=3), max_size=4).map(
        lambda hosts: {"allow": hosts}
    ),
)


@dataclass(frozen=True)
class Asked:
    """One request of a program."""

    host: str
    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]

    @property
    def target(self) -> str:
        """The request line's target."""
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path


requests = st.builds(
    Asked,
    host=st.builds(
        lambda form, name: form.format(name), st.sampled_from(SPELLINGS), st.sampled_from(HOSTS)
    ),
    method=st.sampled_from(["GET", "POST"]),
    path=st.sampled_from(["/", "/v1", "/v1/models", "/v2", "/%761", "/v1//mode%6Cs", "/v1/%c3%a9"]),
    query=st.lists(st.tuples(st.just("mode"), st.sampled_from("abc")), max_size=2).map(tuple),
    headers=st.dictionaries(st.just("x-kind"), st.sampled_from("ab"), max_size=1),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Outside, _Server, Wall]]:
    """One upstream under every name, and a firewall whose policy the tests change."""
    folder: Path = tmp_path_factory.mktemp("outside")
    outside = Outside(folder)
    server = outside.serve_http("one.example.com")
    for spelling in SPELLINGS:
        for host in HOSTS:
            outside.upstreams[spelling.format(host).rstrip(".")] = ("127.0.0.1", server.server_port)
    context = server.socket.context  # type: ignore[attr-defined]  # it was wrapped in TLS
    context.sni_callback = _any_name(outside)
    with firewall(outside, {"mode": "deny-all"}) as wall:
        yield outside, server, wall
    outside.close()


def _any_name(outside: Outside) -> object:
    def choose(sock: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        sock.context = outside.ca.context_for(name or "unnamed.example")

    return choose


def expected(policy: NetworkPolicy, asked: Asked) -> tuple[str, object]:
    """Say what the model means for a program: refused, its own answer, or the upstream's."""
    connection = decide(policy, Request(asked.host))
    if not connection.is_allowed:
        return ("refused", None)
    if not connection.must_terminate:
        return ("upstream", None)
    whole = Request(
        asked.host,
        443,
        asked.method,
        asked.path,
        tuple(parse_qsl(urlencode(asked.query), keep_blank_values=True)),
        tuple(asked.headers.items()),
    )
    chosen = decide(policy, whole).rule
    if chosen is None:
        return ("upstream", None)
    if chosen.response is not None:
        return ("own answer", chosen.response.status_code)
    assert chosen.headers is not None
    return ("upstream", chosen.headers["x-injected"])


def met(world: tuple[Outside, _Server, Wall], asked: Asked) -> tuple[str, object]:
    """Ask through the firewall; say what the program met."""
    outside, server, wall = world
    server.seen.clear()
    context = ssl.create_default_context(cadata=(wall.ca.pem + outside.ca.pem).decode())
    # A name with a trailing dot is sent as it stands, which no certificate has.
    context.check_hostname = False
    try:
        with context.wrap_socket(wall.open(), server_hostname=asked.host) as sock:
            client = wall.client(sock, asked.host)
            options = {"method": asked.method, "headers": dict(asked.headers)}
            status, body = ask(client, asked.target, **options)
    except (OSError, http.client.HTTPException):
        return ("refused", None)
    if body == b"own" and not server.seen:
        return ("own answer", status)
    [(method, target, headers, _)] = server.seen
    assert (method, target) == (asked.method, asked.target)
    return ("upstream", headers.get("x-injected"))


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(policy=policies, asked=requests)
def test_the_firewall_does_what_the_model_says(
    world: tuple[Outside, _Server, Wall], policy: object, asked: Asked
) -> None:
    """For any policy and request a program meets exactly what the model decides."""
    parsed = parse_policy(policy)
    world[2].firewall.set_policy(parsed)

    assert met(world, asked) == expected(parsed, asked)


def test_every_outcome_is_among_them(world: tuple[Outside, _Server, Wall]) -> None:
    """Each way that a request can end is met once by hand, so that the property is no tautology."""
    rules = [
        {"match": {"path": "/v2"}, "response": {"statusCode": 403, "body": "own"}},
        {"match": {"method": ["POST"]}, "transform": [{"headers": {"x-injected": "1"}}]},
    ]
    world[2].firewall.set_policy(
        parse_policy({"allow": {"one.example.com": rules, "example.com": []}})
    )

    outcomes = [
        met(world, Asked(host, method, path, (), {}))
        for host, method, path in (
            ("two.example.com", "GET", "/"),
            ("example.com", "GET", "/"),
            ("one.example.com", "GET", "/v2"),
            ("one.example.com", "POST", "/"),
            ("one.example.com", "GET", "/"),
        )
    ]

    assert outcomes == [
        ("refused", None),
        ("upstream", None),
        ("own answer", 403),
        ("upstream", "1"),
        ("upstream", None),
    ]
