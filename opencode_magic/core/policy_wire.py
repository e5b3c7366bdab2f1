"""The wire form of a network policy -> NetworkPolicy, and back.

Source of the form: the models of ``vercel-sandbox`` 0.10.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

import re2

from opencode_magic.core.policy import (
    FixedResponse,
    HostRules,
    Match,
    Matcher,
    MatchKind,
    Network,
    NetworkPolicy,
    PairMatcher,
    Rule,
    canonical_host,
)
from opencode_magic.errors import PolicyError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def parse_policy(value: object) -> NetworkPolicy:
    """Parse Vercel's wire form: a mode, or ``allow`` (a list, or hosts to rules) and ``subnets``.

    Raises:
        PolicyError: Anything in it is unknown or malformed; the message names the place and never
            repeats a header's value.
    """
    body = _mapping(value, "the network policy")
    mode = body.get("mode")
    if mode in ("allow-all", "deny-all"):  # a list: what came may be unhashable
        _only(body, {"mode"}, "a network policy with a mode")
        return NetworkPolicy(mode="allow-all" if mode == "allow-all" else "deny-all")
    if mode not in (None, "custom"):
        msg = f"unknown network policy mode {mode!r}"
        raise PolicyError(msg, next_step="use 'allow-all', 'deny-all', or allowed hosts")
    _only(body, {"mode", "allow", "subnets"}, "the network policy")
    hosts = _parse_hosts(body.get("allow", {}))
    subnets = _mapping(body.get("subnets", {}), "subnets")
    _only(subnets, {"allow", "deny"}, "subnets")
    allow = _parse_networks(subnets.get("allow", []), "subnets.allow")
    deny = _parse_networks(subnets.get("deny", []), "subnets.deny")
    if not hosts and not allow:
        return NetworkPolicy(mode="deny-all", subnets_deny=deny)
    return NetworkPolicy(mode="custom", hosts=hosts, subnets_allow=allow, subnets_deny=deny)


def parse_pattern(text: str) -> str:
    """Give an allowed-host pattern in canonical form.

    Raises:
        PolicyError: Not a host name, nor ``*.`` and a host name of two labels or more.
    """
    is_wild = text.startswith("*.")
    name = canonical_host(text[2:] if is_wild else text)
    if name is None or (is_wild and "." not in name):
        msg = f"{text!r} is not a host name"
        raise PolicyError(
            msg, next_step="write a name such as 'api.example.com' or '*.example.com'"
        )
    return f"*.{name}" if is_wild else name


def policy_to_wire(policy: NetworkPolicy) -> dict[str, object]:
    """Give the wire form that :func:`parse_policy` reads back to an equal policy.

    It holds the injected values: it belongs into private state only, never on screen.
    """
    if policy.mode == "allow-all" or not (policy.hosts or policy.subnets_allow):
        subnets = _subnets_to_wire(policy)
        if policy.mode == "deny-all" and subnets:
            return {"allow": {}, "subnets": subnets}
        return {"mode": policy.mode}
    body: dict[str, object] = {
        "allow": {
            entry.pattern: [_rule_to_wire(rule) for rule in entry.rules] for entry in policy.hosts
        }
    }
    subnets = _subnets_to_wire(policy)
    return {**body, "subnets": subnets} if subnets else body


def _parse_hosts(value: object) -> tuple[HostRules, ...]:
    if isinstance(value, list):
        value = {_text(item, "allow"): [] for item in value}
    entries: dict[str, HostRules] = {}
    for host, rules in _mapping(value, "allow").items():
        pattern = parse_pattern(host)
        if pattern in entries:
            msg = f"{pattern!r} stands twice in the network policy"
            raise PolicyError(msg)
        where = f"allow[{pattern!r}]"
        entries[pattern] = HostRules(
            pattern, tuple(_parse_rule(rule, where) for rule in _sequence(rules, where))
        )
    return tuple(entries[pattern] for pattern in entries)


def _parse_rule(value: object, where: str) -> Rule:
    body = _mapping(value, where)
    _only(body, {"match", "transform", "forwardURL", "response"}, where)
    actions = [key for key in ("transform", "forwardURL", "response") if key in body]
    if len(actions) != 1:
        msg = f"a rule of {where} needs exactly one of transform, forwardURL, response"
        raise PolicyError(msg)
    match = _parse_match(body.get("match", {}), f"{where}.match")
    if "forwardURL" in body:
        return Rule(match=match, forward_url=_text(body["forwardURL"], f"{where}.forwardURL"))
    if "response" in body:
        return Rule(match=match, response=_parse_response(body["response"], f"{where}.response"))
    headers: dict[str, str] = {}
    for item in _sequence(body["transform"], f"{where}.transform"):
        transform = _mapping(item, f"{where}.transform")
        _only(transform, {"headers"}, f"{where}.transform")
        for name, header in _mapping(transform.get("headers", {}), f"{where}.headers").items():
            headers[_header_name(name, where)] = _header_value(header, where)
    return Rule(match=match, headers=headers)


def _parse_match(value: object, where: str) -> Match:
    body = _mapping(value, where)
    _only(body, {"path", "method", "queryString", "headers"}, where)
    return Match(
        path=_parse_matcher(body["path"], f"{where}.path") if "path" in body else None,
        methods=tuple(
            _text(item, f"{where}.method").upper()
            for item in _sequence(body.get("method", []), f"{where}.method")
        ),
        query=_parse_pairs(body.get("queryString", []), f"{where}.queryString", lower_key=False),
        headers=_parse_pairs(body.get("headers", []), f"{where}.headers", lower_key=True),
    )


def _parse_pairs(value: object, where: str, *, lower_key: bool) -> tuple[PairMatcher, ...]:
    pairs = []
    for item in _sequence(value, where):
        body = _mapping(item, where)
        _only(body, {"key", "value"}, where)
        key = _parse_matcher(body["key"], where) if body.get("key") is not None else None
        if key is not None and lower_key and key.kind != "regex":
            key = Matcher(key.kind, key.value.lower())
        text = _parse_matcher(body["value"], where) if body.get("value") is not None else None
        pairs.append(PairMatcher(key, text))
    return tuple(pairs)


def _parse_matcher(value: object, where: str) -> Matcher:
    if isinstance(value, str):
        return Matcher("exact", value)
    body = _mapping(value, where)
    kinds: tuple[MatchKind, ...] = ("exact", "startsWith", "regex")
    used = [kind for kind in kinds if kind in body]
    if len(used) != 1 or len(body) != 1:
        msg = f"{where} needs exactly one of exact, startsWith, regex"
        raise PolicyError(msg)
    text = _text(body[used[0]], where)
    if used[0] == "regex":
        options = re2.Options()
        options.log_errors = False
        try:
            re2.compile(text, options)
        except re2.error as exc:
            msg = f"{where} is not a regular expression that RE2 knows"
            raise PolicyError(msg) from exc
    return Matcher(used[0], text)


def _parse_response(value: object, where: str) -> FixedResponse:
    body = _mapping(value, where)
    _only(body, {"statusCode", "headers", "body", "contentType"}, where)
    status = body.get("statusCode")
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:  # noqa: PLR2004 - HTTP's own range
        msg = f"{where}.statusCode must be a number from 200 to 599"
        raise PolicyError(msg)
    headers = {
        _header_name(name, where): _header_value(header, where)
        for name, header in _mapping(body.get("headers") or {}, where).items()
    }
    return FixedResponse(
        status_code=status,
        headers=headers,
        body=_text(body.get("body") or "", where),
        content_type=_text(body.get("contentType") or "", where),
    )


def _parse_networks(value: object, where: str) -> tuple[Network, ...]:
    networks = []
    for item in _sequence(value, where):
        text = _text(item, where)
        try:
            networks.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            msg = f"{where}: {text!r} is not a subnet"
            raise PolicyError(msg, next_step="write it as '10.0.0.0/8'") from None
    return tuple(networks)


_NO_TEXT = {*range(32), 127} - {9}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _header_name(name: str, where: str) -> str:
    if not _TOKEN.fullmatch(name):
        msg = f"{where}: {name!r} is not a header name"
        raise PolicyError(msg)
    return name.lower()


def _header_value(value: object, where: str) -> str:
    if not isinstance(value, str) or any(ord(char) in _NO_TEXT for char in value):
        msg = f"{where}: a header's value must be one line of text"
        raise PolicyError(msg)
    return value


def _mapping(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        msg = f"{where} must be an object"
        raise PolicyError(msg)
    return value


def _sequence(value: object, where: str) -> Sequence[object]:
    if not isinstance(value, list):
        msg = f"{where} must be a list"
        raise PolicyError(msg)
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        msg = f"{where} must be text"
        raise PolicyError(msg)
    return value


def _only(body: Mapping[str, object], known: set[str], where: str) -> None:
    unknown = sorted(body.keys() - known)
    if unknown:
        msg = f"{where} has the unknown field {unknown[0]!r}"
        raise PolicyError(msg)


def _subnets_to_wire(policy: NetworkPolicy) -> dict[str, object]:
    lists = {"allow": policy.subnets_allow, "deny": policy.subnets_deny}
    return {key: [str(net) for net in nets] for key, nets in lists.items() if nets}


def _rule_to_wire(rule: Rule) -> dict[str, object]:
    body: dict[str, object] = {}
    match = _match_to_wire(rule.match)
    if match:
        body["match"] = match
    if rule.response is not None:
        body["response"] = {
            "statusCode": rule.response.status_code,
            "headers": dict(rule.response.headers),
            "body": rule.response.body,
            "contentType": rule.response.content_type,
        }
    elif rule.forward_url:
        body["forwardURL"] = rule.forward_url
    else:
        body["transform"] = [{"headers": dict(rule.headers or {})}]
    return body


def _match_to_wire(match: Match) -> dict[str, object]:
    body: dict[str, object] = {}
    if match.path is not None:
        body["path"] = _matcher_to_wire(match.path)
    if match.methods:
        body["method"] = list(match.methods)
    for key, pairs in (("queryString", match.query), ("headers", match.headers)):
        if pairs:
            body[key] = [_pair_to_wire(pair) for pair in pairs]
    return body


def _pair_to_wire(pair: PairMatcher) -> dict[str, object]:
    parts = {"key": pair.key, "value": pair.value}
    return {key: _matcher_to_wire(part) for key, part in parts.items() if part is not None}


def _matcher_to_wire(matcher: Matcher) -> dict[str, object]:
    return {matcher.kind: matcher.value}
