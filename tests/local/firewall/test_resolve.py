from __future__ import annotations

import socket

import pytest

from opencode_magic.core.policy_wire import parse_policy
from opencode_magic.local.firewall.resolve import (
    AddressRefusedError,
    Resolver,
    Target,
    UnreachableError,
    connect,
    is_global,
    is_subnet_denied,
)

EVERYTHING = parse_policy({"mode": "allow-all"})


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "192.0.0.1",
        "192.0.0.9",
        "192.0.0.192",
        "168.63.129.16",
        "::ffff:168.63.129.16",
        "64:ff9b::a83f:8110",
        "198.18.0.1",
        "203.0.113.1",
        "240.0.0.1",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "fec0::1",
        "feff::1",
        "::ffff:192.0.0.9",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
        "64:ff9b:1::7f00:1",
        "2001:0:7f00:1::1",
        "nonsense",
    ],
)
def test_inner_addresses_are_not_global(address: str) -> None:
    """Loopback, private, link-local, metadata and the like are refused, also inside IPv6."""
    assert not is_global(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_global(address: str) -> None:
    """Addresses of the public internet pass, also translated ones."""
    assert is_global(address)


def test_a_name_that_leads_to_this_machine_is_refused() -> None:
    """An allowed name may not lead to loopback."""
    with pytest.raises(AddressRefusedError, match="not on the public internet"):
        Resolver().resolve(EVERYTHING, "localhost", 443)


def test_a_mapped_name_leads_where_the_user_said() -> None:
    """A mapping replaces resolution, and may lead to loopback."""
    resolver = Resolver({"api.example.com": ("127.0.0.1", 8443)})

    assert resolver.is_mapped("api.example.com")
    assert resolver.resolve(EVERYTHING, "api.example.com", 443) == Target(
        "api.example.com", 443, (("127.0.0.1", 8443),)
    )


def test_a_name_that_does_not_exist_is_unreachable() -> None:
    """A name without addresses is told from a refused one."""
    with pytest.raises(UnreachableError, match="not found outside"):
        Resolver().resolve(EVERYTHING, "nowhere.invalid", 443)


def test_denied_subnets_hold_for_every_form_of_an_address() -> None:
    """A denied IPv4 subnet is denied when it is reached through an IPv6 form as well."""
    policy = parse_policy({"allow": ["a.example"], "subnets": {"deny": ["8.8.8.0/24"]}})

    assert is_subnet_denied(policy, "8.8.8.8")
    assert is_subnet_denied(policy, "64:ff9b::808:808")
    assert not is_subnet_denied(policy, "8.8.4.4")
    with pytest.raises(AddressRefusedError, match="denied subnet"):
        Resolver().resolve_address(policy, "8.8.8.8", 443)


def test_connect_tries_the_next_address() -> None:
    """The first address that answers is used; with none, the reason is told."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_server(("127.0.0.1", 0)) as gone,
    ):
        port, closed = server.getsockname()[1], gone.getsockname()[1]
        gone.close()
        addresses = (("127.0.0.1", closed), ("127.0.0.1", port))
        with connect(Target("a.example", 443, addresses)) as sock:
            assert sock.getpeername()[1] == port
        with pytest.raises(UnreachableError, match="could not be reached: Connection refused"):
            connect(Target("a.example", 443, addresses[:1]))
