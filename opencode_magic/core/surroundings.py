"""The variables that say how this machine goes out -> one text that changes when they do.

A local server reads them once, at its start; who connects to it compares.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")


def digest(environ: Mapping[str, str]) -> str:
    """Give the same text for the same values, and no way back to them: one may hold a password."""
    text = "\0".join(f"{name}={environ[name]}" for name in NAMES if environ.get(name))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
