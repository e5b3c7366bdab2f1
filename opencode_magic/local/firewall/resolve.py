"""An allowed name -> addresses outside that may be connected to, or the reason why not.

Names are resolved by the host, never by the sandbox, and an address must be global: a name that
leads to loopback, to a private or link-local network or to a metadata service is refused, unless
the user mapped that very name when the server was started.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from opencode_magic.core.policy import REASON_SUBNET_DENIED, decide_address
from opencode_magic.local.firewall.way_out import WayOutError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opencode_magic.core.policy import NetworkPolicy
    from opencode_magic.local.firewall.way_out import WayOut

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

REASON_NOT_GLOBAL = "its address is not on the public internet"
REASON_NOT_FOUND = "its name was not found outside"
REASON_UNCHECKED = (
    "only the upstream proxy knows its address, and the network policy denies subnets"
)
NOTE_PROXY = "the upstream proxy finds its address"
"""Said of what goes through a proxy by name: which address that leads to is not known here."""
CONNECT_TIMEOUT_S = 10.0
ADDRESS_LIMIT = 4

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")
_SITE_LOCAL = ipaddress.IPv6Network("fec0::/10")
_WIRE_SERVER = ipaddress.IPv4Address("168.63.129.16")
"""Azure's own service for its machines, metadata among it: a public address that is none."""
_PROTOCOLS = ipaddress.IPv4Network("192.0.0.0/24")
"""Special purposes (RFC 6890). ``is_global`` has exceptions in it, and depends on the Python."""


def look_up(host: str, port: int) -> Sequence[str]:
    """Give the addresses of a name as this machine knows them, the best one first.

    Raises:
        OSError: It has none.
        UnicodeError: It cannot be asked for.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


class AddressRefusedError(Exception):
    """The name is allowed, and leads where nothing may go."""


class UnreachableError(Exception):
    """The name is allowed, and its host cannot be reached from here."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where an allowed connection goes."""

    host: str
    """The name, for the certificate and the record; an address where there is no name."""
    port: int
    addresses: tuple[tuple[str, int], ...]
    """Addresses and ports, in the order to try."""
    way_out: WayOut | None = None
    """The upstream proxy that connects instead."""
    is_pinned: bool = False
    """The proxy is asked for the address that was checked, and not for the name."""

    @property
    def is_unchecked(self) -> bool:
        """Whether the address it leads to is the upstream proxy's to find."""
        return self.way_out is not None and not self.is_pinned

    def told(self, reason: str) -> str:
        """Give what the record says of it beside the reason why it was allowed."""
        return f"{reason}, {NOTE_PROXY}" if self.is_unchecked else reason

    def address_of(self, sock: socket.socket) -> str:
        """Give where a connection to it leads outside; empty where the proxy alone knows."""
        if self.way_out is None:
            return str(sock.getpeername()[0])
        return self.addresses[0][0] if self.is_pinned else ""


class Resolver:
    """Resolves names on the host, with the user's own mapping before everything else."""

    def __init__(
        self,
        upstreams: Mapping[str, tuple[str, int]] | None = None,
        way_out: WayOut | None = None,
        look_up: Callable[[str, int], Sequence[str]] = look_up,
    ) -> None:
        self._upstreams = dict(upstreams or {})
        self._way_out = way_out
        self._look_up = look_up

    def is_mapped(self, host: str) -> bool:
        """Whether the user said where this name leads."""
        return host in self._upstreams

    def resolve(self, policy: NetworkPolicy, host: str, port: int) -> Target:
        """Give where a canonical name leads. Blocks as long as the host's resolver does.

        Raises:
            AddressRefusedError: No address is global, or the policy denies their subnet, or it
                denies subnets and only the upstream proxy knows the address.
            UnreachableError: The name does not resolve.
        """
        mapped = self._upstreams.get(host)
        if mapped is not None:
            return Target(host, port, (mapped,))
        way_out = self._way_out if self._way_out and self._way_out.is_for(host) else None
        try:
            names = self._look_up(host, port)
        except (OSError, UnicodeError) as exc:
            if way_out is None:
                raise UnreachableError(REASON_NOT_FOUND) from exc
            if policy.subnets_deny:
                raise AddressRefusedError(REASON_UNCHECKED) from exc
            # Behind such a proxy names of the internet often resolve nowhere else.
            return Target(host, port, (), way_out)
        addresses = tuple((name, port) for name in names)
        return self._checked(policy, Target(host, port, addresses, way_out))

    def resolve_address(self, policy: NetworkPolicy, address: str, port: int) -> Target:
        """Give a bare address that the policy allows.

        Raises:
            AddressRefusedError: It is not global, or in a denied subnet.
        """
        way_out = self._way_out if self._way_out and self._way_out.is_for(address) else None
        return self._checked(policy, Target(address, port, ((address, port),), way_out))

    @staticmethod
    def _checked(policy: NetworkPolicy, target: Target) -> Target:
        usable = [pair for pair in target.addresses if is_global(pair[0])]
        if not usable:
            raise AddressRefusedError(REASON_NOT_GLOBAL)
        allowed = [pair for pair in usable if not is_subnet_denied(policy, pair[0])]
        if not allowed:
            raise AddressRefusedError(REASON_SUBNET_DENIED)
        # The proxy would look the name up itself, and may find another address than was checked.
        is_judged = bool(policy.subnets_deny or policy.subnets_allow)
        is_pinned = target.way_out is not None and (is_judged or target.host == allowed[0][0])
        return replace(target, addresses=tuple(allowed[:ADDRESS_LIMIT]), is_pinned=is_pinned)


def is_subnet_denied(policy: NetworkPolicy, address: str) -> bool:
    """Whether the policy denies this address by its subnet, in whatever form it is written."""
    forms = {address, *(str(form) for form in _embedded(ipaddress.ip_address(address)))}
    return any(decide_address(policy, form).reason == REASON_SUBNET_DENIED for form in forms)


def is_global(text: str) -> bool:
    """Whether an address is one of the public internet, also where it carries another inside."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and (
        address.scope_id is not None or address in _NAT64_LOCAL
    ):
        return False
    inner = _embedded(address)
    if inner:
        return all(_is_public(form) for form in inner)
    return _is_public(address)


def _is_public(address: Address) -> bool:
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not address.is_unspecified
        and address not in _SITE_LOCAL
        and address not in _PROTOCOLS
        and address != _WIRE_SERVER
    )


def _embedded(address: Address) -> tuple[Address, ...]:
    """Give the IPv4 addresses that an IPv6 one leads to."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    if address in _NAT64:
        return (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF),)
    return ()


def connect(target: Target, *, timeout_s: float = CONNECT_TIMEOUT_S) -> socket.socket:
    """Connect to the first address that answers; the socket has the timeout set.

    Raises:
        UnreachableError: None did.
    """
    if target.way_out is not None:
        return _connect_through(target.way_out, target, timeout_s=timeout_s)
    problem: OSError | None = None
    for address, port in target.addresses:
        try:
            sock = socket.create_connection((address, port), timeout=timeout_s)
        except OSError as exc:
            problem = exc
            continue
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    text = problem.strerror if problem is not None and problem.strerror else "no answer in time"
    raise UnreachableError(f"could not be reached: {text}") from problem


def _connect_through(way_out: WayOut, target: Target, *, timeout_s: float) -> socket.socket:
    try:
        host = target.addresses[0][0] if target.is_pinned else target.host
        sock = way_out.connect(host, target.port, timeout_s=timeout_s)
    except WayOutError as exc:
        raise UnreachableError(f"could not be reached: {exc}") from exc
    except OSError as exc:
        raise UnreachableError("the upstream proxy could not be reached") from exc
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
