"""Whom a firewall trusts for one sandbox, told by real handshakes."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import TYPE_CHECKING

import pytest

from opencode_magic.local.firewall.ca import SandboxCA
from opencode_magic.local.firewall.trust import Trust

if TYPE_CHECKING:
    from pathlib import Path


def shake_hands(trust: Trust, signer: SandboxCA) -> str:
    """Meet a server whose certificate this authority signed; gives what is wrong, or nothing."""
    inner, outer = socket.socketpair()

    def serve() -> None:
        try:
            signer.context_for("host.invalid").wrap_socket(outer, server_side=True).close()
        except OSError:
            outer.close()

    server = threading.Thread(target=serve)
    server.start()
    try:
        trust.context().wrap_socket(inner, server_hostname="host.invalid").close()
    except ssl.SSLCertVerificationError as exc:
        return exc.verify_message
    finally:
        inner.close()
        server.join(10)
    return ""


@pytest.mark.parametrize("comment", ["", "# Firma für Prüfung\n", "# no more text"])
def test_only_what_is_named_is_trusted(comment: str) -> None:
    """A certificate of a named authority passes, whatever text stands beside it; others do not."""
    named, other = SandboxCA.create(), SandboxCA.create()
    trust = Trust(comment.encode() + b"\n" + named.pem + comment.encode())

    assert shake_hands(trust, named) == ""
    assert shake_hands(trust, other)


def test_nobody_named_is_nobody_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an authority none is trusted, not even that of this process's own variables."""
    signer = SandboxCA.create()
    (tmp_path / "own.pem").write_bytes(signer.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "own.pem"))

    assert shake_hands(Trust(b""), signer)
    assert Trust(b"").context().get_ca_certs() == []
