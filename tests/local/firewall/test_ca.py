from __future__ import annotations

import ssl

import pytest

from opencode_magic.local.firewall.ca import LEAF_LIMIT, SandboxCA


def shake_hands(server: ssl.SSLContext, trusted: bytes, name: str) -> ssl.SSLObject:
    """Do a TLS handshake in memory; gives the client's side."""
    context = ssl.create_default_context(cadata=trusted.decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=name)
    other = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (client, other):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return client


def test_a_leaf_is_trusted_for_its_own_host() -> None:
    """Who trusts the authority accepts its certificate for that host, and for no other."""
    ca = SandboxCA.create()
    context = ca.context_for("api.example.com")

    assert shake_hands(context, ca.pem, "api.example.com").version() == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(context, ca.pem, "other.example.com")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(context, SandboxCA.create().pem, "api.example.com")


def test_strict_checks_accept_the_chain() -> None:
    """The certificates fit RFC 5280 in full, as Python 3.13 and later demand."""
    ca = SandboxCA.create()
    context = ssl.create_default_context(cadata=ca.pem.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname="api.example.com")
    server = ca.context_for("api.example.com").wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server):
        with pytest.raises(ssl.SSLWantReadError):
            side.do_handshake()

    client.do_handshake()


def test_contexts_are_kept_within_a_limit() -> None:
    """A host's context is made once, and the least used goes when there are too many."""
    ca = SandboxCA.create()
    first = ca.context_for("first.example")
    assert ca.context_for("first.example") is first
    for count in range(LEAF_LIMIT):
        ca.context_for(f"{count}.example")

    assert ca.context_for("first.example") is not first


def test_long_names_are_signed() -> None:
    """A host name longer than a common name may be has a certificate all the same."""
    ca = SandboxCA.create()
    name = ".".join(["a" * 60] * 4)

    assert shake_hands(ca.context_for(name), ca.pem, name).version() == "TLSv1.3"


def test_no_key_is_shown() -> None:
    """Neither repr nor the given certificate holds a private key."""
    ca = SandboxCA.create()

    assert b"PRIVATE" not in ca.pem
    assert "PRIVATE" not in repr(ca)
