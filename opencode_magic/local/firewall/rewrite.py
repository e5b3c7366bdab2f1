"""What the firewall changes in a request that it passes on, and its own answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11

from opencode_magic.local.firewall.head import plain_headers

if TYPE_CHECKING:
    from opencode_magic.core.policy import FixedResponse, Rule
    from opencode_magic.local.firewall.judge import Judgement
    from opencode_magic.local.firewall.outside import Route

Headers = list[tuple[str, str]]

_FRAMING = {"content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "trailer"}
_PROXY_ONLY = {b"proxy-connection", b"proxy-authorization"}
_OPTIONS = {b"close", b"keep-alive", b"te"}
"""Connection options that are passed on. Others name headers that the next server is to drop."""


def upstream_request(event: h11.Request, judgement: Judgement, route: Route) -> h11.Request:
    """Give the request as the upstream gets it.

    Without a rule it is as it came. Injected headers replace the program's own of the same name,
    however often and in whatever case it sent them, with underscores or dashes. No protocol but
    WebSocket may take over: after that nothing is decided, and HTTP/2 would carry more requests.
    """
    rule = judgement.rule
    upgrade = {b"upgrade"}
    options = _OPTIONS | (upgrade if is_about_websocket(event) else set())
    dropped = _PROXY_ONLY | {b"http2-settings"} | (upgrade - options)
    added = [(name.encode("ascii"), value.strip().encode()) for name, value in _injected(rule)]
    if route.authority:
        dropped.add(b"host")
        added += [
            (b"host", route.authority.encode("ascii")),
            (b"x-forwarded-host", judgement.request.host.encode("ascii")),
            (b"x-forwarded-proto", b"https" if judgement.request.port == 443 else b"http"),  # noqa: PLR2004 - the port of https
        ]
    dropped |= {_spelled(name) for name, _ in added}
    kept = [pair for pair in event.headers.raw_items() if _spelled(pair[0]) not in dropped]
    kept = [pair for raw, value in kept for pair in _with_options(raw, value, options)]
    target = judgement.target if judgement.target == "*" else f"{route.base}{judgement.target}"
    return h11.Request(method=event.method, target=target, headers=[*kept, *added])


def is_about_websocket(message: h11.Request | h11.InformationalResponse) -> bool:
    """Whether a request asks for WebSocket and for nothing else, or an answer agrees to it."""
    tokens: dict[bytes, list[bytes]] = {b"upgrade": [], b"connection": []}
    for name, value in plain_headers(message):
        if name in tokens:
            tokens[name] += _tokens(value)
    return tokens[b"upgrade"] == [b"websocket"] and b"upgrade" in tokens[b"connection"]


def response_headers(fixed: FixedResponse, size: int) -> Headers:
    """Give the headers of a rule's fixed response; its framing is ours."""
    headers = [
        (name, value.strip()) for name, value in fixed.headers.items() if name not in _FRAMING
    ]
    names = {name for name, _ in headers}
    if "content-type" not in names:
        headers.append(("content-type", fixed.content_type or "text/plain; charset=utf-8"))
    return [*headers, ("content-length", str(size))]


def refusal_text(host: str, reason: str) -> bytes:
    """Give what a person reads who looks at a refusal."""
    subject = f"{host} is blocked" if host else "blocked"
    return f"opencode-magic firewall: {subject}: {reason}.\n".encode("utf-8", "replace")


def failure_text(host: str, problem: str) -> bytes:
    """Give what a person reads where an allowed host gave no answer."""
    return f"opencode-magic firewall: {host}: {problem}.\n".encode("utf-8", "replace")


def text_headers(body: bytes) -> Headers:
    """Give the headers of an answer of our own."""
    return [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", str(len(body))),
        ("server", "opencode-magic-firewall"),
    ]


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip().lower() for token in value.split(b",")]


def _spelled(name: bytes) -> bytes:
    """Give a header's name as servers compare it that read an underscore as a dash."""
    return name.lower().replace(b"_", b"-")


def _with_options(raw: bytes, value: bytes, options: set[bytes]) -> list[tuple[bytes, bytes]]:
    """Give a header with these connection options at most; none where nothing is left of it."""
    if raw.lower() != b"connection" or options.issuperset(_tokens(value)):
        return [(raw, value)]
    kept = [token.strip() for token in value.split(b",") if token.strip().lower() in options]
    return [(raw, b", ".join(kept))] if kept else []


def _injected(rule: Rule | None) -> Headers:
    return list((rule.headers or {}).items()) if rule is not None else []
