from __future__ import annotations

from dataclasses import replace
from datetime import UTC

import pytest

from opencode_magic.core.proof import Probe, Proof
from opencode_magic.core.status import BlockedPlace, Status
from opencode_magic.render.cards import doctor_blocks, down_blocks, proof_blocks, status_blocks
from opencode_magic.render.shapes import Notice, Span
from opencode_magic.render.text import render_text
from tests.render.samples import (
    CHECKS,
    CLOUD,
    LAUNCHING,
    LOCKED,
    NOON_MS,
    NOT_LAUNCHED,
    PROOF,
    Down,
)

SESSION = "Session 3 turns, 4.1k tokens, $0.0412"


def _lines(status: Status, now_ms: int = NOON_MS) -> list[str]:
    return render_text(status_blocks(status, now_ms, zone=UTC)).split("\n")


TIME = "(at most 43 min without its kernel)"


@pytest.mark.parametrize(
    ("status", "first"),
    [
        (Status(), "Down  no sandbox is running"),
        (LAUNCHING, "Launching  local home  (1.1 s)"),
        (replace(LAUNCHING, home=None, launch_started_ms=0), "Launching"),
        (LOCKED, "[✓ Locked]  quiet-heron  local home  proven 12:04:31  " + TIME),
        (replace(LOCKED, proof=None, expires_ms=0), "[✓ Locked]  quiet-heron  local home"),
        (
            replace(LOCKED, phase="unproven", is_turn_running=True),
            "[Locked, not proven from here]  quiet-heron  local home  a turn runs  " + TIME,
        ),
        (
            replace(LOCKED, proof=None, expires_ms=0, health="unreachable", sandbox_name=""),
            "[✓ Locked]  local home  the agent server does not answer",
        ),
        (replace(LOCKED, phase="stopping"), "Stopping  quiet-heron  local home"),
        (replace(LOCKED, phase="failed", error="killed"), "[Failed]  quiet-heron  local home"),
    ],
)
def test_state_first(status: Status, first: str) -> None:
    """The first words of the panel are the state."""
    assert _lines(status)[0] == first


def test_failed_launch_shows_its_steps() -> None:
    """A launch that failed shows the step and the next thing to do."""
    lines = _lines(NOT_LAUNCHED)

    assert "  ✗ Agent server starting  (10.0 s)" in lines
    assert lines[-1] == (
        "Not launched: the agent server did not answer within 10 s. Next: %opencode_doctor"
    )


@pytest.mark.parametrize("says_error", [True, False])
def test_failed_launch_shows_the_last_lines(*, says_error: bool) -> None:
    """What the agent server said last is shown, also where the cell raises the error itself."""
    failed = replace(NOT_LAUNCHED, log_lines=("listening", "error: out of memory"))

    text = render_text(status_blocks(failed, 0, says_error=says_error))

    assert text.endswith(
        "[the agent server's last 2 lines]\n    listening\n    error: out of memory"
    )


def test_failed_later() -> None:
    """A sandbox that failed after its launch shows no steps, and why without a next step."""
    failed = replace(LOCKED, phase="failed", error="the sandbox ended", next_step="")

    assert _lines(failed)[1:] == ["Failed: the sandbox ended"]


def test_scripted() -> None:
    """The panel says plainly that a model is scripted."""
    assert _lines(LOCKED)[1] == (
        "Model demo-model/scripted  [scripted]  Key none inside  "
        "Session 3 turns, 4.1k tokens, no cost"
    )


def test_cloud() -> None:
    """A home without a record says so, and shows no counts."""
    lines = _lines(CLOUD)

    assert lines[1:] == [
        f"Model anthropic/claude-sonnet-4-5  Key outside, a placeholder stands inside  {SESSION}",
        "May leave api.anthropic.com  (this home keeps no record)",
        "Note: the cloud home bills for the time that the sandbox lives",
    ]


def test_hosts() -> None:
    """Many hosts are counted, none is said; a session without a turn says that."""
    hosts = tuple(f"h{n}.example" for n in range(6))
    many = _lines(replace(LOCKED, allowed_hosts=hosts, turns=0, egress_blocked=0))
    stopped = _lines(replace(LOCKED, turns=1, tokens=0))
    none = _lines(replace(LOCKED, allowed_hosts=(), model=""))

    assert many[2].startswith(
        "May leave h0.example  h1.example  h2.example  h3.example  and 2 more  Allowed 12"
    )
    assert "Blocked 0" in many[2]
    assert many[1].endswith("Session no turn yet")
    assert stopped[1].endswith("Session 1 turn, no cost")
    assert none[2].startswith("May leave nothing")
    assert none[1].startswith("Model none")


def test_a_card_that_nothing_follows() -> None:
    """A card that will not change says as of when it is; one of an end needs no time."""
    later = status_blocks(LOCKED, NOON_MS + 1_000, zone=UTC, is_last=True)
    down = status_blocks(replace(LOCKED, phase="down"), NOON_MS, zone=UTC, is_last=True)

    assert "(as of 12:04:32)" in render_text(later).split("\n")[0]
    assert "as of" not in render_text(down)


def test_next_step_stands_out() -> None:
    """A command in the next step is shown as one, here as in an error."""
    failed = replace(NOT_LAUNCHED, next_step="run %opencode_doctor")
    (notice,) = (b for b in status_blocks(failed, NOON_MS) if isinstance(b, Notice))

    assert notice.line[-1] == Span("%opencode_doctor", form="code")


def test_strict() -> None:
    """A firewall that reads everything says so beside the hosts."""
    assert "  [strict]  Allowed" in _lines(replace(LOCKED, is_strict=True))[2]


def test_blocked_places() -> None:
    """The last five blocked places are shown, the latest first."""
    places = tuple(BlockedPlace(f"h{n}.example", n % 2, n + 1, "no", "pip") for n in range(7))
    lines = _lines(replace(LOCKED, blocked_places=places))

    assert lines[-1] == "and 2 more"
    assert [line for line in lines if line.startswith("[Blocked]")] == [
        "[Blocked]  h6.example  by pip, 7 times  (no)",
        "[Blocked]  h5.example  port 1, by pip, 6 times  (no)",
        "[Blocked]  h4.example  by pip, 5 times  (no)",
        "[Blocked]  h3.example  port 1, by pip, 4 times  (no)",
        "[Blocked]  h2.example  by pip, 3 times  (no)",
    ]


def test_blocked_place_without_port_or_program() -> None:
    """A place of which only the host is known says how often."""
    lines = _lines(replace(LOCKED, blocked_places=(BlockedPlace("h.example", 0, 2, "no"),)))

    assert lines[-1] == "[Blocked]  h.example  twice  (no)"


def test_steps_wait_for_their_time() -> None:
    """A step that runs and has no start yet shows no time."""
    steps = tuple(replace(step, started_ms=0) for step in LAUNCHING.steps)

    assert "  ● Agent server starting" in _lines(replace(LAUNCHING, steps=steps))


@pytest.mark.parametrize(
    ("probe", "seen"),
    [
        (Probe("a", "answers", "answered", "", duration_s=0.0042), "✓ answered in 4 ms"),
        (Probe("a", "answers", "no answer", ""), "✗ no answer"),
        (Probe("a", "refused", "refused", ""), "✓ refused"),
        (Probe("a", "refused", "no answer", ""), "! no answer"),
        (Probe("a", "refused", "got through", ""), "✗ got through"),
        (Probe("a", "absent", "present", ""), "✗ present"),
    ],
)
def test_probe(probe: Probe, seen: str) -> None:
    """What was seen has a mark beside its colour."""
    proof = Proof((probe,), NOON_MS, 0.2)

    assert seen in render_text(proof_blocks(proof, zone=UTC))


def test_proof_head() -> None:
    """The verdict stands first."""
    assert render_text(proof_blocks(PROOF, zone=UTC)).startswith(
        "[✓ Proven]  12:04:31, four probes in 0.20 s"
    )


@pytest.mark.parametrize(
    ("count", "head"),
    [
        (2, "[✓ Ready]  2 checks, 2 ok"),
        (3, "[! 1 warning]  3 checks, 2 ok"),
        (4, "[✗ 1 blocked]  4 checks, 2 ok"),
    ],
)
def test_doctor_head(count: int, head: str) -> None:
    """The doctor's first words are the worst that it found."""
    assert render_text(doctor_blocks(CHECKS[:count])).split("\n")[0] == head


def test_down() -> None:
    """An end says what was removed and what was kept; without a sandbox it says that."""
    assert render_text(down_blocks(Down("a", ("the sandbox",)))).split("\n") == [
        "Down  a",
        "Removed the sandbox",
        "Kept nothing",
    ]
    assert render_text(down_blocks(Down(""))) == "Down  there was no sandbox"
