from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_magic.core.egress import EgressRecord
from opencode_magic.core.proof import Probe, Proof
from opencode_magic.core.status import (
    BLOCKED_PLACES_KEPT,
    BlockedPlace,
    EgressSeen,
    HealthChanged,
    Launched,
    LaunchFailed,
    LaunchStarted,
    LeaseExtended,
    Proved,
    Status,
    StatusEvent,
    Step,
    StepDone,
    StepFailed,
    StepStarted,
    StopStarted,
    TurnEnded,
    TurnStarted,
    Warned,
    WentDown,
    reduce,
)

STARTED = LaunchStarted(
    at_ms=1_000,
    home="local",
    home_reason="Linux with bubblewrap",
    sandbox_name="quiet-heron",
    steps=(Step("create", "Sandbox created"), Step("prove", "Prove the wall")),
    model="a/b",
    is_scripted=False,
    is_key_outside=True,
    allowed_hosts=("a.example",),
    has_egress_record=True,
)
LAUNCHED = Launched(is_proven=True, duration_s=1.2, server_version="1.18.33", expires_ms=9_000)
ANSWERED = Probe("a.example", "answers", "answered", "")
PROVEN = Proof((ANSWERED, Probe("x", "refused", "refused", "", is_wall_evidence=True)), 5_000, 0.1)
UNPROVEN = Proof((ANSWERED, Probe("x", "refused", "refused", "")), 6_000, 0.1)
BREACHED = Proof((ANSWERED, Probe("x", "refused", "got through", "")), 7_000, 0.1)
BLOCKED = EgressRecord(1, 0, "tls", "x.example", 443, "blocked", "not listed", program="pip")
ALLOWED = EgressRecord(2, 0, "tls", "a.example", 443, "allowed", "listed")


def _after(*events: StatusEvent) -> Status:
    status = Status()
    for event in events:
        status = reduce(status, event)
    return status


UP = _after(STARTED, LAUNCHED)


def test_launch_starts_anew() -> None:
    """A launch forgets what was before it."""
    dirty = replace(UP, turns=3, warnings=("old",), error="old", blocked_places=())

    assert reduce(dirty, STARTED) == Status(
        phase="launching",
        home="local",
        home_reason="Linux with bubblewrap",
        sandbox_name="quiet-heron",
        steps=STARTED.steps,
        launch_started_ms=1_000,
        model="a/b",
        is_key_outside=True,
        allowed_hosts=("a.example",),
        has_egress_record=True,
    )


def test_steps() -> None:
    """A step starts, and ends well or not; the others stay as they are."""
    status = _after(
        STARTED,
        StepStarted("create", 1_100),
        StepDone("create", 0.2, "quick"),
        StepStarted("prove", 1_300),
        StepFailed("prove", 0.3, "refused"),
        StepStarted("no such step", 1),
    )

    assert status.steps == (
        Step("create", "Sandbox created", "done", "quick", 1_100, 0.2),
        Step("prove", "Prove the wall", "failed", "refused", 1_300, 0.3),
    )


@pytest.mark.parametrize(("is_proven", "phase"), [(True, "locked"), (False, "unproven")])
def test_launched(*, is_proven: bool, phase: str) -> None:
    """A launch ends locked, or locked and not proven."""
    status = _after(STARTED, replace(LAUNCHED, is_proven=is_proven))

    assert (status.phase, status.health, status.expires_ms) == (phase, "healthy", 9_000)
    assert (status.server_version, status.launch_duration_s) == ("1.18.33", 1.2)


def test_launch_failed() -> None:
    """A launch that failed says why and what to do."""
    status = _after(STARTED, LaunchFailed("no bwrap", "install it"))

    assert (status.phase, status.error, status.next_step) == ("failed", "no bwrap", "install it")
    assert status.health == "unknown"


def test_launch_failed_keeps_the_last_lines() -> None:
    """The agent server's last lines are kept, cleaned, and at most twenty of them."""
    lines = ("", *(f"line {n}" for n in range(30)), "\x1b[2Jthe port is taken", "x" * 5_000)

    status = _after(STARTED, LaunchFailed("it ended", "look", lines))

    assert len(status.log_lines) == 20
    assert status.log_lines[-2] == "[2Jthe port is taken"
    assert len(status.log_lines[-1]) <= 600


@pytest.mark.parametrize(
    ("proof", "phase", "error"),
    [
        (PROVEN, "locked", ""),
        (UNPROVEN, "unproven", "old"),
        (BREACHED, "failed", "the proof failed"),
    ],
)
def test_proved(proof: Proof, phase: str, error: str) -> None:
    """A proof decides whether a running sandbox is locked; one that failed ends that."""
    status = reduce(replace(UP, error="old"), Proved(proof))

    assert (status.proof, status.phase, status.error) == (proof, phase, error)


def test_proof_while_launching() -> None:
    """A proof during the launch is kept, and the launch decides."""
    status = _after(STARTED, Proved(BREACHED))

    assert (status.phase, status.proof) == ("launching", BREACHED)


def test_egress() -> None:
    """Decisions are counted; a blocked place is kept with its count, program and reason."""
    status = _after(
        STARTED,
        EgressSeen((BLOCKED, ALLOWED, replace(ALLOWED, is_end=True))),
        EgressSeen((BLOCKED, replace(BLOCKED, program="curl", reason="other"))),
        EgressSeen((replace(ALLOWED, channel="dns"), replace(BLOCKED, port=80))),
    )

    assert (status.egress_allowed, status.egress_blocked) == (1, 4)
    assert status.blocked_places == (
        BlockedPlace("x.example", 443, 3, "not listed", "pip"),
        BlockedPlace("x.example", 80, 1, "not listed", "pip"),
    )


def test_many_blocked_places() -> None:
    """The latest places are kept, and the counts go on."""
    records = tuple(replace(BLOCKED, host=f"h{n}.example") for n in range(50))
    status = _after(STARTED, EgressSeen(records))

    assert status.egress_blocked == 50
    assert len(status.blocked_places) == BLOCKED_PLACES_KEPT
    assert status.blocked_places[-1].host == "h49.example"


def test_small_changes() -> None:
    """Health, lease and a running turn change only themselves."""
    assert reduce(UP, HealthChanged("unreachable")) == replace(UP, health="unreachable")
    assert reduce(UP, LeaseExtended(99)) == replace(UP, expires_ms=99)
    assert reduce(UP, TurnStarted()) == replace(UP, is_turn_running=True)
    assert reduce(UP, StopStarted()) == replace(UP, phase="stopping")


def test_warnings() -> None:
    """A warning is kept once."""
    status = reduce(reduce(reduce(UP, Warned("a")), Warned("b")), Warned("a"))

    assert status.warnings == ("a", "b")


@pytest.mark.parametrize(
    ("costs", "total"),
    [((0.5,), 0.5), ((0.5, 0.25), 0.75), ((None,), None), ((None, 0.5), None), ((0.5, None), None)],
)
def test_turns(costs: tuple[float | None, ...], total: float | None) -> None:
    """Turns add up; a cost that was unknown once stays unknown."""
    status = _after(STARTED, LAUNCHED, TurnStarted(), *(TurnEnded(100, cost) for cost in costs))

    assert (status.turns, status.tokens) == (len(costs), 100 * len(costs))
    assert status.cost == total
    assert not status.is_turn_running


@pytest.mark.parametrize(("error", "phase"), [("", "down"), ("killed", "failed")])
def test_went_down(error: str, phase: str) -> None:
    """A sandbox that is gone was ended, or failed."""
    status = reduce(replace(UP, is_turn_running=True), WentDown(error, "up again"))

    assert (status.phase, status.error, status.next_step) == (phase, error, "up again")
    assert (status.health, status.is_turn_running) == ("unknown", False)


EVENTS = st.sampled_from(
    [
        STARTED,
        LAUNCHED,
        StepStarted("create", 1),
        StepDone("prove", 1),
        StepFailed("x", 1),
        LaunchFailed("e"),
        Proved(PROVEN),
        Proved(UNPROVEN),
        Proved(BREACHED),
        EgressSeen((BLOCKED,)),
        HealthChanged("healthy"),
        LeaseExtended(1),
        TurnStarted(),
        TurnEnded(1, None),
        Warned("w"),
        StopStarted(),
        WentDown(),
        WentDown("e"),
    ]
)


@given(st.lists(EVENTS, max_size=20))
def test_breach_is_never_locked(events: list[StatusEvent]) -> None:
    """In whatever order events come, a proof that failed ends the locked state."""
    assert reduce(_after(*events), Proved(BREACHED)).phase not in {"locked", "unproven"}


@given(st.lists(EVENTS, max_size=20))
def test_events_do_not_edit(events: list[StatusEvent]) -> None:
    """The same events give the same status, and what was given stays as it was."""
    first = _after(*events)

    assert _after(*events) == first
    assert reduce(first, STARTED) == _after(STARTED)


def test_a_lookup_that_comes_in_two_batches_counts_once() -> None:
    """The second question of a look-up may arrive later than the first."""
    question = EgressRecord(1, 0, "dns", "example.com", 53, "blocked", "no", source_port=7)
    other = replace(question, source_port=8)
    status = Status()

    for batch in ((question,), (question,), (other, other), (), (other,)):
        status = reduce(status, EgressSeen(batch))

    assert status.egress_blocked == 2
    assert [place.count for place in status.blocked_places] == [2]
