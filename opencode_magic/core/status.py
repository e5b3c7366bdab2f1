"""What is known of the one sandbox, and the one function that changes it.

``sandbox/`` and ``session/`` emit the events; panel, ``%opencode_status`` and doctor are views.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, assert_never

from opencode_magic.core.egress import attempts, lookup_of
from opencode_magic.errors import clean_line

if TYPE_CHECKING:
    from opencode_magic.core.egress import EgressRecord
    from opencode_magic.core.proof import Proof

Home = Literal["local", "cloud"]
Phase = Literal["down", "launching", "locked", "unproven", "failed", "stopping"]
StepState = Literal["waiting", "running", "done", "failed"]
Health = Literal["unknown", "healthy", "unreachable"]

BLOCKED_PLACES_KEPT = 20
"""The panel lists at most so many blocked places; the counts go on."""

LOG_LINES_KEPT = 20
"""At most so many of the agent server's last lines are kept of a launch that failed."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a launch."""

    name: str
    """Stable, such as ``create``."""
    label: str
    """What a person reads, such as ``Sandbox, locked from the start``."""
    state: StepState = "waiting"
    detail: str = ""
    started_ms: int = 0
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class BlockedPlace:
    """A host and port that the firewall refused, how often, and why."""

    host: str
    port: int
    count: int
    reason: str
    program: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """Everything a view of the sandbox needs. Holds no secret."""

    phase: Phase = "down"
    home: Home | None = None
    home_reason: str = ""
    """Why this home was chosen; on the cloud home also that it bills."""
    sandbox_name: str = ""
    steps: tuple[Step, ...] = ()
    launch_started_ms: int = 0
    launch_duration_s: float = 0.0
    model: str = ""
    is_scripted: bool = False
    is_key_outside: bool = False
    """True where a real key is injected by the firewall and a placeholder stands inside."""
    allowed_hosts: tuple[str, ...] = ()
    health: Health = "unknown"
    server_version: str = ""
    expires_ms: int = 0
    proof: Proof | None = None
    egress_allowed: int = 0
    egress_blocked: int = 0
    blocked_places: tuple[BlockedPlace, ...] = ()
    last_lookup: tuple[str, int] | None = None
    """The look-up that the records so far ended with: its second question may follow."""
    has_egress_record: bool = False
    """Whether the home keeps an egress record (the local home does, the cloud home does not)."""
    turns: int = 0
    tokens: int = 0
    cost: float | None = None
    """US dollars so far, or None where it is not known."""
    is_turn_running: bool = False
    error: str = ""
    next_step: str = ""
    warnings: tuple[str, ...] = ()
    is_strict: bool = False
    """Whether the firewall reads plain allowed hosts too, so that fronting is impossible."""
    log_lines: tuple[str, ...] = ()
    """The agent server's last lines where the launch failed, oldest first."""


@dataclass(frozen=True, slots=True)
class LaunchStarted:
    """A launch begins with these steps, all waiting."""

    at_ms: int
    home: Home
    home_reason: str
    sandbox_name: str
    steps: tuple[Step, ...]
    model: str
    is_scripted: bool
    is_key_outside: bool
    allowed_hosts: tuple[str, ...]
    has_egress_record: bool
    is_strict: bool = False


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step runs now."""

    name: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step ended well."""

    name: str
    duration_s: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step failed; the launch ends."""

    name: str
    duration_s: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Launched:
    """The launch ended, proven or (where the user said so) unproven."""

    is_proven: bool
    duration_s: float
    server_version: str
    expires_ms: int


@dataclass(frozen=True, slots=True)
class LaunchFailed:
    """The launch failed and was cleaned up. ``log_lines`` are the agent server's last ones."""

    error: str
    next_step: str = ""
    log_lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proved:
    """A proof was made. One that failed ends the locked state."""

    proof: Proof


@dataclass(frozen=True, slots=True)
class EgressSeen:
    """The firewall decided something."""

    records: tuple[EgressRecord, ...]


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """The agent server answers, or does not."""

    health: Health


@dataclass(frozen=True, slots=True)
class LeaseExtended:
    """The sandbox may live until then (Unix time in ms)."""

    expires_ms: int


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """A turn runs."""


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """A turn ended. ``cost`` is None where it is not known."""

    tokens: int
    cost: float | None


@dataclass(frozen=True, slots=True)
class Warned:
    """Something the user should know; shown until the sandbox is down."""

    text: str


@dataclass(frozen=True, slots=True)
class StopStarted:
    """The sandbox is being removed."""


@dataclass(frozen=True, slots=True)
class WentDown:
    """The sandbox is gone. ``error`` is empty where that was wanted."""

    error: str = ""
    next_step: str = ""


StatusEvent = (
    LaunchStarted
    | StepStarted
    | StepDone
    | StepFailed
    | Launched
    | LaunchFailed
    | Proved
    | EgressSeen
    | HealthChanged
    | LeaseExtended
    | TurnStarted
    | TurnEnded
    | Warned
    | StopStarted
    | WentDown
)


def reduce(status: Status, event: StatusEvent) -> Status:  # noqa: C901, PLR0911, PLR0912 - one arm an event
    """Give the status after an event. Never raises; never edits what it was given."""
    match event:
        case LaunchStarted():
            return Status(
                phase="launching",
                home=event.home,
                home_reason=event.home_reason,
                sandbox_name=event.sandbox_name,
                steps=event.steps,
                launch_started_ms=event.at_ms,
                model=event.model,
                is_scripted=event.is_scripted,
                is_key_outside=event.is_key_outside,
                allowed_hosts=event.allowed_hosts,
                has_egress_record=event.has_egress_record,
                is_strict=event.is_strict,
            )
        case StepStarted():
            return _with_step(status, event.name, state="running", started_ms=event.at_ms)
        case StepDone():
            return _with_step(
                status, event.name, state="done", duration_s=event.duration_s, detail=event.detail
            )
        case StepFailed():
            return _with_step(
                status, event.name, state="failed", duration_s=event.duration_s, detail=event.detail
            )
        case Launched():
            return replace(
                status,
                phase="locked" if event.is_proven else "unproven",
                launch_duration_s=event.duration_s,
                server_version=event.server_version,
                expires_ms=event.expires_ms,
                health="healthy",
            )
        case LaunchFailed():
            return replace(
                status,
                phase="failed",
                error=event.error,
                next_step=event.next_step,
                health="unknown",
                log_lines=_last_lines(event.log_lines),
            )
        case Proved():
            return _with_proof(status, event.proof)
        case EgressSeen():
            return _with_records(status, event.records)
        case HealthChanged():
            return replace(status, health=event.health)
        case LeaseExtended():
            return replace(status, expires_ms=event.expires_ms)
        case TurnStarted():
            return replace(status, is_turn_running=True)
        case TurnEnded():
            return _with_turn(status, event)
        case Warned():
            if event.text in status.warnings:
                return status
            return replace(status, warnings=(*status.warnings, event.text))
        case StopStarted():
            return replace(status, phase="stopping")
        case WentDown():
            return replace(
                status,
                phase="failed" if event.error else "down",
                health="unknown",
                is_turn_running=False,
                error=event.error,
                next_step=event.next_step,
            )
        case _ as never:
            assert_never(never)


def _last_lines(lines: tuple[str, ...]) -> tuple[str, ...]:
    cleaned = (clean_line(line) for line in lines)
    return tuple(line for line in cleaned if line)[-LOG_LINES_KEPT:]


def _with_step(
    status: Status,
    name: str,
    *,
    state: StepState,
    started_ms: int | None = None,
    duration_s: float = 0.0,
    detail: str = "",
) -> Status:
    steps = tuple(
        replace(
            step,
            state=state,
            detail=detail,
            duration_s=duration_s,
            started_ms=step.started_ms if started_ms is None else started_ms,
        )
        if step.name == name
        else step
        for step in status.steps
    )
    return replace(status, steps=steps)


def _with_proof(status: Status, proof: Proof) -> Status:
    if status.phase not in {"locked", "unproven"}:
        return replace(status, proof=proof)
    match proof.verdict:
        case "proven":
            return replace(status, proof=proof, phase="locked", error="", next_step="")
        case "unproven":
            return replace(status, proof=proof, phase="unproven")
        case "failed":
            return replace(status, proof=proof, phase="failed", error="the proof failed")
        case _ as never:
            assert_never(never)


def _with_records(status: Status, records: tuple[EgressRecord, ...]) -> Status:
    allowed, blocked = status.egress_allowed, status.egress_blocked
    counts: Counter[tuple[str, int]] = Counter()
    kept: dict[tuple[str, int], BlockedPlace] = {
        (place.host, place.port): place for place in status.blocked_places
    }
    for record in attempts(records, last_lookup=status.last_lookup):
        if record.verdict == "blocked":
            blocked += 1
            place = (record.host, record.port)
            counts[place] += 1
            if place not in kept:
                kept[place] = BlockedPlace(
                    record.host, record.port, 0, record.reason, record.program
                )
        elif record.channel != "dns":
            allowed += 1
    places = [
        replace(place, count=place.count + counts[host_port]) for host_port, place in kept.items()
    ]
    return replace(
        status,
        egress_allowed=allowed,
        egress_blocked=blocked,
        blocked_places=tuple(places[-BLOCKED_PLACES_KEPT:]),
        last_lookup=lookup_of(records[-1]) if records else status.last_lookup,
    )


def _with_turn(status: Status, event: TurnEnded) -> Status:
    is_first = status.turns == 0
    cost: float | None = None
    if event.cost is not None and (is_first or status.cost is not None):
        cost = event.cost + (status.cost or 0.0)
    return replace(
        status,
        turns=status.turns + 1,
        tokens=status.tokens + event.tokens,
        cost=cost,
        is_turn_running=False,
    )
