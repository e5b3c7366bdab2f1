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

    wait(begin(work, name="destroy"), budget_s)
    return ended[0]


def still_there(name: str, why: str) -> str:
    """Say that a sandbox may not be gone, and why that is not known."""
    return f"sandbox {name} may still run until its time is up: {why}"


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


def begin(work: Callable[[], None], *, name: str) -> threading.Event:
    """Do something in a daemon thread; the event is set once that has ended.

    It is waited for in place of the thread: an Interrupt in ``Thread.join`` (Python 3.11) takes a
    running thread for one that has ended.
    """
    done = threading.Event()

    def run() -> None:
        try:
            work()
        finally:
            done.set()

    threading.Thread(target=run, name=name, daemon=True).start()
    return done


def wait(done: threading.Event, budget_s: float) -> None:
    """Wait for work that cleans up; an Interrupt meanwhile changes nothing."""
    deadline = time.monotonic() + budget_s
    while not done.is_set() and time.monotonic() < deadline:
        try:
            done.wait(max(0.0, deadline - time.monotonic()))
        except KeyboardInterrupt:
            continue


def wait_out(done: threading.Event, *, after_interrupt_s: float) -> bool:
    """Wait for work to end; an Interrupt leaves it so many seconds more, a second one none.

    Returns:
        Whether there was an Interrupt.
    """
    deadline = None
    while not done.is_set() and (deadline is None or time.monotonic() < deadline):
        try:
            done.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except KeyboardInterrupt:
            if deadline is not None:
                break
            deadline = time.monotonic() + after_interrupt_s
    return deadline is not None


def lines_within(read: Callable[[], tuple[str, ...]], budget_s: float) -> tuple[str, ...]:
    """Give lines that a call reads, where it ends in time; the end of a sandbox waits for them."""
    found: list[str] = []
    wait(begin(lambda: found.extend(read()), name="lines"), budget_s)
    return tuple(found)
