"""A proof -> whether a launch may end with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opencode_magic.errors import ProofFailedError

if TYPE_CHECKING:
    from opencode_magic.core.proof import Proof

UNPROVEN_WARNING = "locked, not proven from here: no probe has the wall's own evidence"


def require(proof: Proof, *, allow_unproven: bool) -> str:
    """Let a launch go on only proven, or unproven where the user said so.

    Returns:
        A warning to show for as long as the sandbox lives; empty where it is proven.

    Raises:
        ProofFailedError: A probe got through, the key was found inside, the model's host did not
            answer, or there is no evidence and the user did not accept that.
    """
    if proof.verdict == "proven":
        return ""
    wrong = next((p for p in proof.probes if p.seen in {"got through", "present"}), None)
    if wrong is not None:
        raise ProofFailedError(
            f"the wall does not hold: {wrong.asked} {wrong.seen} ({wrong.evidence})",
            step="prove",
            next_step="do not use this home; run: %opencode_doctor",
        )
    model = next((p for p in proof.probes if p.must == "answers" and not p.is_as_it_must), None)
    if model is not None:
        raise ProofFailedError(
            f"the model's host {model.asked} did not answer from inside: {model.evidence}",
            step="prove",
            next_step="check this machine's network and the model's address",
        )
    if allow_unproven:
        return UNPROVEN_WARNING
    odd = next((p for p in proof.probes if not p.is_as_it_must), None)
    detail = f": {odd.asked}: {odd.evidence}" if odd is not None else ""
    raise ProofFailedError(
        f"the wall cannot be proven from here{detail}",
        step="prove",
        next_step="behind a company proxy, accept that with: %opencode_up --unproven",
    )
