"""Policies for tests: drawn ones, and one with every part of a rule."""

from __future__ import annotations

from hypothesis import strategies as st

from opencode_magic.core.policy import (
    FixedResponse,
    HostRules,
    Match,
    Matcher,
    NetworkPolicy,
    PairMatcher,
    Rule,
)
from opencode_magic.core.policy_wire import parse_policy

label = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
host = st.lists(label, min_size=2, max_size=4).map(".".join)
matcher = st.one_of(
    st.builds(Matcher, st.just("exact"), st.text("abc/", max_size=4)),
    st.builds(Matcher, st.just("startsWith"), st.text("abc/", max_size=4)),
    st.builds(Matcher, st.just("regex"), st.sampled_from(["^/v3/", "a+b", "[0-9]$"])),
)
pair = st.builds(PairMatcher, st.none() | matcher, st.none() | matcher)
match = st.builds(
    Match,
    path=st.none() | matcher,
    methods=st.lists(st.sampled_from(["GET", "POST"]), max_size=2).map(tuple),
    query=st.lists(pair, max_size=1).map(tuple),
    headers=st.lists(pair, max_size=1).map(tuple),
)
action = st.one_of(
    st.fixed_dictionaries({"headers": st.dictionaries(label, label, max_size=2)}),
    st.fixed_dictionaries({"forward_url": st.just("http://127.0.0.1:4000")}),
    st.fixed_dictionaries({"response": st.builds(FixedResponse, st.integers(200, 599))}),
)
rule = st.tuples(match, action).map(lambda both: Rule(match=both[0], **both[1]))
pattern = st.one_of(host, host.map("*.{}".format))
subnet = st.sampled_from(["10.0.0.0/8", "198.51.100.0/24", "2001:db8::/32", "0.0.0.0/0"])


@st.composite
def policies(draw: st.DrawFn) -> NetworkPolicy:
    """Give a policy as the wire would bring it."""
    hosts = draw(st.dictionaries(pattern, st.lists(rule, max_size=3), max_size=4))
    wire = {
        "subnets": {
            "allow": draw(st.lists(subnet, max_size=2)),
            "deny": draw(st.lists(subnet, max_size=2)),
        }
    }
    parsed = parse_policy(wire)
    entries = tuple(HostRules(name, tuple(rules)) for name, rules in hosts.items())
    if not entries and not parsed.subnets_allow:
        return parsed
    return NetworkPolicy("custom", entries, parsed.subnets_allow, parsed.subnets_deny)


RULES = parse_policy(
    {
        "allow": {
            "api.example.com": [
                {
                    "match": {
                        "path": {"startsWith": "/v3/"},
                        "method": ["post"],
                        "queryString": [{"key": "mode", "value": {"regex": "^[ab]$"}}],
                        "headers": [{"key": "X-Kind", "value": "one"}],
                    },
                    "transform": [{"headers": {"Authorization": "Bearer SECRET"}}],
                },
                {"match": {"path": "/health"}, "response": {"statusCode": 204}},
                {"match": {"method": ["DELETE"]}, "forwardURL": "https://gate.example.com"},
            ]
        }
    }
)
