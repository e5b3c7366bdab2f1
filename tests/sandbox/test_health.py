from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import pytest

from opencode_magic.errors import AgentConnectionError, SandboxLaunchError
from opencode_magic.sandbox.health import TRIES_AT_ONCE, wait_healthy


@dataclass
class BootingServer:
    """Swallows every try until it is up, as OpenCode does while it boots."""

    up_after_s: float
    answer: str | Exception = "1.18.33"
    started: float = field(default_factory=time.monotonic)
    flying: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def poll_health(self, url: str) -> str | None:  # noqa: ARG002 - the Protocol's
        """Answer at once when up; hang for half a second when not."""
        with self.lock:
            self.flying += 1
            self.most = max(self.most, self.flying)
        try:
            if time.monotonic() - self.started >= self.up_after_s:
                if isinstance(self.answer, Exception):
                    raise self.answer
                return self.answer
            time.sleep(0.5)
            return None
        finally:
            with self.lock:
                self.flying -= 1


def test_swallowed_try_holds_up_nobody() -> None:
    """A server that swallows early tries is met soon after it is up, not half a second later."""
    server = BootingServer(up_after_s=0.3)
    started = time.monotonic()

    version = wait_healthy(server, "http://127.0.0.1:1")

    assert version == "1.18.33"
    assert time.monotonic() - started < 0.7
    assert server.most <= TRIES_AT_ONCE


def test_other_server_is_told() -> None:
    """What a try raises ends the waiting."""
    server = BootingServer(up_after_s=0, answer=AgentConnectionError("another server"))

    with pytest.raises(AgentConnectionError, match="another server"):
        wait_healthy(server, "http://127.0.0.1:1")


def test_silence_ends_in_time() -> None:
    """Without an answer the waiting ends when it must."""
    with pytest.raises(SandboxLaunchError, match="did not answer within"):
        wait_healthy(BootingServer(up_after_s=9), "http://127.0.0.1:1", timeout_s=0.2)


def test_look_ends_the_waiting() -> None:
    """A process that has ended is noticed while waiting."""

    def look() -> None:
        raise SandboxLaunchError("it ended", step="serve")

    started = time.monotonic()
    with pytest.raises(SandboxLaunchError, match="it ended"):
        wait_healthy(BootingServer(up_after_s=9), "http://127.0.0.1:1", look=look)

    assert time.monotonic() - started < 2
