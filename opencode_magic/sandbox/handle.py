"""A launched sandbox: what can be asked of it, and its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from opencode_magic.core.egress import EgressRecord
    from opencode_magic.core.opencode import Place
    from opencode_magic.core.proof import Proof
    from opencode_magic.core.status import Home


@dataclass(frozen=True, slots=True)
class Terminated:
    """What ``terminate`` removed and what it kept, each as short lines for a person."""

    removed: tuple[str, ...]
    kept: tuple[str, ...]


class Sandbox:
    """A sandbox that runs an agent server. Safe to use from several threads.

    Attributes:
        name: Unique, such as ``ocm-quiet-heron``; its repr holds no secret.
        url: Where the agent server answers from here.
        proof: The latest proof.
    """

    name: str
    home: Home
    url: str
    place: Place
    version: str
    expires_ms: int
    proof: Proof | None

    @property
    def has_egress_record(self) -> bool:
        """Whether this home keeps an egress record."""
        raise NotImplementedError

    @property
    def last_seq(self) -> int:
        """The number of the last egress record that has arrived; 0 where there is none."""
        raise NotImplementedError

    def records_since(self, seq: int, *, settle_s: float = 0.0) -> tuple[EgressRecord, ...]:
        """Give the egress records after a number, oldest first.

        Args:
            seq: As ``last_seq`` gave it, such as at the start of a turn.
            settle_s: Ask the firewall for what it has by now, at most so long.
        """
        raise NotImplementedError

    def prove(self) -> Proof:
        """Run all probes again. Emits ``Proved``.

        Raises:
            SandboxConnectionError: The sandbox does not answer.
        """
        raise NotImplementedError

    def is_alive(self) -> bool:
        """Whether the sandbox runs and its agent server's process has not ended."""
        raise NotImplementedError

    def log_tail(self, *, limit_lines: int = 40) -> tuple[str, ...]:
        """Give the agent server's last lines, oldest first; empty where they cannot be had."""
        raise NotImplementedError

    def extend(self, duration_s: float) -> int:
        """Let the sandbox live longer; gives the new end in Unix milliseconds."""
        raise NotImplementedError

    def cut_model(self) -> bool:
        """Cut the live connections to the model; False where this home cannot."""
        raise NotImplementedError

    def end_server(self) -> None:
        """Kill the agent server's process; never raises."""
        raise NotImplementedError

    def keep_work(self) -> Path | None:
        """Copy the workspace into the user's state folder; None where there is nothing in it."""
        raise NotImplementedError

    def terminate(self, *, timeout_s: float = 10.0) -> Terminated:
        """Destroy the sandbox. Never raises; a second call does nothing."""
        raise NotImplementedError
