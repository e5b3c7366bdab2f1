"""The pinned OpenCode release, and where its things stand inside a sandbox.

Source of versions and hashes: the npm registry's metadata of ``opencode-linux-*`` 1.18.33
(``dist.integrity``, a base64 SHA-512 of the tarball).
"""

from __future__ import annotations

from dataclasses import dataclass

VERSION = "1.18.33"
BINARY_IN_TARBALL = "package/bin/opencode"
PORT = 4096
USERNAME = "opencode"


@dataclass(frozen=True, slots=True)
class PlatformPackage:
    """An npm package that holds the binary for one platform."""

    name: str
    integrity: str
    """``sha512-`` and the base64 digest of the tarball, as npm writes it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the agent server's things stand inside one sandbox. All paths are absolute there."""

    home: str
    workspace: str
    """The git work tree that the agent works in."""
    binary: str
    temporary: str
    bind_host: str
    """127.0.0.1 on the local home; 0.0.0.0 on the cloud home, whose edge connects from outside."""
    port: int = PORT


@dataclass(frozen=True, slots=True)
class SandboxFile:
    """A file to write into the sandbox before the agent server starts."""

    path: str
    content: bytes
    mode: int = 0o644
