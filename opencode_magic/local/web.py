"""The application on uvicorn: serves a bound socket until it is told to end."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from opencode_magic.local.api import Activity, ApiOptions, build_app

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

__all__ = ["Activity", "ApiOptions", "Web"]

KEEP_ALIVE_S = 75
GRACE_S = 2
"""How long answers that are on their way may take once the server ends."""


class Web(uvicorn.Server):
    """A server for one application. It leaves the signals to us: what runs must end first."""

    def __init__(self, options: ApiOptions, activity: Activity) -> None:
        config = uvicorn.Config(
            build_app(options, activity),
            lifespan="off",
            ws="none",
            http="h11",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
        )
        super().__init__(config)
        self.accepting = asyncio.Event()
        """Set once requests are taken."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take requests."""
        await super().startup(sockets)
        self.accepting.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield
