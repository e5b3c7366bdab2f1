from __future__ import annotations

import pytest
from vercel.sandbox._internal.models import _serialize_network_policy
from vercel.sandbox.sync import NetworkPolicyInjectionRuleSummary, NetworkPolicyReadback

from opencode_magic.core.policy_wire import parse_policy
from opencode_magic.sandbox.policy import check_readback, to_sdk_policy

POLICIES: list[dict[str, object]] = [
    {"mode": "deny-all"},
    {"mode": "allow-all"},
    {"allow": {"api.example.com": []}},
    {"allow": {"*.example.com": [], "example.org": []}, "subnets": {"deny": ["10.0.0.0/8"]}},
    {"allow": {"a.example": [{"transform": [{"headers": {"authorization": "Bearer x"}}]}]}},
    {"allow": {"m.internal": [{"forwardURL": "http://127.0.0.1:1"}]}},
    {
        "allow": {
            "a.example": [
                {
                    "match": {
                        "path": {"startsWith": "/v1"},
                        "method": ["GET", "POST"],
                        "queryString": [{"key": {"exact": "q"}, "value": {"regex": "^a+$"}}],
                        "headers": [{"key": {"exact": "x-a"}}],
                    },
                    "transform": [{"headers": {"x-key": "v"}}],
                },
                {"response": {"statusCode": 403, "body": "no", "contentType": "text/plain"}},
            ]
        },
        "subnets": {"allow": ["192.0.2.0/24"]},
    },
]


@pytest.mark.parametrize("wire", POLICIES, ids=range(len(POLICIES)))
def test_sdk_sends_the_policy_that_was_meant(wire: dict[str, object]) -> None:
    """What the SDK puts on the wire parses to the very policy that it was made from."""
    policy = parse_policy(wire)

    assert parse_policy(_serialize_network_policy(to_sdk_policy(policy))) == policy


POLICY = parse_policy(
    {"allow": {"a.example": [{"transform": [{"headers": {"authorization": "Bearer x"}}]}]}}
)
INJECTS = (NetworkPolicyInjectionRuleSummary("a.example", ("Authorization",)),)


@pytest.mark.parametrize(
    ("readback", "said"),
    [
        (NetworkPolicyReadback("custom", ("a.example",), injection_rules=INJECTS), ""),
        (None, "it shows no network policy"),
        (NetworkPolicyReadback("allow-all"), "it is in mode 'allow-all'"),
        (
            NetworkPolicyReadback("custom", ("a.example", "b.example"), injection_rules=INJECTS),
            "it also allows 'b.example'",
        ),
        (NetworkPolicyReadback("custom"), "it does not allow 'a.example'"),
        (NetworkPolicyReadback("custom", ("a.example",)), "it does not inject the key"),
    ],
)
def test_policy_that_is_not_in_force_is_noticed(
    readback: NetworkPolicyReadback | None, said: str
) -> None:
    """What the home reads back must be what was asked for, as far as it can be seen."""
    assert check_readback(POLICY, readback) == said
