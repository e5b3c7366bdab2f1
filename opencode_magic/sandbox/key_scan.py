"""A key -> what a search for it needs to know, which is not the key.

Inside, every window of the key's length is hashed by a rolling hash with a random base; those that
agree in 24 bits come back as a salted SHA-256, and only here are they compared with the key. The 24
bits and the length are of no use to anybody who does not have the key already.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SHORTEST_KEY_CHARS = 16
"""24 bits of a shorter key would be worth something."""

SCANNED = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/etc")  # noqa: S108 - inside the sandbox
"""Where the key is looked for, beside the agent's home."""

_MASK = 0xFFFFFFFF
_TOTAL_LIMIT_BYTES = 64 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_DEPTH = 12
_TIMEOUT_S = 4.0


class KeyScan:
    """A search for one key. Its repr and its plan hold nothing that gives the key away."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()
        self._salt = secrets.token_hex(16)
        self._base = secrets.randbits(31) | 1

    @staticmethod
    def of(header_value: str) -> KeyScan | None:
        """Give the search for the key in a header's value; None where it is too short."""
        key = header_value.removeprefix("Bearer ").strip()
        return KeyScan(key) if len(key) >= SHORTEST_KEY_CHARS else None

    def plan(self, folders: Sequence[str], skip: str) -> dict[str, object]:
        """Give what the search inside is told."""
        return {
            "length": len(self._key),
            "base": self._base,
            "bits": rolling_hash(self._key, self._base) >> 8,
            "salt": self._salt,
            "folders": list(folders),
            "processes": "/proc",
            "skip": skip,
            "limitBytes": _TOTAL_LIMIT_BYTES,
            "chunkBytes": _CHUNK_BYTES + len(self._key),
            "depth": _DEPTH,
            "timeoutMs": int(_TIMEOUT_S * 1000),
        }

    def is_among(self, hits: Sequence[object]) -> bool:
        """Whether one of the salted hashes is the key's."""
        wanted = hashlib.sha256(self._salt.encode() + self._key).hexdigest()
        return wanted in hits


def rolling_hash(data: bytes, base: int) -> int:
    """Give the polynomial hash modulo 2**32, as the search inside computes it."""
    value = 0
    for byte in data:
        value = (value * base + byte) & _MASK
    return value
