"""What a session needs of a launched sandbox and of its agent, as Protocols."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opencode_magic.core.egress import EgressRecord
    from opencode_magic.core.proof import Proof


class Gone(Protocol):
    """What ending a sandbox removed and what it kept, as short lines for a person."""

    @property
    def removed(self) -> tuple[str, ...]:
        """What is no more."""

    @property
    def kept(self) -> tuple[str, ...]:
        """What stays, and where."""


class RunningSandbox(Protocol):
    """A launched sandbox. ``sandbox.handle.Sandbox`` is the real one."""

    name: str

    @property
    def has_egress_record(self) -> bool:
        """Whether this home keeps an egress record."""

    @property
    def last_seq(self) -> int:
        """The number of the last egress record that has arrived."""

    def records_since(self, seq: int, *, settle_s: float = 0.0) -> Sequence[EgressRecord]:
        """Give the egress records after a number, oldest first."""

    def prove(self) -> Proof:
        """Run all probes again."""

    def is_alive(self) -> bool:
        """Whether the sandbox and its agent server run."""

    def extend(self, duration_s: float) -> int:
        """Let the sandbox live longer."""

    def cut_model(self) -> bool:
        """Cut the live connections to the model; False where this home cannot."""

    def end_server(self) -> None:
        """Kill the agent server's process."""

    def terminate(self, *, timeout_s: float = 10.0, keep: bool = True) -> Gone:
        """Destroy the sandbox; copy the agent's work out first where told.

        An Interrupt meanwhile is raised once it is destroyed. Nothing removed: it may still run.
        """
