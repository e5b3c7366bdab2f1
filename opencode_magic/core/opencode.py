"""The pinned OpenCode release, and where its things stand inside a sandbox.

Source of versions and hashes: the npm registry's metadata of ``opencode-linux-*`` 1.18.33
(``dist.integrity``, a base64 SHA-512 of the tarball).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from opencode_magic.errors import BinaryError

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = "1.18.33"
BINARY_IN_TARBALL = "package/bin/opencode"
PORT = 4096
USERNAME = "opencode"
READY_LINE = "opencode server listening on "
"""What the server prints once it listens: of no use beside a failure that came later."""


@dataclass(frozen=True, slots=True)
class PlatformPackage:
    """An npm package that holds the binary for one platform."""

    name: str
    integrity: str
    """``sha512-`` and the base64 digest of the tarball, as npm writes it."""


PACKAGES: Mapping[str, PlatformPackage] = {
    package.name: package
    for package in (
        PlatformPackage(
            "opencode-linux-x64",
            "sha512-q/t/3p2CTxOT9y2kvjesb/LZab2+1eqlhhWA02Be6mjTtmYtNBcBsrI5yDo4Fw7ZSPBW2oyMIGMN"
            "RqiKQjiAWw==",
        ),
        PlatformPackage(
            "opencode-linux-x64-baseline",
            "sha512-1KQGBiiDDeL/VHHbHkOvvFo8Jr97WT5+C1tear+p7IcDTnXgVHXqIjU4O4jM4mHQzykTP2i884FC"
            "nW5LDa+zCA==",
        ),
    )
}
"""The packages whose hash is known. A binary that cannot be verified is not run."""


def package_name(machine: str, *, is_musl: bool, has_avx2: bool) -> str:
    """Give the npm package of a Linux platform, known to us or not."""
    arch = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(
        machine.lower(), machine.lower()
    )
    baseline = "-baseline" if arch == "x64" and not has_avx2 else ""
    return f"opencode-linux-{arch}{baseline}{'-musl' if is_musl else ''}"


def package_for(machine: str, *, is_musl: bool = False, has_avx2: bool = True) -> PlatformPackage:
    """Give the package for a Linux platform.

    Args:
        machine: As ``uname -m`` says it.
        is_musl: Whether the C library is musl and not glibc.
        has_avx2: Whether the processor knows AVX2.

    Raises:
        BinaryError: No hash is known for this platform's package.
    """
    name = package_name(machine, is_musl=is_musl, has_avx2=has_avx2)
    package = PACKAGES.get(name)
    if package is None:
        msg = f"no verified OpenCode {VERSION} is known for this platform ({name})"
        raise BinaryError(
            msg,
            next_step="name a binary that you trust in OPENCODE_MAGIC_BINARY, or use the cloud "
            "home: %opencode_up --home cloud",
        )
    return package


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
