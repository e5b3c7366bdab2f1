"""Status, proof, checks and the end of a sandbox -> cards."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, assert_never

from opencode_magic.render import words
from opencode_magic.render.sentences import with_next
from opencode_magic.render.shapes import (
    Card,
    Code,
    Fold,
    Line,
    Notice,
    Row,
    Span,
    StepRow,
    Steps,
    Table,
)
from opencode_magic.render.visible import visible_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import tzinfo

    from opencode_magic.core.checks import Check
    from opencode_magic.core.proof import Probe, Proof
    from opencode_magic.core.status import BlockedPlace, Status, Step
    from opencode_magic.render.shapes import Block, Tone

BLOCKED_SHOWN = 5
HOSTS_SHOWN = 4


class Down(Protocol):
    """What is said when a sandbox is gone."""

    @property
    def sandbox_name(self) -> str:
        """Its name; empty where there was none."""

    @property
    def removed(self) -> Sequence[str]:
        """What was removed, one phrase each."""

    @property
    def kept(self) -> Sequence[str]:
        """What was kept, and where, one phrase each."""


def status_blocks(
    status: Status,
    now_ms: int,
    *,
    zone: tzinfo | None = None,
    says_error: bool = True,
    is_last: bool = False,
) -> tuple[Block, ...]:
    """Give the panel's cards.

    Args:
        status: What is known.
        now_ms: The time, in Unix milliseconds: what is left, and how long a step runs.
        zone: Where the clock is read; the reader's own zone where none is named.
        says_error: Whether the status' error is said; False where the cell raises it anyway.
        is_last: Whether the card will not change any more; it then says as of when it is.
    """
    if not says_error:
        status = replace(status, error="")
    match status.phase:
        case "down":
            return (Card(_ended_rows(status, zone)), *_trouble(status))
        case "launching":
            return (
                Card((_launching_row(status, now_ms), _steps(status, now_ms))),
                *_trouble(status),
            )
        case "locked" | "unproven":
            return (
                Card(_running_rows(status, now_ms, zone, is_last=is_last)),
                *_blocked_cards(status),
                *_trouble(status),
            )
        case "failed":
            head = Row((_pill("Failed", "bad"), *_name(status)))
            steps = (_steps(status, now_ms),) if _is_half_launched(status) else ()
            return (Card((head, *steps)), *_trouble(status), *log_blocks(status.log_lines))
        case "stopping":
            return (Card((Row((_strong("Stopping"), *_name(status))),)),)
        case _ as never:
            assert_never(never)


def proof_blocks(proof: Proof, *, zone: tzinfo | None = None) -> tuple[Block, ...]:
    """Give every probe: what was asked, what must be seen, what was, and the evidence."""
    probes = words.spelled(len(proof.probes), "probe")
    said = f"{words.clock(proof.at_ms, zone)}, {probes} in {words.seconds(proof.duration_s)}"
    verdicts: dict[str, Span] = {
        "proven": _pill("✓ Proven", "good"),
        "unproven": _pill("Not proven", "warn"),
        "failed": _pill("✗ Failed", "bad"),
    }
    table = Table(
        ("Asked from inside", "Must", "Seen", "Evidence"),
        tuple(_probe_cells(probe) for probe in proof.probes),
    )
    return (Card((Row((verdicts[proof.verdict], _muted(said))), table)),)


def doctor_blocks(checks: Sequence[Check]) -> tuple[Block, ...]:
    """Give every check with its state and, where there is one, the next step."""
    counts = {
        state: sum(1 for check in checks if check.state == state)
        for state in ("ok", "warning", "blocked")
    }
    if counts["blocked"]:
        head = _pill(f"✗ {counts['blocked']} blocked", "bad")
    elif counts["warning"]:
        head = _pill(f"! {words.plural(counts['warning'], 'warning')}", "warn")
    else:
        head = _pill("✓ Ready", "good")
    said = _muted(f"{words.plural(len(checks), 'check')}, {counts['ok']} ok")
    rows = tuple(_check_cells(check) for check in checks)
    return (Card((Row((head, said)), Table(("Looked at", "State", "Seen", "Next"), rows))),)


def down_blocks(report: Down) -> tuple[Block, ...]:
    """Give what was removed and what was kept."""
    if not report.sandbox_name:
        return (Card((Row((_strong("Down"), _muted("there was no sandbox"))),)),)
    rows: list[Block] = [Row((_strong("Down"), _muted(visible_line(report.sandbox_name))))]
    for title, phrases in (("Removed", report.removed), ("Kept", report.kept)):
        said = ", ".join(visible_line(phrase) for phrase in phrases) or "nothing"
        rows.append(Row((_muted(title), Span(said))))
    return (Card(tuple(rows)),)


def log_blocks(lines: Sequence[str]) -> tuple[Block, ...]:
    """Give the agent server's last lines as a fold that is open; nothing where there are none."""
    if not lines:
        return ()
    title = f"the agent server's last {words.plural(len(lines), 'line')}"
    code = Code("\n".join(visible_line(line, limit_chars=600) for line in lines))
    return (Fold((_muted(title),), body=(code,), is_open=True),)


def _launching_row(status: Status, now_ms: int) -> Row:
    took = words.seconds(max(0, now_ms - status.launch_started_ms) / 1000)
    left = (_strong("Launching"), *_home(status))
    return Row(left, (_muted(took),) if status.launch_started_ms else ())


def _steps(status: Status, now_ms: int) -> Steps:
    rows = tuple(_step_row(step, now_ms) for step in status.steps)
    if status.phase != "launching":
        return Steps(rows)
    done = sum({"done": 1.0, "running": 0.5}.get(step.state, 0.0) for step in status.steps)
    return Steps(rows, done / max(1, len(rows)))


def _step_row(step: Step, now_ms: int) -> StepRow:
    label, detail = visible_line(step.label), visible_line(step.detail)
    match step.state:
        case "waiting":
            return StepRow("○", "muted", label, detail)
        case "running":
            took = max(0, now_ms - step.started_ms) / 1000
            right = words.seconds(took) if step.started_ms else ""
            return StepRow("●", "active", label, detail, right)
        case "done":
            return StepRow("✓", "good", label, detail, words.seconds(step.duration_s))
        case "failed":
            return StepRow("✗", "bad", label, detail, words.seconds(step.duration_s))
        case _ as never:
            assert_never(never)


def _running_rows(
    status: Status, now_ms: int, zone: tzinfo | None, *, is_last: bool
) -> tuple[Row, ...]:
    left = words.time_left(status.expires_ms - now_ms) if status.expires_ms else ""
    said = f"as of {words.clock(now_ms, zone)}" if is_last else left
    right = (_muted(said),) if said else ()
    return (Row(_verdict(status, zone), right), _model_row(status), _egress_row(status))


def _ended_rows(status: Status, zone: tzinfo | None) -> tuple[Row, ...]:
    """Say that nothing runs, and what there was: a saved notebook keeps this card."""
    if not status.sandbox_name:
        return (Row((_strong("Down"), _muted("no sandbox is running"))),)
    line = [_strong("Down"), *_name(status)]
    if status.proof is not None and status.proof.verdict == "proven":
        line.append(_muted(f"was proven {words.clock(status.proof.at_ms, zone)}"))
    head = Row(tuple(line), (_muted("no sandbox is running"),))
    return (head, _model_row(status), _egress_row(status)) if status.model else (head,)


def _verdict(status: Status, zone: tzinfo | None) -> Line:
    line: list[Span] = []
    if status.phase == "locked":
        line += [_pill("✓ Locked", "good"), *_name(status)]
    else:
        line += [_pill("Locked, not proven from here", "warn"), *_name(status)]
    if status.proof is not None and status.phase == "locked":
        line.append(_muted(f"proven {words.clock(status.proof.at_ms, zone)}"))
    if status.health == "unreachable":
        line.append(Span("the agent server does not answer", "bad", "strong"))
    if status.is_turn_running:
        line.append(Span("a turn runs", "active"))
    return tuple(line)


def _model_row(status: Status) -> Row:
    line = [_muted("Model"), Span(visible_line(status.model) or "none")]
    if status.is_scripted:
        line.append(_pill("scripted", "warn"))
    key = "outside, a placeholder stands inside" if status.is_key_outside else "none inside"
    cost = "no cost" if status.is_scripted else words.cost(status.cost)
    tokens = (words.tokens(status.tokens),) if status.tokens else ()
    said = ", ".join((words.plural(status.turns, "turn"), *tokens, cost))
    session = [_muted("Session"), Span(said if status.turns else "no turn yet")]
    return Row((*line, _muted("Key"), Span(key), *session))


def _egress_row(status: Status) -> Row:
    hosts = [Span(visible_line(host), form="code") for host in status.allowed_hosts[:HOSTS_SHOWN]]
    more = len(status.allowed_hosts) - len(hosts)
    if more:
        hosts.append(_muted(f"and {more} more"))
    line = [_muted("May leave"), *(hosts or [Span("nothing")])]
    if status.is_strict:
        line.append(_pill("strict", "good"))
    if not status.has_egress_record:
        return Row(tuple(line), (_muted("this home keeps no record"),))
    blocked = str(status.egress_blocked)
    count = Span(blocked, "warn", "strong") if status.egress_blocked else Span(blocked)
    line += [_muted("Allowed"), Span(str(status.egress_allowed)), _muted("Blocked"), count]
    return Row(tuple(line), (_muted("from the firewall's record"),))


def _blocked_cards(status: Status) -> tuple[Block, ...]:
    """Give the last blocked places, the latest first, and how many others there are."""
    latest = status.blocked_places[: -BLOCKED_SHOWN - 1 : -1]
    more = len(status.blocked_places) - len(latest)
    others = (Row((_muted(f"and {more} more"),)),) if more else ()
    return (*map(_blocked_card, latest), *others)


def _blocked_card(place: BlockedPlace) -> Card:
    by = f", by {visible_line(place.program, limit_chars=40)}" if place.program else ""
    times = {1: "once", 2: "twice"}.get(place.count, f"{place.count} times")
    where = f"port {place.port}{by}, {times}" if place.port else f"{by[2:]}, {times}".lstrip(", ")
    left = (
        _pill("Blocked", "warn"),
        Span(visible_line(place.host, limit_chars=100), form="code"),
        _muted(where),
    )
    return Card((Row(left, (_muted(visible_line(place.reason, limit_chars=100)),)),))


def _probe_cells(probe: Probe) -> tuple[Line, ...]:
    is_answer = probe.seen == "answered"
    seen = f"answered in {probe.duration_s * 1000:.0f} ms" if is_answer else probe.seen
    return (
        (Span(visible_line(probe.asked)),),
        (_muted(probe.must),),
        (_seen(probe, seen),),
        (_muted(visible_line(probe.evidence)),),
    )


def _seen(probe: Probe, words_: str) -> Span:
    if probe.is_as_it_must:
        return Span(f"✓ {words_}", "good")
    if probe.must == "answers" or probe.seen in {"got through", "present"}:
        return Span(f"✗ {words_}", "bad")
    return Span(f"! {words_}", "warn")


def _check_cells(check: Check) -> tuple[Line, ...]:
    states = {
        "ok": Span("✓ ok", "good"),
        "warning": Span("! warning", "warn"),
        "blocked": Span("✗ blocked", "bad"),
    }
    return (
        (Span(visible_line(check.name)),),
        (states[check.state],),
        (_muted(visible_line(check.detail, limit_chars=600)),),
        (Span(visible_line(check.next_step, limit_chars=600)),),
    )


def _trouble(status: Status) -> tuple[Block, ...]:
    blocks: list[Block] = []
    if status.error:
        heading = "Not launched:" if _is_half_launched(status) else "Failed:"
        error = visible_line(status.error, limit_chars=600)
        line = with_next(error, visible_line(status.next_step))
        blocks.append(Notice("bad", heading, line))
    blocks.extend(
        Notice("warn", "Note:", (Span(visible_line(text, limit_chars=600)),))
        for text in status.warnings
    )
    return tuple(blocks)


def _is_half_launched(status: Status) -> bool:
    return bool(status.steps) and any(step.state != "done" for step in status.steps)


def _name(status: Status) -> Line:
    name = (_strong(visible_line(status.sandbox_name)),) if status.sandbox_name else ()
    return (*name, *_home(status))


def _home(status: Status) -> Line:
    return (_muted(f"{status.home} home"),) if status.home else ()


def _strong(text: str) -> Span:
    return Span(text, form="strong")


def _muted(text: str) -> Span:
    return Span(text, "muted")


def _pill(text: str, tone: Tone) -> Span:
    return Span(text, tone, "pill")
