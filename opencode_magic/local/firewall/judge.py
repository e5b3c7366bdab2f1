"""The head of one HTTP request and the policy -> what the firewall does with the request."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from opencode_magic.core.policy import NetworkPolicy, Request, canonical_host, decide
from opencode_magic.local.firewall.head import parse_authority, plain_headers

if TYPE_CHECKING:
    import h11

    from opencode_magic.core.policy import Rule

REASON_OTHER_HOST = "the Host header names another host"
REASON_PLAIN_HTTP = "plain HTTP is not in the network policy; use https"
REASON_PLAIN_SECRET = "plain HTTP would show the injected header"  # noqa: S105 - no secret, a reason
REASON_DOTS = "the path has dot segments, and the network policy has rules for paths"
REASON_SPELLING = "servers read the path in two ways, and the network policy has rules for paths"
REASON_FORWARD_DOTS = "the path has dot segments, and the network policy forwards it"
REASON_FORWARD_SPELLING = "servers read the path in two ways, and the network policy forwards it"
REASON_FORWARD_ALL = "it asks about a whole server, and the network policy forwards it"
REASON_BAD_TARGET = "the request names no host and path"
REASON_TWO_LENGTHS = "the request has two lengths"
REASON_METHOD = "CONNECT is answered on the proxy port only"
REASON_TRACE = "the answer to TRACE would show the request's headers, injected ones too"

_ECHOING_METHODS = {"TRACE", "TRACK"}
_DOT_SEGMENT = re.compile(r"(?:^|[/\\])\.{1,2}(?:[/\\;?#\0]|$)")
_AMBIGUOUS = re.compile(
    r"[\\;]|%(?:2f|5c|3b|3f|23|[01][0-9a-f]|7f|25[0-9a-f]{2}|(?![0-9a-f]{2}))", re.IGNORECASE
)
"""Encoded slashes and marks, path parameters, control characters, what is encoded twice or badly:
servers differ in these."""
_SLASH_LIKE = frozenset("\u2044\u2215\u2216\u29f5\u29f8\u29f9\u00a5\u20a9")
"""What some code pages turn into a slash; what Unicode itself turns into one is found by that."""
_DECODING_LIMIT = 4
"""No server decodes a path so often; what changes even then is meant to deceive."""
_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of a connection before its first request."""

    scheme: Literal["https", "http"]
    host: str = ""
    """The name that TLS was set up for; empty for plain HTTP, where each request names its own."""

    @property
    def port(self) -> int:
        """The one port that this scheme is let out on."""
        return _PORTS[self.scheme]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What becomes of one request."""

    request: Request
    target: str = ""
    """Path and query for the upstream."""
    rule: Rule | None = None
    reason: str = ""
    status_code: int = 0
    """Set where the request is refused: what the program gets to see."""
    needs_allowed_subnet: bool = False
    """Plain HTTP that passes only where its address is in an allowed subnet."""

    @property
    def is_allowed(self) -> bool:
        """Whether the request goes on."""
        return not self.status_code


def judge(policy: NetworkPolicy, origin: Origin, event: h11.Request) -> Judgement:
    """Decide one request. Never raises."""
    method = event.method.decode("ascii")
    headers = tuple(
        (name.decode("ascii"), value.decode("latin-1")) for name, value in plain_headers(event)
    )
    nothing = Request(origin.host, origin.port, method)
    if method == "CONNECT":
        return Judgement(nothing, reason=REASON_METHOD, status_code=405)
    if {"content-length", "transfer-encoding"} <= {name for name, _ in headers}:
        # Two servers may disagree about where such a request ends.
        return Judgement(nothing, reason=REASON_TWO_LENGTHS, status_code=400)
    named = _split_target(origin, event.target.decode("latin-1"), dict(headers).get("host", ""))
    if named is None:
        return Judgement(nothing, reason=REASON_BAD_TARGET, status_code=400)
    name, target = named
    path, _, query = target.partition("?")
    host = canonical_host(name)
    request = Request(
        host=host or name,
        port=origin.port,
        method=method,
        path=path,
        query=tuple(parse_qsl(query, keep_blank_values=True, encoding="latin-1")) if query else (),
        headers=headers,
    )
    if origin.host and host != origin.host:
        return Judgement(request, reason=REASON_OTHER_HOST, status_code=421)
    return _decide(policy, origin, request, target)


def _decide(policy: NetworkPolicy, origin: Origin, request: Request, target: str) -> Judgement:
    decision = decide(policy, request)
    if not decision.is_allowed:
        return Judgement(request, reason=decision.reason, status_code=403)
    rule = decision.rule
    refusal = _refuse_shape(policy, request, rule)
    if refusal is not None:
        return refusal
    judgement = Judgement(request, target, rule, decision.reason)
    is_ours = rule is not None and (rule.forward_url or rule.response is not None)
    if origin.scheme == "https" or is_ours or policy.mode == "allow-all":
        return judgement
    if rule is not None:
        return Judgement(request, reason=REASON_PLAIN_SECRET, status_code=403)
    if not policy.subnets_allow:
        return Judgement(request, reason=REASON_PLAIN_HTTP, status_code=403)
    return Judgement(request, target, rule, decision.reason, needs_allowed_subnet=True)


def _refuse_shape(policy: NetworkPolicy, request: Request, rule: Rule | None) -> Judgement | None:
    """Refuse what means another thing upstream than it does to the rules."""
    if request.method.upper() in _ECHOING_METHODS:
        return Judgement(request, reason=REASON_TRACE, status_code=405)
    if _has_path_rules(policy, request.host):
        if _has_dots(request.path):
            return Judgement(request, reason=REASON_DOTS, status_code=400)
        is_ambiguous = _AMBIGUOUS.search(request.path) is not None or _has_disguise(request.path)
        # Some servers read `//x/admin` as a host and its path, as in a link. No rule's own answer
        # depends on it.
        is_ambiguous |= request.path.startswith("//") and (rule is None or rule.response is None)
        if is_ambiguous:
            return Judgement(request, reason=REASON_SPELLING, status_code=400)
    if rule is not None and rule.forward_url:
        reason = _why_not_forwarded(request.path)
        if reason:
            return Judgement(request, reason=reason, status_code=400)
    return None


def _why_not_forwarded(path: str) -> str:
    """Say why a path cannot be joined to the base of a ``forwardURL``; empty where it can."""
    if path == "*":
        return REASON_FORWARD_ALL
    if _has_dots(path):
        return REASON_FORWARD_DOTS
    return REASON_FORWARD_SPELLING if _has_disguise(path) else ""


def _split_target(origin: Origin, target: str, host_header: str) -> tuple[str, str] | None:
    """Give host name and origin-form; None where they contradict each other or are missing."""
    if target.startswith("/") or target == "*":
        authority = host_header
    else:
        scheme, mark, rest = target.partition("://")
        if not mark or scheme.lower() != origin.scheme:
            return None
        cut = re.search(r"[/?]", rest)
        authority = rest[: cut.start()] if cut else rest
        target = rest[cut.start() :] if cut else "/"
        target = target if target.startswith("/") else f"/{target}"
        if host_header and host_header.lower() != authority.lower():
            return None
    parsed = parse_authority(authority)
    if parsed is None or parsed.port not in {0, origin.port} or not parsed.host.isascii():
        return None
    if "#" in target:
        return None
    return parsed.host, target


def _has_dots(path: str) -> bool:
    """Whether a server may see dot segments, however often it decodes the path."""
    readings = _readings(path)
    is_endless = unquote(readings[-1]) != readings[-1]
    return is_endless or any(_DOT_SEGMENT.search(reading) is not None for reading in readings)


def _has_disguise(path: str) -> bool:
    """Whether a lenient server may see an ASCII character that a strict one does not.

    That is what is no UTF-8, overlong forms among it, and characters that Unicode's compatibility
    forms or a code page turn into plain ones, such as wide letters and dots.
    """
    return not path.isascii() or any(
        0xD800 <= ord(char) <= 0xDFFF  # noqa: PLR2004 - how Python keeps bytes that are no UTF-8
        or char in _SLASH_LIKE
        or any(plain.isascii() for plain in unicodedata.normalize("NFKC", char))
        for reading in _readings(path)
        for char in reading
        if not char.isascii()
    )


def _readings(path: str) -> list[str]:
    """Give the path as it stands, and as it is after each decoding, as often as one may try."""
    readings = [path]
    while len(readings) <= _DECODING_LIMIT:
        decoded = unquote(readings[-1], errors="surrogateescape")
        if decoded == readings[-1]:
            break
        readings.append(decoded)
    return readings


def _has_path_rules(policy: NetworkPolicy, host: str) -> bool:
    entry = policy.find(host)
    return entry is not None and any(rule.match.path is not None for rule in entry.rules)


@dataclass(frozen=True, slots=True)
class Forward:
    """Where a ``forwardURL`` leads."""

    scheme: Literal["https", "http"]
    host: str
    port: int
    base: str
    authority: str


def parse_forward(url: str) -> Forward | None:
    """Read a ``forwardURL``; None where it is none that can be followed."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    is_plain = all("!" <= char <= "~" for char in url)
    if not parts.hostname or parts.username is not None or not is_plain:
        return None
    base = parts.path.rstrip("/")
    if parts.scheme == "http":
        return Forward("http", parts.hostname, port or 80, base, parts.netloc)
    if parts.scheme == "https":
        return Forward("https", parts.hostname, port or 443, base, parts.netloc)
    return None
