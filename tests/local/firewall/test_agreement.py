from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opencode_magic.core.policy import Request, decide
from opencode_magic.core.policy_wire import parse_policy
from tests.local.firewall.outside import Outside, Wall, ask, firewall
from tests.local.firewall.test_dns import code_of, query

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opencode_magic.core.policy import NetworkPolicy

NAMES = ["a.example", "b.a.example", "c.b.a.example", "ab.example", "a.test"]
PATTERNS = [*NAMES, "*.a.example", "*.b.a.example", "*.example.test"]
PATHS = ["/", "/v1", "/v1/x?mode=a", "/v2?mode=b"]

match = st.fixed_dictionaries(
    {},
    optional={
        "path": st.sampled_from([{"startsWith": "/v1"}, {"exact": "/"}, {"regex": "x$"}]),
        "method": st.sampled_from([["GET"], ["POST"], ["get", "post"]]),
        "queryString": st.just([{"key": "mode", "value": {"regex": "^a$"}}]),
        "headers": st.just([{"key": "x-kind", "value": "one"}]),
    },
)
rules = st.lists(
    st.tuples(match, st.sampled_from([210, 211, 212])).map(
        lambda pair: {"match": pair[0], "response": {"statusCode": pair[1]}}
    ),
    max_size=3,
)
wires = st.one_of(
    st.just({"mode": "deny-all"}),
    st.just({"mode": "allow-all"}),
    st.dictionaries(st.sampled_from(PATTERNS), rules, max_size=4).map(
        lambda hosts: {"allow": hosts}
    ),
)


@pytest.fixture(scope="module")
def wall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Wall, ssl.SSLContext]]:
    """A firewall, and a program that trusts the upstreams and the sandbox's authority."""
    outside = Outside(tmp_path_factory.mktemp("outside"))
    for name in NAMES:
        outside.serve_http(name)
    with firewall(outside, {}) as running:
        trusted = (outside.ca.pem + running.ca.pem).decode()
        yield running, ssl.create_default_context(cadata=trusted)
    outside.close()


def expected(policy: NetworkPolicy, request: Request, *, is_plain: bool) -> int:
    """Give the status a program must see by the model: 0 for a reset."""
    decision = decide(policy, request)
    rule = decision.rule
    if rule is not None and rule.response is not None and decision.is_allowed:
        return rule.response.status_code
    if is_plain:
        # Passed on, plain HTTP meets an upstream that speaks TLS.
        return 502 if decision.is_allowed and policy.mode == "allow-all" else 403
    return 200 if decision.is_allowed else 0


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    wire=wires,
    name=st.sampled_from(NAMES),
    path=st.sampled_from(PATHS),
    method=st.sampled_from(["GET", "POST"]),
    headers=st.sampled_from([{}, {"X-Kind": "one"}]),
    is_plain=st.booleans(),
)
def test_the_firewall_does_what_the_model_says(
    wall: tuple[Wall, ssl.SSLContext],
    wire: object,
    name: str,
    path: str,
    method: str,
    headers: dict[str, str],
    is_plain: bool,  # noqa: FBT001 - a drawn value
) -> None:
    """For every policy and request the firewall and ``decide`` agree, by name look-up as well."""
    running, context = wall
    policy = parse_policy(wire)
    running.firewall.set_policy(policy)
    bare, _, query_text = path.partition("?")
    pairs = tuple(tuple(part.split("=")) for part in query_text.split("&") if part)
    request = Request(name, 80 if is_plain else 443, method, bare, pairs, tuple(headers.items()))  # type: ignore[arg-type] # pairs are pairs

    status = 0
    try:
        with running.open("http4" if is_plain else "tls4") as sock:
            if is_plain:
                status = ask(running.client(sock, name), path, method=method, headers=headers)[0]
            else:
                with context.wrap_socket(sock, server_hostname=name) as tls:
                    client = running.client(tls, name)
                    status = ask(client, path, method=method, headers=headers)[0]
    except ConnectionResetError:
        pass
    with running.open("dnstcp4") as sock:
        sock.sendall(len(query(name)).to_bytes(2, "big") + query(name))
        is_known = code_of(sock.recv(600)[2:]) == 0

    assert status == expected(policy, request, is_plain=is_plain)
    assert is_known == decide(policy, Request(name)).is_allowed
