"""The variables that say how this machine goes out -> what of them a local server is told.

The server reads them at its start, and each sandbox is created with those of its own kernel.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")

PARAMETER = "__surroundings"
"""The name, in the body of a create call, of those of the caller. Its values may be secret."""


def chosen(environ: Mapping[str, str]) -> dict[str, str]:
    """Give the variables that are set, and no others."""
    return {name: environ[name] for name in NAMES if environ.get(name)}


def digest(environ: Mapping[str, str]) -> str:
    """Give the same text for the same values, and no way back to them: one may hold a password."""
    text = "\0".join(f"{name}={value}" for name, value in chosen(environ).items())
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
