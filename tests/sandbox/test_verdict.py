from __future__ import annotations

import pytest

from opencode_magic.core.proof import Probe, Proof
from opencode_magic.errors import ProofFailedError
from opencode_magic.sandbox.verdict import UNPROVEN_WARNING, require

MODEL = Probe("model.example", "answers", "answered", "HTTP 200")
REFUSED = Probe("example.com by name", "refused", "refused", "record 1", is_wall_evidence=True)
NO_EVIDENCE = Probe("example.com by name", "refused", "refused", "not provable from here")
UNRECORDED = Probe("example.com by name", "refused", "no answer", "not on the firewall's record")
THROUGH = Probe("192.0.2.1 by address", "refused", "got through", "TLS stood")
KEY_INSIDE = Probe("the key, inside", "absent", "present", "found inside")
NO_MODEL = Probe("model.example", "answers", "no answer", "NXDOMAIN")


def proof(*probes: Probe) -> Proof:
    return Proof(probes, at_ms=0, duration_s=0.1)


def test_proven_goes_on_without_a_warning() -> None:
    """A proof with the wall's own evidence lets a launch end."""
    assert require(proof(MODEL, REFUSED), allow_unproven=False) == ""


@pytest.mark.parametrize("probe", [NO_EVIDENCE, UNRECORDED])
def test_no_evidence_fails_unless_accepted(probe: Probe) -> None:
    """Without evidence a launch fails and names the flag; with the flag it warns."""
    with pytest.raises(ProofFailedError, match="--unproven"):
        require(proof(MODEL, probe), allow_unproven=False)

    assert require(proof(MODEL, probe), allow_unproven=True) == UNPROVEN_WARNING


@pytest.mark.parametrize("probe", [THROUGH, KEY_INSIDE])
def test_open_wall_fails_whatever_was_accepted(probe: Probe) -> None:
    """A probe that got through and a key that was found always fail the launch."""
    with pytest.raises(ProofFailedError, match="the wall does not hold"):
        require(proof(MODEL, REFUSED, probe), allow_unproven=True)


def test_silent_model_fails_whatever_was_accepted() -> None:
    """Everything is refused where there is no network: that proves nothing."""
    with pytest.raises(ProofFailedError, match=r"model\.example did not answer from inside"):
        require(proof(NO_MODEL, REFUSED), allow_unproven=True)
