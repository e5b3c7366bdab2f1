"""Makes a sandbox of its own, tries to get out of it in every way on the list, tells what held."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from opencode_magic.local import walls, walls_network
from opencode_magic.local.canary import Canary
from opencode_magic.local.firewall.ca import SandboxCA
from opencode_magic.local.firewall.engine import Firewall
from opencode_magic.local.firewall.record import EgressLog
from opencode_magic.local.isolation import SandboxSpec
from opencode_magic.local.keeper import Keeper, KeeperPlace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opencode_magic.core.checks import Check

RECORD_TIMEOUT_S = 3.0


def prove() -> tuple[Check, ...]:
    """Try everything in a sandbox made for it, which ends with this call.

    Raises:
        HomeUnavailableError: No sandbox can be built here; names what is missing.
        SandboxError: The attempts could not be run.
    """
    with _folder() as base, contextlib.ExitStack() as ending:
        canary = Canary()
        ending.callback(canary.close)
        keeper = Keeper.prepare(KeeperPlace(base / "boxes"))
        ending.callback(keeper.close)
        log, ca = EgressLog(), SandboxCA.create()
        firewall = Firewall(
            keeper.listeners,
            walls_network.policy_for(canary.port),
            ca=ca,
            record=log,
            allow_loopback_forward=True,
            look_up=lambda host, _: (walls_network.INNER[host],),
        )
        ending.callback(firewall.close)
        firewall.start()
        keeper.enter(SandboxSpec("prove", base / "boxes" / "prove", ca_bundle=ca.pem))
        host = walls.judge(walls.try_all(keeper))
        tried = walls_network.try_all(keeper, canary.port)
        deadline_s = time.monotonic() + RECORD_TIMEOUT_S
        while time.monotonic() < deadline_s:
            # What the kernel refused is put on record a moment later.
            if walls_network.is_recorded(tried, log.since(0)):
                break
            time.sleep(0.02)
        return (*host, *walls_network.judge(tried, log.since(0)))


def table(checks: Sequence[Check]) -> str:
    """Give one line an attempt (outcome, name, evidence), and one for all."""
    width = max((len(check.name) for check in checks), default=0)
    lines = [
        f"{'held' if check.state == 'ok' else 'OPEN'}  {check.name:<{width}}  {check.detail}"
        for check in checks
    ]
    still_open = sum(check.state != "ok" for check in checks)
    total = f"{len(checks)} attempts, {f'{still_open} not held' if still_open else 'all held'}."
    steps = sorted({check.next_step for check in checks if check.next_step})
    return "\n".join([*lines, "", total, *(f"Next: {step}" for step in steps)])


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="opencode-magic-prove-"))
    try:
        base.chmod(0o755)  # as root, the sandbox's user is another one
        yield base
    finally:
        shutil.rmtree(base, ignore_errors=True)
