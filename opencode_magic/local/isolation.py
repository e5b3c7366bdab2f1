"""What a sandbox is made of: its spec, its limits, and bubblewrap's arguments for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """What one sandbox may use. The kernel enforces these; see ``keeper.usage`` for the rest."""

    processes: int = 1024
    """Processes and threads of the whole sandbox."""
    open_files: int = 8192
    """Per process."""
    file_bytes: int = 4 * GIB
    """The largest single file."""
    data_bytes: int = 6 * GIB
    """Private memory of one process."""
    tmp_bytes: int = 512 * MIB
    """``/tmp``, which is memory."""
    shm_bytes: int = 128 * MIB
    """``/dev/shm``, which is memory."""
    run_bytes: int = 16 * MIB
    """``/run``, which is memory."""


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """One sandbox as its keeper needs to know it."""

    name: str
    folder: Path
    """Its own folder on the host; ``home`` (``/vercel``) and ``tmp`` (``/var/tmp``) stand in it."""
    ca_bundle: bytes = b""
    """PEM certificates that the sandbox trusts; empty means the host's own bundle."""
    opencode: Path | None = None
    """Bound read-only at ``/opt/opencode/bin/opencode``."""
    limits: Limits = field(default_factory=Limits)
