"""Opens the connections to upstreams, after the verdict and after the check of the address."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opencode_magic.core.policy import canonical_host, decide_address
from opencode_magic.local.firewall.judge import parse_forward
from opencode_magic.local.firewall.resolve import (
    REASON_NOT_GLOBAL,
    AddressRefusedError,
    Target,
    UnreachableError,
    connect,
    is_global,
)

if TYPE_CHECKING:
    import socket

    from opencode_magic.local.firewall.connections import Connection
    from opencode_magic.local.firewall.judge import Judgement, Origin
    from opencode_magic.local.firewall.wall import Wall

REASON_FORWARD = "its forwardURL cannot be followed"
REASON_FORWARD_LOCAL = "its forwardURL leads to this machine"
REASON_NOT_IN_SUBNET = "plain HTTP, and its address is in no allowed subnet"


@dataclass(frozen=True, slots=True)
class Route:
    """Where one request goes."""

    is_tls: bool
    name: str
    """For the certificate and the record."""
    target: Target
    authority: str = ""
    """The Host header a forwarded request gets; empty leaves it as it came."""
    base: str = ""
    """Stands before the path of a forwarded request."""


def find_route(wall: Wall, origin: Origin, judgement: Judgement) -> Route:
    """Give where an allowed request goes.

    Raises:
        AddressRefusedError: Its address may not be reached.
        UnreachableError: Its name leads nowhere.
    """
    if judgement.rule is not None and judgement.rule.forward_url:
        return _forward_route(wall, judgement)
    host, port = judgement.request.host, origin.port
    target = wall.resolver.resolve(wall.policy, host, port)
    if judgement.needs_allowed_subnet and not _is_in_subnets(wall, target):
        raise AddressRefusedError(REASON_NOT_IN_SUBNET)
    return Route(origin.scheme == "https", host, target)


def open_upstream(wall: Wall, connection: Connection, route: Route) -> socket.socket:
    """Connect, and set up TLS where the route has it. The connection owns the socket.

    Raises:
        UnreachableError: It does not answer, or its certificate is not trusted.
    """
    sock = connect(route.target)
    connection.address = "" if _is_mapped(wall, route) else route.target.address_of(sock)
    connection.is_unchecked = route.target.is_unchecked
    if not connection.own(sock):
        raise UnreachableError(connection.cut_reason or "it was cut")
    if not route.is_tls:
        return sock
    try:
        wrapped = wall.upstream_context().wrap_socket(
            sock, server_hostname=route.name, do_handshake_on_connect=False
        )
        connection.replace(sock, wrapped)
        wrapped.do_handshake()
    except ssl.SSLCertVerificationError as exc:
        raise UnreachableError(f"its certificate is not trusted: {exc.verify_message}") from exc
    except (OSError, ValueError) as exc:
        raise UnreachableError("TLS with it failed") from exc
    return wrapped


def _forward_route(wall: Wall, judgement: Judgement) -> Route:
    forward = parse_forward(judgement.rule.forward_url if judgement.rule is not None else "")
    if forward is None:
        raise UnreachableError(REASON_FORWARD)
    text = "127.0.0.1" if forward.host == "localhost" else forward.host
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        host = canonical_host(text)
        if host is None:
            raise UnreachableError(REASON_FORWARD) from None
        target = wall.resolver.resolve(wall.policy, host, forward.port)
        return Route(forward.scheme == "https", host, target, forward.authority, forward.base)
    if address.is_loopback:
        is_mapping = judgement.request.host.endswith(".internal")
        if not (wall.allow_loopback_forward and is_mapping):
            raise AddressRefusedError(REASON_FORWARD_LOCAL)
    elif not is_global(text):
        raise AddressRefusedError(REASON_NOT_GLOBAL)
    target = Target(text, forward.port, ((text, forward.port),))
    return Route(forward.scheme == "https", forward.host, target, forward.authority, forward.base)


def _is_in_subnets(wall: Wall, target: Target) -> bool:
    return bool(target.addresses) and all(
        decide_address(wall.policy, address).is_allowed for address, _ in target.addresses
    )


def _is_mapped(wall: Wall, route: Route) -> bool:
    if not route.target.addresses:
        return False
    address = route.target.addresses[0][0]
    return wall.resolver.is_mapped(route.name) or not is_global(address)
