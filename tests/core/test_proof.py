from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_magic.core.proof import Must, Probe, Proof, ProofVerdict, Seen

ANSWERED = Probe("model.example", "answers", "answered", "HTTP 200")
REFUSED = Probe("example.com", "refused", "refused", "record 0001", is_wall_evidence=True)
NO_EVIDENCE = Probe("example.com", "refused", "refused", "no route")
ABSENT = Probe("the key", "absent", "absent", "environment")

PROBES = st.builds(
    Probe,
    asked=st.just("x"),
    must=st.sampled_from(get_args(Must)),
    seen=st.sampled_from(get_args(Seen)),
    evidence=st.just(""),
    is_wall_evidence=st.booleans(),
)


@pytest.mark.parametrize(
    ("must", "seen", "is_as_it_must"),
    [
        ("answers", "answered", True),
        ("answers", "no answer", False),
        ("answers", "refused", False),
        ("refused", "refused", True),
        ("refused", "no answer", False),
        ("refused", "got through", False),
        ("absent", "absent", True),
        ("absent", "present", False),
    ],
)
def test_probe(must: Must, seen: Seen, *, is_as_it_must: bool) -> None:
    """A probe is as it must be only where exactly that was seen."""
    assert Probe("x", must, seen, "").is_as_it_must is is_as_it_must


@pytest.mark.parametrize(
    ("probes", "verdict"),
    [
        ((ANSWERED, REFUSED, ABSENT), "proven"),
        ((ANSWERED, REFUSED), "proven"),
        ((ANSWERED, REFUSED, NO_EVIDENCE), "proven"),
        ((ANSWERED, NO_EVIDENCE, ABSENT), "unproven"),
        ((ANSWERED,), "unproven"),
        ((ANSWERED, ABSENT), "unproven"),
        ((ANSWERED, REFUSED, Probe("x", "refused", "no answer", "")), "unproven"),
        ((ANSWERED, REFUSED, Probe("x", "refused", "got through", "")), "failed"),
        ((ANSWERED, REFUSED, Probe("x", "absent", "present", "")), "failed"),
        ((Probe("x", "answers", "no answer", ""), REFUSED), "failed"),
        ((REFUSED, ABSENT), "failed"),
        ((), "failed"),
    ],
)
def test_verdict(probes: tuple[Probe, ...], verdict: ProofVerdict) -> None:
    """Proven needs an answer, nothing that got through, and a refusal that is the wall's own."""
    assert Proof(probes, at_ms=0, duration_s=0.1).verdict == verdict


def test_no_network_is_not_proven() -> None:
    """A machine without any network does not look proven: the model does not answer there."""
    dead = (
        Probe("model.example", "answers", "no answer", "no route"),
        Probe("example.com", "refused", "no answer", "no route"),
    )

    assert Proof(dead, at_ms=0, duration_s=0.1).verdict == "failed"


@given(st.lists(PROBES, max_size=6))
def test_breach_always_fails(probes: list[Probe]) -> None:
    """Whatever else was seen, a probe that got through or a key that was found fails the proof."""
    proof = Proof((*probes, Probe("x", "refused", "got through", "")), at_ms=0, duration_s=0)
    found = Proof((Probe("x", "absent", "present", ""), *probes), at_ms=0, duration_s=0)

    assert proof.verdict == found.verdict == "failed"


@given(st.lists(PROBES, max_size=6))
def test_proven_needs_evidence(probes: list[Probe]) -> None:
    """Nothing is proven without a refusal that the wall is known to have made."""
    proof = Proof(tuple(probes), at_ms=0, duration_s=0)
    has_evidence = any(
        probe.must == "refused" and probe.seen == "refused" and probe.is_wall_evidence
        for probe in probes
    )

    assert proof.verdict != "proven" or has_evidence


@given(st.lists(PROBES, max_size=6), st.randoms())
def test_order_is_nothing(probes: list[Probe], random: object) -> None:
    """The order of the probes does not change the verdict."""
    shuffled = sorted(probes, key=lambda _probe: random.random())  # type: ignore[attr-defined] # - Random

    assert Proof(tuple(probes), 0, 0).verdict == Proof(tuple(shuffled), 0, 0).verdict
