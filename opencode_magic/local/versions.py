"""Which version of this package runs here, and which one is installed by now.

A server starts each sandbox from files of the package. After an upgrade those are of another
version than what the server has in memory, and the two may not understand each other.
"""

from __future__ import annotations

import importlib.metadata

from opencode_magic.local.payloads import ApiError


def installed() -> str:
    """Give the version that is installed at this moment; "0" where none can be found."""
    try:
        return importlib.metadata.version("opencode-magic")
    except importlib.metadata.PackageNotFoundError:
        return "0"


RUNNING = installed()
"""The version of what is in memory."""


def require_same() -> None:
    """Refuse to start a sandbox from files of another version.

    Raises:
        ApiError: The package was upgraded, or is being upgraded, under this server.
    """
    now = installed()
    if now != RUNNING:
        message = (
            f"the local server is of version {RUNNING}, and version {now} is installed by now."
            " Next: end its sandboxes with %opencode_down, and launch again"
        )
        raise ApiError(503, "server_outdated", message)
