"""Certificate authorities (PEM) -> a TLS context that trusts these, whatever this process does.

OpenSSL's defaults follow the variables of the server's own process; a sandbox may belong to a
kernel that has others.
"""

from __future__ import annotations

import base64
import binascii
import re
import ssl
from contextlib import suppress
from dataclasses import dataclass

_CERTIFICATE = re.compile(
    rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----"
)


@dataclass(frozen=True, slots=True)
class Trust:
    """Who may sign the certificates of upstreams."""

    pem: bytes
    folder: str = ""
    """A folder of more, as OpenSSL has them."""

    def context(self) -> ssl.SSLContext:
        """Give a client's context that verifies, and trusts these and no others."""
        der = self._der()
        # Without any given, `create_default_context` would take this process's.
        context = (
            ssl.create_default_context(cadata=der)
            if der
            else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        )
        if self.folder:
            context.load_verify_locations(capath=self.folder)
        return context

    def _der(self) -> bytes:
        """Give the certificates end to end: text around them need not be ASCII."""
        found = []
        for body in _CERTIFICATE.findall(self.pem):
            with suppress(binascii.Error):
                found.append(base64.b64decode(body))
        return b"".join(found)
