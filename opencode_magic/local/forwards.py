"""Where a policy's ``forwardURL`` may lead: public addresses, and this machine where it may."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opencode_magic.local.payloads import bad_request

if TYPE_CHECKING:
    from opencode_magic.core.policy import NetworkPolicy


def check_forwards(policy: NetworkPolicy, *, may_reach_loopback: bool) -> None:
    """Refuse a ``forwardURL`` that leads to this machine, unless a mapping may.

    Args:
        policy: The policy that a request asks for.
        may_reach_loopback: Hosts under ``.internal`` may lead to a loopback address.

    Raises:
        ApiError: A forward URL is malformed, or leads where it must not.
    """
    for entry in policy.hosts:
        for rule in entry.rules:
            if rule.forward_url:
                _check_forward(entry.pattern, rule.forward_url, may_reach_loopback)


def _check_forward(host: str, url: str, may_reach_loopback: bool) -> None:  # noqa: FBT001 - private
    try:
        parts = urlsplit(url)
        target, _ = parts.hostname, parts.port
    except ValueError:
        target = None
    if not target or parts.scheme not in {"http", "https"}:
        raise bad_request(f"networkPolicy: the forwardURL of {host!r} is not an http address")
    try:
        is_local = not ipaddress.ip_address(target).is_global
    except ValueError:
        is_local = target == "localhost" or target.endswith(".localhost")
    if not is_local:
        return
    if not may_reach_loopback:
        raise bad_request(f"networkPolicy: the forwardURL of {host!r} must be a public address")
    if not host.endswith(".internal") or target not in {"127.0.0.1", "localhost", "::1"}:
        raise bad_request(
            f"networkPolicy: only a host under '.internal' may lead to a loopback address, "
            f"not {host!r}"
        )
