"""Tests of the one thread that reads the pipes of all commands."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

from opencode_magic.local.pump import Pump

if TYPE_CHECKING:
    import pytest


def fail(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_failure_of_one_is_not_the_end_of_all(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever fails for one command is on record, and the others are read on."""
    pump = Pump()
    came = threading.Event()
    got: list[bytes] = []
    failing, other = os.pipe(), os.pipe()

    def take(data: bytes) -> None:
        got.append(data)
        came.set()

    with caplog.at_level(logging.ERROR):
        pump.call(fail)
        pump.call_later(0, fail)
        pump.read(failing[0], fail)
        os.write(failing[1], b"lost")
        pump.read(other[0], take)
        os.write(other[1], b"read")
        is_read = came.wait(10)
    os.close(failing[1])
    os.close(other[1])

    assert (is_read, got[:1]) == (True, [b"read"])
    assert "No space left on device" in caplog.text


def test_deadline_beyond_what_the_kernel_counts() -> None:
    """A deadline in a hundred days keeps nothing else from being done at once."""
    pump = Pump()
    done = threading.Event()
    pump.call_later(100 * 24 * 3600.0, fail)
    pump.call(done.set)

    assert done.wait(10)
