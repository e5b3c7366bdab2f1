"""A network policy with Vercel's semantics, and the decision on one request.

Source of the wire form and its meaning: Vercel Sandbox's firewall documentation, and the models of
``vercel-sandbox`` 0.10. The firewall of the local home enforces exactly this module.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import idna
import re2

from opencode_magic.errors import PolicyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Mode = Literal["allow-all", "deny-all", "custom"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MatchKind = Literal["exact", "startsWith", "regex"]

REASON_NOT_LISTED = "not in the network policy"
REASON_DENY_ALL = "the network policy denies everything"
REASON_ADDRESS = "an address, not a name"
REASON_NAME = "not a valid host name"
REASON_SUBNET_DENIED = "its address is in a denied subnet"


@dataclass(frozen=True, slots=True)
class Matcher:
    """How one string of a request is compared."""

    kind: MatchKind
    value: str

    def matches(self, text: str) -> bool:
        """Whether the text fits. A regular expression (RE2) may fit anywhere in it."""
        if self.kind == "exact":
            return text == self.value
        if self.kind == "startsWith":
            return text.startswith(self.value)
        return re2.search(self.value, text) is not None


@dataclass(frozen=True, slots=True)
class PairMatcher:
    """Compares a query parameter or a header by name and value; a missing one fits anything."""

    key: Matcher | None = None
    value: Matcher | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """All parts must fit; an empty one fits every request."""

    path: Matcher | None = None
    methods: tuple[str, ...] = ()
    query: tuple[PairMatcher, ...] = ()
    headers: tuple[PairMatcher, ...] = ()


@dataclass(frozen=True, slots=True)
class FixedResponse:
    """An answer that the firewall gives itself."""

    status_code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to a request of an allowed host. Exactly one of the three actions is set."""

    match: Match = Match()
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    """Injected headers (Vercel: ``transform``); they overwrite the request's own."""
    forward_url: str = ""
    response: FixedResponse | None = None


@dataclass(frozen=True, slots=True)
class HostRules:
    """One allowed host, or ``*.`` and a parent of allowed hosts, with its rules in order."""

    pattern: str
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """What is known of a request when it is decided. ``path`` and after only once terminated."""

    host: str
    port: int = 443
    method: str = ""
    path: str = ""
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """What the firewall must do with a request."""

    is_allowed: bool
    reason: str
    must_terminate: bool = False
    """The host has rules: TLS ends at the firewall and each request is decided for itself."""
    rule: Rule | None = None
    """The first rule that fits this request; None passes it unchanged."""


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """What may leave a sandbox. Its repr never holds an injected value."""

    mode: Mode = "deny-all"
    hosts: tuple[HostRules, ...] = ()
    subnets_allow: tuple[Network, ...] = ()
    subnets_deny: tuple[Network, ...] = ()

    def find(self, name: str) -> HostRules | None:
        """Give the entry for a canonical name: an exact one first, then the longest wildcard."""
        best: HostRules | None = None
        for entry in self.hosts:
            if entry.pattern == name:
                return entry
            is_wild = entry.pattern.startswith("*.") and name.endswith(entry.pattern[1:])
            if is_wild and (best is None or len(entry.pattern) > len(best.pattern)):
                best = entry
        return best

    def to_readback(self) -> dict[str, object]:
        """Give Vercel's redacted read-back form: header names, never values."""
        if self.mode != "custom":
            return {"mode": self.mode}
        readback: dict[str, object] = {
            "mode": "custom",
            "allowedDomains": [entry.pattern for entry in self.hosts],
        }
        if self.subnets_allow:
            readback["allowedCIDRs"] = [str(net) for net in self.subnets_allow]
        if self.subnets_deny:
            readback["deniedCIDRs"] = [str(net) for net in self.subnets_deny]
        pairs = [(entry.pattern, rule) for entry in self.hosts for rule in entry.rules]
        injection = [
            {
                "domain": pattern,
                "headerNames": sorted(rule.headers),
                **({"matchDimensions": dims} if (dims := _dimensions(rule.match)) else {}),
            }
            for pattern, rule in pairs
            if rule.headers is not None
        ]
        forward = [
            {"domain": pattern, "forwardURL": rule.forward_url}
            for pattern, rule in pairs
            if rule.forward_url
        ]
        response = [
            {"domain": pattern, "statusCode": rule.response.status_code}
            for pattern, rule in pairs
            if rule.response is not None
        ]
        for key, items in (
            ("injectionRules", injection),
            ("forwardRules", forward),
            ("responseRules", response),
        ):
            if items:
                readback[key] = items
        return readback


def canonical_host(name: str) -> str | None:
    """Give a host name in its one form: lower case, IDNA, no trailing dot.

    Returns:
        None for what is no host name: empty, an IP literal in any spelling (``127.1``,
        ``2130706433``, ``0x7f.1``, ``[::1]``), a bad label, or longer than 253 characters.
    """
    stripped = name.removesuffix(".")
    if not stripped or len(stripped) > _NAME_LIMIT_CHARS:
        return None
    if not stripped.isascii():
        try:
            stripped = idna.encode(stripped, uts46=True, std3_rules=True).decode("ascii")
        except idna.IDNAError:
            return None
    lowered = stripped.lower()
    labels = lowered.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        return None
    if _NUMBER.fullmatch(labels[-1]):
        return None
    return lowered if len(lowered) <= _NAME_LIMIT_CHARS else None


def decide(policy: NetworkPolicy, request: Request) -> Decision:
    """Decide one request by name. Never raises; what is not allowed is blocked.

    Called once for the connection (no method yet) and again for every request of a terminated
    one. The address a name leads to is decided by :func:`decide_address`.
    """
    if policy.mode == "deny-all":
        return Decision(is_allowed=False, reason=REASON_DENY_ALL)
    name = canonical_host(request.host)
    if name is None:
        reason = REASON_ADDRESS if _is_address(request.host) else REASON_NAME
        return Decision(is_allowed=False, reason=reason)
    if policy.mode == "allow-all":
        return Decision(is_allowed=True, reason="the network policy allows everything")
    entry = policy.find(name)
    if entry is None:
        return Decision(is_allowed=False, reason=REASON_NOT_LISTED)
    if not entry.rules:
        return Decision(is_allowed=True, reason="allowed host")
    rule = next((rule for rule in entry.rules if _fits(rule.match, request)), None)
    return Decision(is_allowed=True, reason="allowed host", must_terminate=True, rule=rule)


def decide_address(policy: NetworkPolicy, address: str) -> Decision:
    """Decide a bare address: a denied subnet wins over an allowed one."""
    if policy.mode == "deny-all":
        return Decision(is_allowed=False, reason=REASON_DENY_ALL)
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return Decision(is_allowed=False, reason=REASON_ADDRESS)
    if any(parsed in net for net in policy.subnets_deny):
        return Decision(is_allowed=False, reason=REASON_SUBNET_DENIED)
    if policy.mode == "allow-all" or any(parsed in net for net in policy.subnets_allow):
        return Decision(is_allowed=True, reason="allowed subnet")
    return Decision(is_allowed=False, reason=REASON_ADDRESS)


def parse_policy(value: object) -> NetworkPolicy:
    """Parse Vercel's wire form: a mode, or ``allow`` (a list, or hosts to rules) and ``subnets``.

    Raises:
        PolicyError: Anything in it is unknown or malformed; the message names the place and never
            repeats a header's value.
    """
    body = _mapping(value, "the network policy")
    mode = body.get("mode")
    if mode in {"allow-all", "deny-all"}:
        _only(body, {"mode"}, "a network policy with a mode")
        return NetworkPolicy(mode="allow-all" if mode == "allow-all" else "deny-all")
    if mode not in {None, "custom"}:
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


_NAME_LIMIT_CHARS = 253
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def _is_address(text: str) -> bool:
    bare = text.strip("[]").split("%")[0]
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        labels = bare.lower().removesuffix(".").split(".")
        return bool(labels[-1]) and _NUMBER.fullmatch(labels[-1]) is not None
    return True


def _fits(match: Match, request: Request) -> bool:
    if match.path is not None and not match.path.matches(request.path):
        return False
    if match.methods and request.method.upper() not in match.methods:
        return False
    lowered = tuple((key.lower(), value) for key, value in request.headers)
    return all(_fits_any(wanted, request.query) for wanted in match.query) and all(
        _fits_any(wanted, lowered) for wanted in match.headers
    )


def _fits_any(wanted: PairMatcher, pairs: Iterable[tuple[str, str]]) -> bool:
    return any(
        (wanted.key is None or wanted.key.matches(key))
        and (wanted.value is None or wanted.value.matches(value))
        for key, value in pairs
    )


def _dimensions(match: Match) -> list[str]:
    found = {
        "path": match.path is not None,
        "method": bool(match.methods),
        "queryString": bool(match.query),
        "headers": bool(match.headers),
    }
    return [name for name, is_used in found.items() if is_used]


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


_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _header_name(name: str, where: str) -> str:
    if not _TOKEN.fullmatch(name):
        msg = f"{where}: {name!r} is not a header name"
        raise PolicyError(msg)
    return name.lower()


def _header_value(value: object, where: str) -> str:
    if not isinstance(value, str) or any(char in value for char in "\r\n\0"):
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
