"""What dead kernels left -> removed, at the next launch or when asked."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from opencode_magic.errors import OpencodeMagicError
from opencode_magic.sandbox import ending, workspace
from opencode_magic.sandbox.connect import Connection, connect_cloud, connect_local, find_server
from opencode_magic.sandbox.lease import LeaseFile, is_orphaned, load_leases, remove_lease

if TYPE_CHECKING:
    from opencode_magic.settings import Settings

BUDGET_S = 10.0
FORGET_AFTER_S = 25 * 3600.0
"""No sandbox lives longer, on either home."""


def sweep(settings: Settings) -> tuple[str, ...]:
    """Destroy the sandboxes of kernels that are gone. Never raises.

    Returns:
        The names of what was removed.
    """
    removed = []
    for lease in tuple(load_leases(settings)):
        age_s = time.time() - lease.created_ms / 1000
        if age_s > FORGET_AFTER_S:
            remove_lease(settings, lease.name)
        elif is_orphaned(lease) and _destroy(settings, lease):
            remove_lease(settings, lease.name)
            removed.append(lease.name)
    workspace.forget_old(settings.state_dir)
    return tuple(removed)


def _destroy(settings: Settings, lease: LeaseFile) -> bool:
    try:
        connection = _connection(settings, lease)
    except OpencodeMagicError:
        return False
    if connection is None:
        return True
    try:
        ended = ending.destroy(connection, lease.name, budget_s=BUDGET_S)
    finally:
        connection.close()
    return not ended.left


def _connection(settings: Settings, lease: LeaseFile) -> Connection | None:
    """Give a client of the lease's home; None where the home is gone, and the sandbox with it."""
    if lease.home == "cloud":
        return connect_cloud(replace(settings, cloud_url=lease.cloud_url))
    server = find_server(settings)
    return connect_local(server) if server is not None else None
