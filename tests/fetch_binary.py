"""The user's cache folder -> the path of the verified OpenCode in it, fetched where missing."""

from __future__ import annotations

import platform
import subprocess
import sys
import tarfile
from pathlib import Path

from opencode_magic.core import opencode

PACKAGE = {"x86_64": "opencode-linux-x64", "aarch64": "opencode-linux-arm64"}[platform.machine()]


def fetch(cache_dir: Path) -> Path:
    """Fill the cache by the package's pinned name."""
    folder = cache_dir / "opencode" / opencode.VERSION / PACKAGE
    binary = folder / "opencode"
    if binary.exists():
        return binary
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["npm", "pack", "--silent", f"{PACKAGE}@{opencode.VERSION}"],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with tarfile.open(next(folder.glob("*.tgz"))) as tarball:
        member = tarball.extractfile(opencode.BINARY_IN_TARBALL)
        assert member
        binary.write_bytes(member.read())
    binary.chmod(0o755)
    return binary


if __name__ == "__main__":
    print(fetch(Path(sys.argv[1])))  # noqa: T201 - the caller reads it
