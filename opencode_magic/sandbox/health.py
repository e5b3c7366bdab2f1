"""A booting agent server -> its version, as soon as it answers.

OpenCode 1.18.33 accepts connections up to 0.8 s before it can serve and never answers those, so a
try that came too early must not hold up the next one: tries overlap.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Protocol

from opencode_magic.errors import SandboxLaunchError

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT_S = 60.0
TRY_EVERY_S = 0.05
TRIES_AT_ONCE = 8
LOOK_EVERY_S = 0.5
LINES_STEP = "see its last lines, or run: %opencode_doctor"


class Pollable(Protocol):
    """The part of an agent server that this module needs."""

    def poll_health(self, url: str) -> str | None:
        """Try once, shortly: the version, or None."""


def wait_healthy(
    server: Pollable,
    url: str,
    *,
    look: Callable[[], None] = lambda: None,
    timeout_s: float = TIMEOUT_S,
) -> str:
    """Try until the server answers; gives its version.

    Args:
        server: What is asked.
        url: Where it will answer.
        look: Called twice a second; raises where waiting is of no use.
        timeout_s: Give up after this many seconds.

    Raises:
        SandboxLaunchError: No answer in time.
        AgentConnectionError: Another server answers.
    """
    answers: queue.SimpleQueue[str | Exception | None] = queue.SimpleQueue()
    flying = 0
    deadline = time.monotonic() + timeout_s
    next_look = time.monotonic() + LOOK_EVERY_S

    def ask() -> None:
        try:
            answers.put(server.poll_health(url))
        except Exception as exc:  # noqa: BLE001 - a thread's outer edge; raised by who waits
            answers.put(exc)

    while time.monotonic() < deadline:
        if flying < TRIES_AT_ONCE:
            threading.Thread(target=ask, name="health", daemon=True).start()
            flying += 1
        try:
            answer = answers.get(timeout=TRY_EVERY_S)
        except queue.Empty:
            pass
        else:
            flying -= 1
            if isinstance(answer, Exception):
                raise answer
            if answer is not None:
                return answer
            time.sleep(TRY_EVERY_S / 2)
        if time.monotonic() > next_look:
            look()
            next_look = time.monotonic() + LOOK_EVERY_S
    msg = f"the agent server did not answer within {timeout_s:.0f} s"
    raise SandboxLaunchError(msg, step="serve", next_step=LINES_STEP)
