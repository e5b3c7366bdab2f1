"""The surest way to end a sandbox: by name, in a thread, within a time, never raising."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opencode_magic.errors import SandboxConnectionError
from opencode_magic.sandbox.faults import describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from opencode_magic.sandbox.connect import Connection

RETRY_S = 0.25


@dataclass(frozen=True, slots=True)
class Ended:
    """How an end went."""

    left: str = ""
    """Empty where the sandbox is gone, else why that is not known."""
    kept: str = ""
    """Where the local home keeps the agent's files; empty where it does not."""


@dataclass(slots=True)
class CleanedUp:
    """What became of a launch that failed."""

    log_lines: tuple[str, ...] = ()
    """The agent server's last ones."""
    left: str = ""
    """Empty where nothing is left running, else a sentence for a person."""


def destroy(
    connection: Connection,
    name: str,
    *,
    budget_s: float,
    may_appear: bool = False,
    discard: bool = False,
    may_restart: bool = False,
) -> Ended:
    """Destroy a sandbox by name, whatever is known of it. Never raises.

    The call runs in a daemon thread: a second Interrupt cannot break it off, and a home that does
    not answer cannot hold up the caller beyond the budget.

    Args:
        connection: The home.
        name: The sandbox's name.
        budget_s: Wait at most so long.
        may_appear: Its creation may still be under way, so that "not found" is asked again.
        discard: Have the local home delete the agent's files too.
        may_restart: Where the local server has ended, start one: it knows where the files are.
    """
    ended = [Ended("the home did not answer in time")]
    deadline = time.monotonic() + budget_s

    def work() -> None:
        while True:
            try:
                kept = _destroy(connection, name, discard=discard, may_restart=may_restart)
            except Exception as exc:  # noqa: BLE001 - a thread's outer edge; reported to the caller
                ended[0] = Ended(describe(exc).message)
            else:
                ended[0] = Ended("", kept or "")
                if kept is not None or not may_appear:
                    return
            if time.monotonic() + RETRY_S > deadline:
                return
            time.sleep(RETRY_S)

    thread = threading.Thread(target=work, name="destroy", daemon=True)
    thread.start()
    wait(thread, budget_s)
    return ended[0]


def still_there(name: str, why: str) -> str:
    """Say that a sandbox may not be gone, and why that is not known."""
    return f"sandbox {name.removeprefix('ocm-')} may still run until its time is up: {why}"


def _destroy(connection: Connection, name: str, *, discard: bool, may_restart: bool) -> str | None:
    """Give where the files are kept, or None where there is no such sandbox."""
    if connection.local is not None:
        try:
            return connection.local.destroy(name, discard=discard)
        except SandboxConnectionError:
            successor = connection.successor() if may_restart else None
            if successor is None:
                raise
        try:
            return _destroy(successor, name, discard=discard, may_restart=False)
        finally:
            successor.close()
    try:
        connection.client.get_sandbox(name=name).destroy(delete_orphan_snapshots=True)
    except Exception as exc:
        if describe(exc).is_gone:
            return None
        raise
    return ""


def wait(thread: threading.Thread, budget_s: float) -> None:
    """Wait for a thread that cleans up; an Interrupt meanwhile changes nothing."""
    deadline = time.monotonic() + budget_s
    while thread.is_alive() and time.monotonic() < deadline:
        try:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))
        except KeyboardInterrupt:
            continue


def lines_within(read: Callable[[], tuple[str, ...]], budget_s: float) -> tuple[str, ...]:
    """Give lines that a call reads, where it ends in time; the end of a sandbox waits for them."""
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.extend(read()), name="lines", daemon=True)
    reader.start()
    wait(reader, budget_s)
    return tuple(found)
