"""The user's own network: its upstream proxy and its certificate authorities, checked at the start.

What is wrong with them must be one clear line of the server that does not start, and not a
mystery of the first request.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from opencode_magic.errors import SettingsError
from opencode_magic.local.firewall.way_out import load_way_out

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opencode_magic.local.firewall.way_out import WayOut


def find_way_out(environ: Mapping[str, str]) -> WayOut | None:
    """Give the upstream proxy of ``HTTPS_PROXY`` and ``NO_PROXY``; None where there is none.

    Raises:
        SettingsError: It is no proxy that can be used; never repeats a password.
    """
    try:
        return load_way_out(environ)
    except ValueError as exc:
        raise SettingsError(str(exc), next_step="set it to http://HOST:PORT, or unset it") from None


def load_authorities(environ: Mapping[str, str], upstream_ca: Path | None) -> bytes:
    """Give the certificates (PEM) that upstreams may be signed by beyond the system's own.

    They are those of ``SSL_CERT_FILE``, which OpenSSL itself reads too, and of ``upstream_ca``.
    Programs inside meet the same certificates on hosts that are passed through unread.

    Raises:
        SettingsError: A file cannot be read, or holds no certificate.
    """
    places = [("SSL_CERT_FILE", environ.get("SSL_CERT_FILE")), ("--upstream-ca", upstream_ca)]
    return b"".join(_load(name, Path(place)) for name, place in places if place)


def _load(name: str, path: Path) -> bytes:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
        data = path.read_bytes()
    except OSError as exc:
        is_unreadable = not isinstance(exc, ssl.SSLError) and exc.strerror
        reason = exc.strerror if is_unreadable else "it holds no certificate"
        raise SettingsError(
            f"{name} names {str(path)!r}, which cannot be used: {reason}",
            next_step="name a file of certificates in PEM form, or leave it out",
        ) from exc
    return data.rstrip() + b"\n"
