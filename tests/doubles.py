"""The few stand-ins that the tests need, each with a test of its own in ``test_doubles.py``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from opencode_magic.core.proof import Probe, Proof
from opencode_magic.core.status import Launched, LaunchStarted, Proved, Step, StepDone

if TYPE_CHECKING:
    from collections.abc import Callable

    from opencode_magic.core.conversation import Turn
    from opencode_magic.core.egress import EgressRecord
    from opencode_magic.core.status import StatusEvent
    from opencode_magic.session.agent import Agent
    from opencode_magic.session.seams import RunningSandbox
    from opencode_magic.settings import Settings

PROOF = Proof(
    (
        Probe("demo-model.internal", "answers", "answered", "HTTP 200"),
        Probe("example.com by name", "refused", "refused", "record 0001", is_wall_evidence=True),
    ),
    at_ms=1_700_000_000_000,
    duration_s=0.2,
)


@dataclass(frozen=True)
class StandInGone:
    """What a stand-in removed and kept."""

    removed: tuple[str, ...] = ("the sandbox",)
    kept: tuple[str, ...] = ()


@dataclass
class StandInSandbox:
    """A sandbox that is only remembered: for what a session does around the real one."""

    name: str = "ocm-quiet-heron"
    records: tuple[EgressRecord, ...] = ()
    kept: tuple[str, ...] = ()
    has_egress_record: bool = True
    is_running: bool = True
    calls: list[str] = field(default_factory=list)
    emit: Callable[[StatusEvent], None] = lambda _event: None

    @property
    def last_seq(self) -> int:
        """The number of the last record."""
        return self.records[-1].seq if self.records else 0

    def records_since(self, seq: int, *, settle_s: float = 0.0) -> tuple[EgressRecord, ...]:
        """Give the records after a number."""
        self.calls.append(f"records_since settle {settle_s > 0}")
        return tuple(record for record in self.records if record.seq > seq)

    def prove(self) -> Proof:
        """Give a proof that holds."""
        self.emit(Proved(PROOF))
        return PROOF

    def is_alive(self) -> bool:
        """Whether nobody has ended it."""
        return self.is_running

    def extend(self, duration_s: float) -> int:
        """Remember it."""
        self.calls.append(f"extend {duration_s}")
        return 0

    def cut_model(self) -> bool:
        """Remember it."""
        self.calls.append("cut_model")
        return True

    def end_server(self) -> None:
        """Remember it."""
        self.calls.append("end_server")

    def terminate(self, *, timeout_s: float = 10.0, keep: bool = True) -> StandInGone:
        """End it."""
        self.calls.append(f"terminate {timeout_s:g} keep {keep}")
        self.is_running = False
        return StandInGone(kept=self.kept if keep else ())


def launch_events(name: str = "ocm-quiet-heron") -> tuple[StatusEvent, ...]:
    """Give the events of a short launch that ends proven."""
    return (
        LaunchStarted(
            at_ms=1_700_000_000_000,
            home="local",
            home_reason="Linux with bubblewrap",
            sandbox_name=name,
            steps=(Step("create", "Sandbox, locked from the start"),),
            model="demo-model/scripted",
            is_scripted=True,
            is_key_outside=False,
            allowed_hosts=("demo-model.internal",),
            has_egress_record=True,
        ),
        StepDone("create", 0.1),
        Proved(PROOF),
        Launched(is_proven=True, duration_s=0.4, server_version="1.18.33", expires_ms=0),
    )


class RecordingView:
    """A view that keeps what it was shown."""

    def __init__(self) -> None:
        self.frames: list[tuple[Turn, bool]] = []

    def show(self, turn: Turn, *, is_final: bool = False) -> None:
        """Keep it."""
        self.frames.append((turn, is_final))


class StandInAgent:
    """An agent that only remembers that it was closed."""

    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        """Remember it."""
        self.is_closed = True


class StandInStarter:
    """Starts a stand-in sandbox, or fails after the first event, or after the last one."""

    def __init__(
        self,
        sandbox: StandInSandbox,
        *,
        error: BaseException | None = None,
        late_error: BaseException | None = None,
    ) -> None:
        self.agent = StandInAgent()
        self.starts = 0
        self._sandbox = sandbox
        self._error = error
        self._late_error = late_error

    def __call__(
        self,
        settings: Settings,  # noqa: ARG002 - the Protocol's
        *,
        allow_unproven: bool,  # noqa: ARG002 - the Protocol's
        emit: Callable[[StatusEvent], None],
        on_made: Callable[[RunningSandbox], None],
    ) -> Agent:
        """Emit a launch, hand over what was launched, and give its agent."""
        self.starts += 1
        first, *others = launch_events(self._sandbox.name)
        emit(first)
        if self._error is not None:
            raise self._error
        on_made(self._sandbox)
        for event in others:
            emit(event)
        self._sandbox.emit = emit
        if self._late_error is not None:
            raise self._late_error
        # A session only closes its agent; what else an agent can is tested with the real one.
        return cast("Agent", self.agent)
