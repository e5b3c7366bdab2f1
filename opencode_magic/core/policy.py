"""A network policy with Vercel's semantics, and the decision on one request.

Source of the wire form and its meaning: Vercel Sandbox's firewall documentation, and the models of
``vercel-sandbox`` 0.10. The firewall of the local home enforces exactly this module.
"""

from __future__ import annotations

import ipaddress
import re
import string
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import idna
import re2

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
    """Compared in the form of :func:`plain_path`."""
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
        rules = {
            "injectionRules": injection,
            "forwardRules": forward,
            "responseRules": response,
        }
        return readback | {key: items for key, items in rules.items() if items}


def canonical_host(name: str) -> str | None:
    """Give a host name in its one form: lower case, IDNA, no trailing dot.

    Returns:
        None for what is no host name: empty, an IP literal in any spelling (``127.1``,
        ``2130706433``, ``0x7f.1``, ``[::1]``), a bad label, or longer than 253 characters.
    """
    stripped = name.removesuffix(".")
    if not stripped or len(stripped) > _NAME_LIMIT_CHARS:
        return None
    return _canonical_host(stripped)


@lru_cache(maxsize=1024)
def _canonical_host(stripped: str) -> str | None:
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


def plain_path(path: str) -> str:
    """Give a path in one of its spellings: what needs no percent-encoding has none.

    Repeated slashes are one, and the digits of the encodings that stay are upper case.
    """
    if "%" in path:
        path = _ENCODED.sub(_plain_character, path)
    return _SLASHES.sub("/", path) if "//" in path else path


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


_NAME_LIMIT_CHARS = 253
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")
_SLASHES = re.compile(r"/{2,}")
_UNRESERVED = frozenset(string.ascii_letters + string.digits + "-._~")


def _is_address(text: str) -> bool:
    bare = text.strip("[]").split("%")[0]
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        labels = bare.lower().removesuffix(".").split(".")
        return bool(labels[-1]) and _NUMBER.fullmatch(labels[-1]) is not None
    return True


def _fits(match: Match, request: Request) -> bool:
    if match.path is not None and not _fits_path(match.path, plain_path(request.path)):
        return False
    if match.methods and request.method.upper() not in match.methods:
        return False
    lowered = tuple((key.lower(), value) for key, value in request.headers)
    return all(_fits_any(wanted, request.query) for wanted in match.query) and all(
        _fits_any(wanted, lowered) for wanted in match.headers
    )


def _fits_path(wanted: Matcher, path: str) -> bool:
    if wanted.kind == "regex":
        return wanted.matches(path)
    return Matcher(wanted.kind, plain_path(wanted.value)).matches(path)


def _plain_character(found: re.Match[str]) -> str:
    character = chr(int(found[0][1:], 16))
    return character if character in _UNRESERVED else found[0].upper()


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
