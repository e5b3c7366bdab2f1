from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_magic.core.policy import (
    NetworkPolicy,
    Request,
    decide,
)
from opencode_magic.core.policy_wire import parse_pattern, parse_policy, policy_to_wire
from opencode_magic.errors import PolicyError
from tests.core.policies import (
    RULES,
    policies,
)


@given(policies())
def test_wire_form_comes_back_equal(policy: NetworkPolicy) -> None:
    """What is written to private state is read back as the same policy."""
    assert parse_policy(policy_to_wire(policy)) == policy


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["mode", "allow", "subnets", "match", "transform", "example.com", "deny"]
                ),
                inner,
                max_size=3,
            )
        ),
        max_leaves=8,
    )
)
def test_any_json_is_a_policy_or_a_policy_error(value: object) -> None:
    """An unparsable policy is an error of its own kind, never an open door or a crash."""
    try:
        parsed = parse_policy(value)
    except PolicyError:
        return
    assert parsed.mode != "allow-all" or value == {"mode": "allow-all"}


def test_no_repr_holds_an_injected_value() -> None:
    """Printing a policy, a rule or a decision never shows a key."""
    decision = decide(
        RULES,
        Request("api.example.com", 443, "POST", "/v3/x", (("mode", "a"),), (("x-kind", "one"),)),
    )

    assert "SECRET" not in repr(RULES) + repr(decision) + str(RULES.to_readback())


def test_read_back_is_redacted() -> None:
    """The read-back form names headers and never gives their values."""
    assert RULES.to_readback() == {
        "mode": "custom",
        "allowedDomains": ["api.example.com"],
        "injectionRules": [
            {
                "domain": "api.example.com",
                "headerNames": ["authorization"],
                "matchDimensions": ["path", "method", "queryString", "headers"],
            }
        ],
        "forwardRules": [{"domain": "api.example.com", "forwardURL": "https://gate.example.com"}],
        "responseRules": [{"domain": "api.example.com", "statusCode": 204}],
    }
    assert NetworkPolicy("allow-all").to_readback() == {"mode": "allow-all"}
    assert parse_policy(
        {"subnets": {"allow": ["192.0.2.0/24"], "deny": ["10.0.0.0/8"]}}
    ).to_readback() == {
        "mode": "custom",
        "allowedDomains": [],
        "allowedCIDRs": ["192.0.2.0/24"],
        "deniedCIDRs": ["10.0.0.0/8"],
    }


@pytest.mark.parametrize(
    "wire",
    [
        None,
        [],
        {"mode": "open"},
        {"mode": "allow-all", "allow": {}},
        {"alow": {}},
        {"allow": "example.com"},
        {"allow": {"exa mple.com": []}},
        {"allow": {"*.com": []}},
        {"allow": {"*": []}},
        {"allow": {"127.0.0.1": []}},
        {"allow": {"example.com": [], "EXAMPLE.com.": []}},
        {"allow": {"example.com": {}}},
        {"allow": {"example.com": [{}]}},
        {"allow": {"example.com": [{"forwardURL": "http://x", "response": {"statusCode": 200}}]}},
        {"allow": {"example.com": [{"forwardURL": 7}]}},
        {"allow": {"example.com": [{"transform": [{"headers": {"a b": "c"}}]}]}},
        {"allow": {"example.com": [{"transform": [{"headers": {"a": "c\r\nd: e"}}]}]}},
        {"allow": {"example.com": [{"transform": [{"headers": {"a": "c\x01"}}]}]}},
        {"allow": {"example.com": [{"transform": [{"header": {}}]}]}},
        {"allow": {"example.com": [{"response": {"statusCode": 99}}]}},
        {"allow": {"example.com": [{"response": {"statusCode": True}}]}},
        {"allow": {"example.com": [{"match": {"path": {"regex": "("}}, "forwardURL": "http://x"}]}},
        {
            "allow": {
                "example.com": [
                    {"match": {"path": {"regex": "a", "exact": "b"}}, "forwardURL": "http://x"}
                ]
            }
        },
        {"allow": {"example.com": [{"match": {"verb": ["GET"]}, "forwardURL": "http://x"}]}},
        {"subnets": {"deny": ["10.0.0.0/64"]}},
        {"subnets": {"block": []}},
    ],
)
def test_malformed_policies_are_refused(wire: object) -> None:
    """Everything unknown or malformed is an error."""
    with pytest.raises(PolicyError):
        parse_policy(wire)


def test_an_error_repeats_no_header_value() -> None:
    """A malformed injected value is reported by its place, not by what it is."""
    wire = {"allow": {"example.com": [{"transform": [{"headers": {"x-key": "SECRET\n"}}]}]}}

    with pytest.raises(PolicyError) as caught:
        parse_policy(wire)

    assert "SECRET" not in str(caught.value)


def test_a_pattern_is_made_canonical() -> None:
    """Patterns are kept in the one form that names are compared in."""
    assert parse_pattern("*.Bücher.Example.") == "*.xn--bcher-kva.example"
