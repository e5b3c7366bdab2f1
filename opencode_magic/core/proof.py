"""Probes and their evidence -> a verdict on the wall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Must = Literal["answers", "refused", "absent"]
Seen = Literal["answered", "refused", "absent", "got through", "no answer", "present"]
ProofVerdict = Literal["proven", "unproven", "failed"]


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing that was tried from inside the sandbox.

    ``is_wall_evidence`` is true only where the *wall* is known to have refused this very probe:
    on the local home the firewall's record with the probe's source port, on the cloud home a
    refusal inside while the same address answers from the kernel.
    """

    asked: str
    """What was asked from inside, such as ``example.com by name``."""
    must: Must
    seen: Seen
    evidence: str
    is_wall_evidence: bool = False
    duration_s: float = 0.0

    @property
    def is_as_it_must(self) -> bool:
        """Whether what was seen is what must be seen."""
        return {"answers": "answered", "refused": "refused", "absent": "absent"}[
            self.must
        ] == self.seen


@dataclass(frozen=True, slots=True)
class Proof:
    """All probes of one run, in the order asked."""

    probes: tuple[Probe, ...]
    at_ms: int
    duration_s: float

    @property
    def verdict(self) -> ProofVerdict:
        """Proven, unproven or failed.

        Failed where a probe got through, a key was found, or the model's host did not answer.
        Proven where every probe is as it must be and at least one refusal is the wall's own.
        Unproven otherwise: nothing speaks against the wall, and nothing shows that it stands.
        """
        if any(probe.seen in {"got through", "present"} for probe in self.probes):
            return "failed"
        answering = [probe for probe in self.probes if probe.must == "answers"]
        if not answering or not all(probe.is_as_it_must for probe in answering):
            return "failed"
        has_evidence = any(
            probe.must == "refused" and probe.is_as_it_must and probe.is_wall_evidence
            for probe in self.probes
        )
        if has_evidence and all(probe.is_as_it_must for probe in self.probes):
            return "proven"
        return "unproven"
