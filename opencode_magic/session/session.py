"""One notebook's use of a sandbox: its status, its conversation with the agent, its sure end."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from opencode_magic.core.status import (
    LaunchFailed,
    Status,
    StopStarted,
    WentDown,
    reduce,
)
from opencode_magic.errors import NotLaunchedError, OpencodeMagicError, UsageMistake
from opencode_magic.session.wishes import difference

if TYPE_CHECKING:
    from collections.abc import Callable

    from opencode_magic.core.proof import Proof
    from opencode_magic.core.status import StatusEvent
    from opencode_magic.session.agent import Agent
    from opencode_magic.session.seams import Gone, RunningSandbox
    from opencode_magic.settings import Settings

    Listener = Callable[[Status], None]

STOP_LIMIT_S = 10.0
"""A turn that runs while the sandbox is taken down has so long to stop."""

ENDED_LIMIT_S = 3.0
"""What is left of a sandbox that ended by itself is removed within so long."""

NEXT_UP = "run %opencode_up"
MAY_RUN = "the sandbox may still run"


@dataclass(frozen=True, slots=True)
class DownReport:
    """What a down removed and what it kept, as short lines for a person."""

    sandbox_name: str = ""
    """Empty where nothing was up."""
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.sandbox_name:
            return "Nothing was up."
        removed = ", ".join(self.removed) or "nothing"
        kept = ", ".join(self.kept) or "nothing"
        return f"Down: {self.sandbox_name}. Removed: {removed}. Kept: {kept}."


class Starter(Protocol):
    """How a session gets a sandbox and an agent in it that can be talked to."""

    def __call__(
        self,
        settings: Settings,
        *,
        allow_unproven: bool,
        emit: Callable[[StatusEvent], None],
        on_made: Callable[[RunningSandbox], None],
    ) -> Agent:
        """Launch and connect; on any error only what ``on_made`` took may still run."""


class Session:
    """A sandbox with its agent, or none. Its status may be read from any thread.

    ``up``, ``prove`` and ``down`` belong to one thread at a time: the caller's main thread. At the
    end of the process the sandbox's own lease ends it.
    """

    def __init__(self, *, starter: Starter | None = None) -> None:
        self._starter = starter
        self._lock = threading.Lock()
        self._status = Status()
        self._listeners: list[Listener] = []
        self._sandbox: RunningSandbox | None = None
        self._agent: Agent | None = None
        self._launched: Settings | None = None
        self.turn_lock = threading.Lock()
        """Held while a turn runs."""
        self.stop_asked = threading.Event()
        """Set to stop the turn that runs."""

    def __repr__(self) -> str:
        return f"<Session: {self.status.phase}>"

    @property
    def status(self) -> Status:
        """What is known of the sandbox now."""
        return self._status

    @property
    def is_up(self) -> bool:
        """Whether a sandbox was launched and not taken down."""
        return self._sandbox is not None

    @property
    def sandbox(self) -> RunningSandbox:
        """The launched sandbox.

        Raises:
            NotLaunchedError: There is none.
        """
        if self._sandbox is None:
            raise NotLaunchedError(_why_not(self._status), next_step=NEXT_UP)
        return self._sandbox

    @property
    def agent(self) -> Agent:
        """The agent of the launched sandbox.

        Raises:
            NotLaunchedError: There is none.
        """
        if self._agent is None:
            raise NotLaunchedError(_why_not(self._status), next_step=NEXT_UP)
        return self._agent

    def require_up(self) -> None:
        """Check that a sandbox is up.

        Raises:
            NotLaunchedError: There is none.
        """
        if self._sandbox is None or self._agent is None:
            raise NotLaunchedError(_why_not(self._status), next_step=NEXT_UP)

    def stop_turn(self) -> None:
        """Ask the turn that runs to stop; safe from any thread, harmless where none runs."""
        if self.turn_lock.locked():
            self.stop_asked.set()

    def emit(self, event: StatusEvent) -> None:
        """Reduce an event into the status and tell the listeners. Safe from any thread."""
        with self._lock:
            self._status = reduce(self._status, event)
            status, listeners = self._status, tuple(self._listeners)
        for listener in listeners:
            listener(status)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call the listener after every event, on the thread that emits; gives how to end it."""
        with self._lock:
            self._listeners.append(listener)

        def unsubscribe() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return unsubscribe

    def up(
        self, settings: Settings, *, allow_unproven: bool = False, has_time: bool = False
    ) -> Status:
        """Launch a sandbox, or keep the one that is up.

        Args:
            settings: What is asked for.
            allow_unproven: Go on where no evidence can be had that the wall stands.
            has_time: The time limit was asked for, so that what is up must have the same.

        Raises:
            UsageMistake: What is up is not what is asked for now.
            OpencodeMagicError: The launch failed; nothing is left running.
        """
        if self.is_alive():
            if self._agent is None:
                raise UsageMistake(MAY_RUN, next_step="run %opencode_down again")
            self._check_same(settings, has_time=has_time)
            return self._status
        try:
            self._start(settings, allow_unproven=allow_unproven)
        except OpencodeMagicError as exc:
            self._fail(exc.message, exc.next_step)
            raise
        except BaseException:
            self._fail("the launch was interrupted", NEXT_UP)
            raise
        return self._status

    def is_alive(self) -> bool:
        """Ask whether the sandbox still runs; what is left of one that has ended is removed."""
        sandbox = self._sandbox
        if sandbox is None:
            return False
        if sandbox.is_alive():
            return True
        self._close_agent()
        gone = sandbox.terminate(timeout_s=ENDED_LIMIT_S)
        self._let_go()
        kept = f"; kept: {', '.join(gone.kept)}" if gone.kept else ""
        self.emit(WentDown(f"the sandbox has ended{kept}", next_step=NEXT_UP))
        return False

    def prove(self) -> Proof:
        """Run all probes from inside the sandbox again.

        Raises:
            NotLaunchedError: There is no sandbox.
        """
        return self.sandbox.prove()

    def down(self, *, discard: bool = False) -> DownReport:
        """Stop and remove the sandbox; keeps the agent's files unless told to discard them."""
        sandbox = self._sandbox
        if sandbox is None:
            return DownReport()
        has_stopped = False
        try:
            self.stop_turn()
            has_stopped = self.turn_lock.acquire(timeout=STOP_LIMIT_S)
            self.emit(StopStarted())
            self._close_agent()
        finally:
            # Also after an Interrupt: who takes a sandbox down wants it gone.
            try:
                gone = self._end(sandbox, keep=not discard)
            finally:
                if has_stopped:
                    self.turn_lock.release()
        return DownReport(sandbox.name, gone.removed, gone.kept)

    def _end(self, sandbox: RunningSandbox, *, keep: bool) -> Gone:
        """Destroy a sandbox; it is let go of once it does not run any more."""
        gone: Gone | None = None
        try:
            gone = sandbox.terminate(keep=keep)
        finally:
            if (gone is not None and gone.removed) or not sandbox.is_alive():
                self._let_go()
                self.emit(WentDown("" if gone is None or gone.removed else ", ".join(gone.kept)))
            else:
                self.emit(WentDown(MAY_RUN, next_step="run %opencode_down again"))
        return gone

    def _start(self, settings: Settings, *, allow_unproven: bool) -> None:
        starter = self._starter or _default_starter()
        self._launched = settings
        self._agent = starter(
            settings, allow_unproven=allow_unproven, emit=self.emit, on_made=self._hold
        )

    def _hold(self, sandbox: RunningSandbox) -> None:
        self._sandbox = sandbox

    def _fail(self, error: str, next_step: str) -> None:
        """End what the launch made, and say that it failed where it did not say so itself."""
        sandbox = self._sandbox
        if sandbox is not None:
            self._close_agent()
            if sandbox.terminate(keep=False).removed or not sandbox.is_alive():
                self._let_go()
            else:
                error, next_step = f"{error}; {MAY_RUN}", "run %opencode_down"
        if self._status.phase in {"launching", "locked"}:
            self.emit(LaunchFailed(error, next_step=next_step))

    def _check_same(self, settings: Settings, *, has_time: bool) -> None:
        assert self._launched is not None, "what is up was launched with settings"
        found = difference(self._status, self._launched, settings, has_time=has_time)
        if found:
            raise UsageMistake(
                f"{self._status.sandbox_name} is up {found}", next_step="run %opencode_down first"
            )

    def _close_agent(self) -> None:
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.close()

    def _let_go(self) -> None:
        self._close_agent()
        self._sandbox = None


def _default_starter() -> Starter:
    from opencode_magic.session.start import start  # noqa: PLC0415 - loads httpx and the SDK

    return start


def _why_not(status: Status) -> str:
    if status.phase == "failed" and status.error:
        return f"no sandbox is up: {status.error}"
    return "no sandbox is up"
