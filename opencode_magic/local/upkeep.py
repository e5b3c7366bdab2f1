"""What happens to sandboxes by the clock: their ends, the next spare, the removal of old things."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from opencode_magic.local.ledger import now_ms

if TYPE_CHECKING:
    from opencode_magic.local.box import BoxFactory
    from opencode_magic.local.registry import Registry
    from opencode_magic.local.store import Store

FORGET_STOPPED_MS = 7 * 24 * 3_600_000
"""A stopped sandbox that is not persistent is removed so long after its end."""
SWEEP_EVERY_S = 3600.0
TICK_S = 0.2
REFILL_DELAY_S = 3.0
log = logging.getLogger(__name__)


class Upkeep:
    """Two threads beside a registry: one looks at the clock, one builds the spare."""

    def __init__(self, registry: Registry, store: Store, factory: BoxFactory) -> None:
        self._registry = registry
        self._store = store
        self._factory = factory
        self._refill = threading.Event()
        self._ending = threading.Event()
        self._next_sweep = 0.0
        self._started_ms = now_ms()

    def start(self) -> None:
        """Begin."""
        for work, name in ((self._watch, "upkeep"), (self._keep_spare, "spare")):
            threading.Thread(target=work, name=name, daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self._ending.set()
        self._refill.set()

    def refill(self) -> None:
        """Have the spare built again, a while from now."""
        self._refill.set()

    def retain(self, name: str) -> None:
        """Take away the snapshots that fall out of a sandbox's retention; unknown: none."""
        sandboxes = {view.sandbox.name: view.sandbox for view in self._registry.views()}
        if name in sandboxes:
            in_use = {sandbox.snapshot_id for sandbox in sandboxes.values()}
            self._registry.snapshots.retain(sandboxes[name], in_use, now_ms())

    def sweep(self) -> None:
        """Remove what is past its time: stopped sandboxes, snapshots, kept files, lost folders."""
        moment = now_ms()
        for view in self._registry.views():
            stopped_ms = view.session.stopped_ms
            is_old = stopped_ms is not None and stopped_ms + FORGET_STOPPED_MS <= moment
            if is_old and not view.sandbox.is_persistent:
                self._registry.delete(view.sandbox.name)
            # What another sandbox stood on until now may fall out of the retention by now.
            self.retain(view.sandbox.name)
        self._registry.snapshots.expire(moment)
        in_use = {view.session.box_id for view in self._registry.sessions()}
        boxes = in_use | {self._factory.spare_id}
        self._store.sweep(boxes, moment, started_ms=self._started_ms)

    def _watch(self) -> None:
        while not self._ending.wait(TICK_S):
            try:
                self._registry.end_what_is_over()
                if time.monotonic() >= self._next_sweep:
                    self._next_sweep = time.monotonic() + SWEEP_EVERY_S
                    self.sweep()
            except Exception:  # a background thread's outer edge
                log.exception("the upkeep failed")

    def _keep_spare(self) -> None:
        while not self._ending.is_set():
            try:
                self._factory.refill()
            except Exception:  # a background thread's outer edge
                log.exception("no spare sandbox")
            self._refill.wait()
            self._refill.clear()
            # What was just created is starting its programs: leave it the processor.
            self._ending.wait(REFILL_DELAY_S)
