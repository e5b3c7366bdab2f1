"""The user's own network: its upstream proxy and its certificate authorities, checked at the start.

What is wrong with them must be one clear line of the server that does not start, or of the create
call that is refused, and not a mystery of the first request.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opencode_magic.core.surroundings import NAMES, PARAMETER
from opencode_magic.errors import SettingsError
from opencode_magic.local.firewall.way_out import load_way_out
from opencode_magic.local.payloads import bad_request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opencode_magic.local.firewall.way_out import WayOut


@dataclass(frozen=True, slots=True)
class Company:
    """How one sandbox goes out."""

    way_out: WayOut | None = None
    """The upstream proxy, asked after the verdict; None goes out directly."""
    authorities: bytes = b""
    """PEM certificates that upstreams may be signed by beyond the system's own."""
    authority_dir: str = ""
    """A folder of more, as OpenSSL has them; programs inside do not get these."""

    @property
    def proxy(self) -> str:
        """The proxy as it may be shown; empty where there is none."""
        return f"{self.way_out.host}:{self.way_out.port}" if self.way_out else ""


def load_company(environ: Mapping[str, str], upstream_ca: Path | None) -> Company:
    """Give what the variables of `surroundings` say, and ``--upstream-ca``.

    Raises:
        SettingsError: Something of it cannot be used; never repeats a password.
    """
    authorities = load_authorities(environ, upstream_ca)
    return Company(find_way_out(environ), authorities, environ.get("SSL_CERT_DIR", ""))


def parse_surroundings(value: object) -> Mapping[str, str] | None:
    """Parse the variables of a create body; None where it has none. An error tells no value.

    Raises:
        ApiError: It is no object of them.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise bad_request(f"{PARAMETER} must be an object of texts")
    if unknown := value.keys() - set(NAMES):
        raise bad_request(f"{PARAMETER} should NOT have additional property {min(unknown)!r}")
    return value


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
