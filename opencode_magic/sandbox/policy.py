"""Our network policy -> the SDK's, made just before a call and kept nowhere.

The SDK's policy shows injected values in its repr, so no name outside a call may hold one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vercel.sandbox import sync as sdk

    from opencode_magic.core.policy import Match, Matcher, NetworkPolicy, PairMatcher, Rule


def to_sdk_policy(policy: NetworkPolicy) -> sdk.NetworkPolicy:
    """Give the same policy in the SDK's types."""
    from vercel.sandbox.sync import (  # noqa: PLC0415 - the SDK takes 0.25 s
        NetworkPolicy as SdkPolicy,
    )
    from vercel.sandbox.sync import NetworkPolicySubnets  # noqa: PLC0415 - as above

    if policy.mode == "allow-all":
        return SdkPolicy.allow_all()
    if policy.mode == "deny-all":
        return SdkPolicy.deny_all()
    subnets = None
    if policy.subnets_allow or policy.subnets_deny:
        subnets = NetworkPolicySubnets(
            allow=[str(net) for net in policy.subnets_allow] or None,
            deny=[str(net) for net in policy.subnets_deny] or None,
        )
    allow = {entry.pattern: [_rule(rule) for rule in entry.rules] for entry in policy.hosts}
    return SdkPolicy.custom(allow=allow, subnets=subnets)


def check_readback(policy: NetworkPolicy, readback: sdk.NetworkPolicyReadback | None) -> str:
    """Compare a policy with what the home says is in force; empty where they agree.

    The home shows no injected value: mode, hosts and header names are what can be compared.
    """
    if readback is None:
        return "it shows no network policy"
    if readback.mode != policy.mode:
        return f"it is in mode {readback.mode!r}"
    hosts = {entry.pattern for entry in policy.hosts}
    more = sorted(set(readback.allowed_domains) - hosts)
    if more:
        return f"it also allows {more[0]!r}"
    lacking = sorted(hosts - set(readback.allowed_domains))
    if lacking:
        return f"it does not allow {lacking[0]!r}"
    wanted = {
        (entry.pattern, name)
        for entry in policy.hosts
        for rule in entry.rules
        for name in rule.headers or ()
    }
    injected = {
        (rule.domain, name.lower())
        for rule in readback.injection_rules
        for name in rule.header_names
    }
    if wanted - injected:
        return "it does not inject the key"
    return ""


def _rule(rule: Rule) -> sdk.NetworkPolicyRule:
    from vercel.sandbox.sync import (  # noqa: PLC0415 - the SDK takes 0.25 s
        NetworkPolicyResponse,
        NetworkPolicyRule,
        NetworkPolicyTransform,
    )

    match = _match(rule.match)
    if rule.forward_url:
        return NetworkPolicyRule(match=match, forward_url=rule.forward_url)
    if rule.response is not None:
        response = NetworkPolicyResponse(
            status_code=rule.response.status_code,
            headers=dict(rule.response.headers) or None,
            body=rule.response.body or None,
            content_type=rule.response.content_type or None,
        )
        return NetworkPolicyRule(match=match, response=response)
    return NetworkPolicyRule(
        match=match, transform=[NetworkPolicyTransform(headers=dict(rule.headers or {}))]
    )


def _match(match: Match) -> sdk.NetworkPolicyRequestMatcher | None:
    from vercel.sandbox.sync import NetworkPolicyRequestMatcher  # noqa: PLC0415 - as above

    if not (match.path or match.methods or match.query or match.headers):
        return None
    return NetworkPolicyRequestMatcher(
        path=_matcher(match.path),
        method=match.methods or None,
        query=[_pair(pair) for pair in match.query] or None,
        headers=[_pair(pair) for pair in match.headers] or None,
    )


def _pair(pair: PairMatcher) -> sdk.NetworkPolicyKeyValueMatcher:
    from vercel.sandbox.sync import NetworkPolicyKeyValueMatcher  # noqa: PLC0415 - as above

    return NetworkPolicyKeyValueMatcher(key=_matcher(pair.key), value=_matcher(pair.value))


def _matcher(matcher: Matcher | None) -> sdk.NetworkPolicyMatcher | None:
    from vercel.sandbox.sync import NetworkPolicyMatcher  # noqa: PLC0415 - as above

    if matcher is None:
        return None
    kinds = {
        "exact": NetworkPolicyMatcher.exact,
        "startsWith": NetworkPolicyMatcher.starts_with,
        "regex": NetworkPolicyMatcher.regex,
    }
    return kinds[matcher.kind](matcher.value)
