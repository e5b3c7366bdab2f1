"""The surest way to end a sandbox: by name, in a thread, within a time, never raising."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from opencode_magic.sandbox.faults import describe

if TYPE_CHECKING:
    from vercel.sandbox.sync import SyncSandboxClient

RETRY_S = 0.25


def destroy(client: SyncSandboxClient, name: str, *, budget_s: float, may_appear: bool) -> str:
    """Destroy a sandbox by name, whatever is known of it. Never raises.

    The call runs in a daemon thread: a second Interrupt cannot break it off, and a home that does
    not answer cannot hold up the caller beyond the budget.

    Args:
        client: The home's client.
        name: The sandbox's name.
        budget_s: Wait at most so long.
        may_appear: Its creation may still be under way, so that "not found" is asked again.

    Returns:
        Empty where the sandbox is gone, else why that is not known.
    """
    said = ["the home did not answer in time"]
    deadline = time.monotonic() + budget_s

    def work() -> None:
        while True:
            try:
                client.get_sandbox(name=name).destroy(delete_orphan_snapshots=True)
            except Exception as exc:  # noqa: BLE001 - a thread's outer edge; reported to the caller
                fault = describe(exc)
                if fault.is_gone and not may_appear:
                    said[0] = ""
                    return
                said[0] = "" if fault.is_gone else fault.message
            else:
                said[0] = ""
                return
            if time.monotonic() + RETRY_S > deadline:
                return
            time.sleep(RETRY_S)

    thread = threading.Thread(target=work, name="destroy", daemon=True)
    thread.start()
    wait(thread, budget_s)
    return said[0]


def wait(thread: threading.Thread, budget_s: float) -> None:
    """Wait for a thread that cleans up; an Interrupt meanwhile changes nothing."""
    deadline = time.monotonic() + budget_s
    while thread.is_alive() and time.monotonic() < deadline:
        try:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))
        except KeyboardInterrupt:
            continue
