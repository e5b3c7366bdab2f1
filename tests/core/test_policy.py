from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_magic.core.policy import (
    REASON_ADDRESS,
    REASON_DENY_ALL,
    REASON_NAME,
    REASON_NOT_LISTED,
    REASON_SUBNET_DENIED,
    Decision,
    NetworkPolicy,
    Request,
    canonical_host,
    decide,
    decide_address,
    plain_path,
)
from opencode_magic.core.policy_wire import parse_policy, policy_to_wire
from tests.core.policies import (
    RULES,
    host,
    label,
    policies,
    subnet,
)


@given(st.text(max_size=60) | host)
def test_empty_policy_allows_nothing(name: str) -> None:
    """A policy that names no host lets no name and no address out."""
    for policy in (NetworkPolicy(), parse_policy({}), parse_policy({"allow": {}})):
        assert not decide(policy, Request(name)).is_allowed
        assert not decide_address(policy, name).is_allowed


@given(
    st.one_of(
        label.map("{}.example.com".format),
        label.map("example.com.{}".format),
        label.map("{}example.com".format),
        label.map("example.com{}".format),
        st.integers(1, 10).map(lambda cut: "example.com"[cut:]),
        st.integers(1, 10).map(lambda cut: "example.com"[:-cut]),
        st.sampled_from(
            [
                "\u0435\u0445ample.com",
                "example.com@evil.test",
                "example.com#.evil.test",
                "example.com/evil.test",
                "example.com:443",
                "example.com\0.evil.test",
                "example.com\n",
                " example.com",
                "example.com..",
                ".example.com",
                "exa mple.com",
                "xn--example.com",
                "xn--example-.com",
                "*.example.com",
                "example\\.com",
            ]
        ),
    )
)
def test_a_host_allows_no_variant_of_itself(name: str) -> None:
    """``example.com`` allows no longer, shorter, embedded or look-alike name."""
    policy = parse_policy({"allow": {"example.com": []}})

    assert not decide(policy, Request(name)).is_allowed


@pytest.mark.parametrize(
    "name", ["example.com", "EXAMPLE.com", "example.com.", "example\u3002com", "\uff45xample.com"]
)
def test_one_host_has_many_spellings(name: str) -> None:
    """Case, one trailing dot and compatible characters spell the same host."""
    policy = parse_policy({"allow": {"example.com": []}})

    assert decide(policy, Request(name)) == Decision(is_allowed=True, reason="allowed host")


@given(policies(), host, subnet)
def test_a_deny_never_allows_more(policy: NetworkPolicy, name: str, denied: str) -> None:
    """With one more denied subnet, what was blocked stays blocked."""
    wire = policy_to_wire(policy)
    subnets = wire.get("subnets", {})
    assert isinstance(subnets, dict)
    if policy.mode == "deny-all":
        wire = {"allow": {}}
    stricter = parse_policy(
        {**wire, "subnets": {**subnets, "deny": [*subnets.get("deny", []), denied]}}
    )

    for address in ("10.1.2.3", "198.51.100.7", "2001:db8::1", "203.0.113.1"):
        if decide_address(stricter, address).is_allowed:
            assert decide_address(policy, address).is_allowed
    assert decide(stricter, Request(name)).is_allowed == decide(policy, Request(name)).is_allowed


@given(policies(), st.randoms(), host, st.sampled_from(["/v3/a", "/", "ab9"]))
def test_the_order_of_keys_does_not_matter(
    policy: NetworkPolicy, random: object, name: str, path: str
) -> None:
    """Whatever the order of the hosts, every request is decided alike."""
    names = [name, *(entry.pattern.replace("*", "sub") for entry in policy.hosts)]
    turned = NetworkPolicy(
        policy.mode, tuple(reversed(policy.hosts)), policy.subnets_allow, policy.subnets_deny
    )

    for asked in names:
        request = Request(asked, method="GET", path=path)
        assert decide(turned, request) == decide(policy, request)


@given(st.text(max_size=80))
def test_any_text_is_a_host_or_none(text: str) -> None:
    """A canonical name is its own canonical name, ASCII and lower case."""
    name = canonical_host(text)

    assert name is None or (
        canonical_host(name) == name and name.isascii() and name == name.lower()
    )


@pytest.mark.parametrize(
    "name",
    [
        "127.1",
        "2130706433",
        "0x7f.1",
        "0x7f000001",
        "[::1]",
        "::1",
        "127.0.0.1.",
        "\uff11\uff12\uff17.1",
        "1.2.3.0x",
    ],
)
def test_an_address_is_no_name(name: str) -> None:
    """An IP literal passes in no spelling, not even where everything is allowed."""
    assert canonical_host(name) is None
    decision = decide(NetworkPolicy("allow-all"), Request(name))
    assert not decision.is_allowed
    assert decision.reason in {REASON_ADDRESS, REASON_NAME}


def test_wildcards_cover_any_depth_but_not_the_parent() -> None:
    """``*.example.com`` allows names below it and not itself."""
    policy = parse_policy({"allow": ["*.example.com"]})
    names = ["a.example.com", "a.b.example.com", "example.com", "aexample.com"]

    assert [decide(policy, Request(name)).is_allowed for name in names] == [
        True,
        True,
        False,
        False,
    ]


def test_the_most_specific_entry_decides() -> None:
    """An exact entry wins over wildcards, and a longer wildcard over a shorter one."""
    policy = parse_policy(
        {"allow": {"*.example.com": [], "*.b.example.com": [], "a.b.example.com": []}}
    )
    found = [policy.find(name) for name in ("a.b.example.com", "c.b.example.com", "c.example.com")]

    assert [entry.pattern if entry else "" for entry in found] == [
        "a.b.example.com",
        "*.b.example.com",
        "*.example.com",
    ]


@pytest.mark.parametrize(
    ("request_", "index"),
    [
        (
            Request(
                "api.example.com", 443, "POST", "/v3/x", (("mode", "a"),), (("x-kind", "one"),)
            ),
            0,
        ),
        (
            Request(
                "api.example.com", 443, "POST", "/v3/x", (("mode", "c"),), (("x-kind", "one"),)
            ),
            None,
        ),
        (Request("api.example.com", 443, "POST", "/v3/x", (("mode", "a"),)), None),
        (
            Request(
                "api.example.com", 443, "POST", "/v2/x", (("mode", "a"),), (("X-Kind", "one"),)
            ),
            None,
        ),
        (Request("api.example.com", 443, "GET", "/health"), 1),
        (Request("api.example.com", 443, "DELETE", "/health"), 1),
        (Request("api.example.com", 443, "DELETE", "/other"), 2),
        (Request("api.example.com", 443, "GET", "/other"), None),
    ],
)
def test_the_first_rule_that_fits_decides(request_: Request, index: int | None) -> None:
    """Every part of a matcher must fit; a request that fits no rule passes unchanged."""
    expected = None if index is None else RULES.hosts[0].rules[index]

    assert decide(RULES, request_) == Decision(
        is_allowed=True, reason="allowed host", must_terminate=True, rule=expected
    )


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("/%61d%6Din", "/admin"),
        ("//admin///x/", "/admin/x/"),
        ("/%2d%2E%5f%7e%30%5A", "/-._~0Z"),
        ("/caf%c3%a9%20%2f", "/caf%C3%A9%20%2F"),
        ("/%2561", "/%2561"),
        ("/%zz%", "/%zz%"),
        ("*", "*"),
    ],
)
def test_a_path_has_one_plain_form(path: str, plain: str) -> None:
    """What needs no encoding loses it once, slashes are merged, and the rest stays."""
    assert plain_path(path) == plain


@given(
    st.lists(
        st.sampled_from(["/", "//", "a", "%61", "%2f", "%2F", "%C3", "%c3", "%25", "61"]),
        max_size=8,
    ).map("".join)
)
def test_rules_see_a_path_in_its_plain_form(path: str) -> None:
    """A path and its plain form meet the same rule, also where the rule spells it otherwise."""
    rules = [{"match": {"path": f"/{path}"}, "response": {"statusCode": 204}}]
    policy = parse_policy({"allow": {"example.com": rules}})
    spelled, plain = (
        decide(policy, Request("example.com", method="GET", path=form))
        for form in (f"/{path}", plain_path(f"/{path}"))
    )

    assert spelled.rule == policy.hosts[0].rules[0]
    assert plain == spelled


def test_deny_all_has_its_own_reason() -> None:
    """Under deny-all names and addresses are blocked for that reason."""
    policy = parse_policy({"mode": "deny-all"})

    assert decide(policy, Request("example.com")).reason == REASON_DENY_ALL
    assert decide_address(policy, "203.0.113.1").reason == REASON_DENY_ALL


def test_reasons_tell_a_name_from_an_address() -> None:
    """An unlisted name, a malformed one and an address are told apart."""
    policy = parse_policy({"allow": ["example.com"]})
    reasons = [
        decide(policy, Request(name)).reason for name in ("example.org", "-x.example", "::1")
    ]

    assert reasons == [REASON_NOT_LISTED, REASON_NAME, REASON_ADDRESS]


def test_a_denied_subnet_wins() -> None:
    """An address in an allowed and a denied subnet is blocked."""
    policy = parse_policy({"subnets": {"allow": ["203.0.0.0/8"], "deny": ["203.0.113.0/24"]}})

    assert decide_address(policy, "203.0.114.1").is_allowed
    assert decide_address(policy, "203.0.113.1").reason == REASON_SUBNET_DENIED
    assert decide_address(policy, "192.0.2.1").reason == REASON_ADDRESS
    assert decide_address(policy, "no address").reason == REASON_ADDRESS
    assert decide_address(parse_policy({"mode": "allow-all"}), "192.0.2.1").is_allowed
