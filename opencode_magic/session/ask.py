"""A prompt -> a turn on the agent -> a ``Reply``; here is decided what the caller gets."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from opencode_magic.agent.turn import TurnOptions, run_turn
from opencode_magic.core.permissions import REJECT
from opencode_magic.core.policy import HostRules, NetworkPolicy
from opencode_magic.core.prompt import parse_prompt
from opencode_magic.core.receipt import receipt_from_records, receipt_from_tools
from opencode_magic.core.status import TurnEnded, TurnStarted
from opencode_magic.errors import AgentError, SessionBusyError, TurnFailed
from opencode_magic.session.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from opencode_magic.agent.answering import Approver
    from opencode_magic.agent.turn import View
    from opencode_magic.core.conversation import PermissionRequest, Turn
    from opencode_magic.core.permissions import PermissionReply
    from opencode_magic.core.prompt import Prompt
    from opencode_magic.core.receipt import Receipt
    from opencode_magic.core.status import Status
    from opencode_magic.session.agent import Permissions
    from opencode_magic.session.seams import RunningSandbox
    from opencode_magic.session.session import Session

END_KNOWN_S = 2.0
END_POLL_S = 0.05
SETTLE_S = 0.5
"""How long the firewall may take to say what it saw until the turn's end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What one ask is to do."""

    text: str
    """The cell's text, sent as it stands."""
    keep_going: bool = False
    """Give the ``Reply`` of a failed turn instead of raising."""
    is_new: bool = False
    """Begin a new conversation."""
    permissions: Permissions = "allow"


class SilentView:
    """Shows nothing: for scripts, which get the ``Reply``."""

    def show(self, turn: Turn, *, is_final: bool = False) -> None:
        """Show nothing."""


class SilentApprover:
    """Refuses: nobody can be asked."""

    def decide(self, request: PermissionRequest) -> PermissionReply:  # noqa: ARG002 - the Protocol's
        """Refuse."""
        return REJECT


def ask_agent(
    session: Session,
    asking: Asking,
    *,
    view: View,
    approver: Approver | None = None,
    keep: Callable[[Reply], None] | None = None,
    shower: Callable[[Reply], None] | None = None,
) -> Reply:
    """Ask, and give the reply when the turn has ended.

    Args:
        session: The notebook's sandbox and agent.
        asking: What to ask, and how.
        view: Shows the turn as it grows.
        approver: Asked when the agent asks for leave; None refuses.
        keep: Gets the reply however the turn ended, before anything is raised.
        shower: How the reply shows itself later.

    Raises:
        NotLaunchedError: There is no sandbox.
        PromptError: There is no text, or too much of it.
        SessionBusyError: A turn runs already.
        TurnFailed: The turn failed and ``keep_going`` is not set; everything is shown and kept.
        KeyboardInterrupt: The user stopped the turn; it is stopped, shown and kept.
    """
    prompt = parse_prompt(asking.text)
    _require_alive(session)
    if not session.turn_lock.acquire(blocking=False):
        raise SessionBusyError(
            "a turn is running already", next_step="wait for it, or stop it with Interrupt"
        )
    sandbox, since = session.sandbox, session.sandbox.last_seq
    ending = EndingView(view, lambda turn: make_receipt(turn, sandbox, session.status, since=since))
    session.stop_asked.clear()
    try:
        _run(session, asking, prompt, ending, approver or SilentApprover())
    finally:
        session.turn_lock.release()
        reply = None if ending.turn is None else Reply(ending.turn, shower)
        if reply is not None and keep is not None:
            keep(reply)
    assert reply is not None, "run_turn shows the last frame before it returns"
    if reply.state == "failed":
        is_alive = _is_alive_after(session)
        if not asking.keep_going:
            raise _failure(reply, is_alive=is_alive)
    return reply


class EndingView:
    """Adds the receipt to the last frame of a turn, and keeps that turn."""

    def __init__(self, view: View, receipt: Callable[[Turn], Receipt]) -> None:
        self.turn: Turn | None = None
        """The turn as it ended; None while it runs."""
        self._view = view
        self._receipt = receipt
        self._is_shown = False

    def show(self, turn: Turn, *, is_final: bool = False) -> None:
        """Show the turn; the last frame once, with its receipt or, interrupted, without."""
        if not is_final:
            self._view.show(turn)
        elif self.turn is None:
            self.turn = turn
            try:
                self.turn = replace(turn, receipt=self._receipt(turn))
            finally:
                self._show_last(self.turn)
        elif not self._is_shown:
            self._show_last(self.turn)

    def _show_last(self, turn: Turn) -> None:
        self._view.show(turn, is_final=True)
        self._is_shown = True


def make_receipt(turn: Turn, sandbox: RunningSandbox, status: Status, *, since: int = 0) -> Receipt:
    """Say what a turn reached, from the firewall's record where there is one.

    Args:
        turn: The turn as it ended.
        sandbox: Where it ran.
        status: Whose allowed hosts are the policy as read back.
        since: The last egress record before the turn.
    """
    if not sandbox.has_egress_record:
        policy = NetworkPolicy(mode="custom", hosts=tuple(map(HostRules, status.allowed_hosts)))
        host = status.allowed_hosts[0] if status.allowed_hosts else turn.model
        calls = len(turn.messages)
        return receipt_from_tools(turn.tools, policy, model_host=host, model_calls=calls)
    records = sandbox.records_since(since, settle_s=SETTLE_S)
    during = [r for r in records if turn.started_ms <= r.at_ms <= turn.ended_ms]
    numbers = [record.seq for record in during]
    has_gap = bool(numbers) and numbers[-1] - numbers[0] + 1 != len(numbers)
    return receipt_from_records(during, is_complete=not has_gap)


def _require_alive(session: Session) -> None:
    """Check that there is an agent to ask; where its events have stopped, that it still runs."""
    session.require_up()
    try:
        session.agent.reader.wait_ready(timeout_s=0)
    except AgentError:
        if not session.is_alive():
            session.require_up()


def _is_alive_after(session: Session) -> bool:
    """Ask after a failure whether the sandbox runs.

    Where the agent's events have stopped too, the end of its process may be about to be known.
    """
    until_s = time.monotonic() + END_KNOWN_S
    while session.is_alive():
        try:
            session.agent.reader.wait_ready(timeout_s=END_POLL_S)
        except AgentError:
            if time.monotonic() < until_s:
                continue
        return True
    return False


def _run(
    session: Session, asking: Asking, prompt: Prompt, view: EndingView, approver: Approver
) -> None:
    agent, sandbox = session.agent, session.sandbox
    if asking.is_new:
        agent.renew()
    agent.set_permissions(asking.permissions)
    session.emit(TurnStarted())
    try:
        run_turn(
            agent.client,
            agent.reader,
            agent.session_id,
            prompt,
            view=view,
            approver=approver,
            options=TurnOptions(model=agent.model.name, is_scripted=agent.model.is_scripted),
            on_stuck=lambda: _cut(sandbox),
            stop=session.stop_asked,
        )
    except AgentError:
        _is_alive_after(session)
        raise
    finally:
        turn = view.turn
        ended = TurnEnded(0, 0.0) if turn is None else TurnEnded(turn.tokens.total, turn.cost)
        session.emit(ended)


def _cut(sandbox: RunningSandbox) -> None:
    if not sandbox.cut_model():
        sandbox.end_server()


def _failure(reply: Reply, *, is_alive: bool) -> TurnFailed:
    next_step = reply.turn.next_step if is_alive else "launch again: %opencode_up"
    return TurnFailed(reply.error or "no reason was given", reply=reply, next_step=next_step)
