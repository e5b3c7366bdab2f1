"""A proof made in a thread of its own, while the agent server boots."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opencode_magic.core.proof import Proof
    from opencode_magic.sandbox.egress import EgressFeed
    from opencode_magic.sandbox.prove import Prover


class Proving(threading.Thread):
    """Runs the probes while the server boots; what it raised is raised again by ``result``."""

    def __init__(self, prover: Prover, feed: EgressFeed | None) -> None:
        super().__init__(name="prove", daemon=True)
        self._prover = prover
        self._feed = feed
        self._proof: Proof | None = None
        self._error: Exception | None = None

    def run(self) -> None:
        """Make the proof."""
        try:
            if self._feed is None:
                self._proof, _ = self._prover.run()
                return
            with self._feed.holding() as own:
                self._proof, seqs = self._prover.run()
                own.update(seqs)
        except Exception as exc:  # noqa: BLE001 - a thread's outer edge; raised again by result()
            self._error = exc

    def result(self) -> Proof:
        """Wait for the proof."""
        self.join()
        if self._proof is None:
            raise self._error or RuntimeError("the proof ended without a word")
        return self._proof
