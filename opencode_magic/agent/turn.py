"""One turn: a prompt goes out, and the turn as it grows goes to a view, until it has ended.

The blocking POST in a worker thread is what tells the end. Between, the crank takes the events of
one frame from the queue, joins and reduces them, and shows the current ``Turn`` once.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from opencode_magic.agent.answering import Answering, Approver
from opencode_magic.agent.client import MESSAGES_TIMEOUT_S
from opencode_magic.agent.gate import Gate
from opencode_magic.agent.growth import Growth
from opencode_magic.agent.inbox import Inbox
from opencode_magic.agent.outcome import (
    NEXT_AFTER_GROWTH,
    NEXT_AFTER_LIMIT,
    Asked,
    Halt,
    Posted,
    duration,
    gone,
    turn_at_end,
    turn_so_far,
)
from opencode_magic.agent.reader import StreamBack, StreamLost, Subscription, busy
from opencode_magic.core.conversation import Conversation
from opencode_magic.core.events import Resynced
from opencode_magic.core.limits import Budget, GrowthLimits, exceeded, over
from opencode_magic.errors import AgentConnectionError, AgentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from opencode_magic.agent.client import AgentClient
    from opencode_magic.agent.reader import EventReader
    from opencode_magic.core.parts import Turn
    from opencode_magic.core.prompt import Prompt

READY_TIMEOUT_S = 10.0
TAIL_S = 0.5
"""The last events come up to 20 ms after the POST has returned."""
IDLE_WAIT_S = 0.25
ABORT_EVERY_S = 0.1
WARM_UP_S = 2.5
"""In its first prompt a server answers an abort only after it has warmed up."""
STORED_AT_STOP_S = 5.0
"""How long the stored messages are waited for once the user wants the turn to end."""
STUCK_S = 5.0
GONE_S = 3.0


class View(Protocol):
    """Shows a turn as it grows."""

    def show(self, turn: Turn, *, is_final: bool = False) -> None:
        """Show the turn as it is now; the last call has ``is_final``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnOptions:
    """What can be chosen about a turn."""

    model: str = ""
    """``provider/model``, shown until the server has said it."""
    is_scripted: bool = False
    budget: Budget = field(default_factory=Budget)
    limits: GrowthLimits = field(default_factory=GrowthLimits)
    retry_wait_s: float = 120.0
    """A provider that asks to wait longer than this ends the turn."""
    lost_s: float = 60.0
    """An event stream that is away longer than this ends the turn."""
    frame_s: float = 0.05
    stop_grace_s: float = 1.0
    """A stop that is not confirmed in this time calls ``on_stuck``."""


def run_turn(
    client: AgentClient,
    reader: EventReader,
    session_id: str,
    prompt: Prompt,
    *,
    view: View,
    approver: Approver,
    options: TurnOptions | None = None,
    on_stuck: Callable[[], None] | None = None,
    stop: threading.Event | None = None,
) -> Turn:
    """Send a prompt and give the turn when it has ended, however it ended.

    Args:
        client: The agent server.
        reader: Its event stream, started.
        session_id: The session to ask in.
        prompt: What to send.
        view: Shows the turn; called from this thread, at most once a frame.
        approver: Asked, in this thread, when the agent asks for leave.
        options: What can be chosen.
        on_stuck: Called once when a stop is not confirmed in time: cut the model's connection, or
            end the server.
        stop: Set it from another thread to stop the turn; the stopped turn is returned.

    Returns:
        The turn: done, stopped, refused or failed, with all that arrived.

    Raises:
        SessionBusyError: A turn runs in this session.
        AgentError: The prompt could not be sent: nothing happened.
        KeyboardInterrupt: The user stopped it. The turn is stopped on the server, and the view has
            been given what had arrived.
    """
    crank = _Crank(client, session_id, prompt, view, approver, options or TurnOptions())
    crank.on_stuck = on_stuck
    crank.stop_asked = stop
    reader.wait_ready(timeout_s=READY_TIMEOUT_S)
    after_id = client.last_message_id(session_id)
    children = client.children(session_id)
    subscription = Subscription(session_id, after_id, children, crank.inbox.offer)
    reader.subscribe(subscription)
    try:
        if session_id in client.busy_sessions():
            raise busy(session_id)
        crank.begin(Conversation(session_id, after_id, children=children))
        return crank.run()
    finally:
        reader.unsubscribe(subscription)


class _Crank:
    """The state of one running turn. Used by one thread, but for the POST's."""

    def __init__(
        self,
        client: AgentClient,
        session_id: str,
        prompt: Prompt,
        view: View,
        approver: Approver,
        options: TurnOptions,
    ) -> None:
        self.on_stuck: Callable[[], None] | None = None
        self.stop_asked: threading.Event | None = None
        self.inbox = Inbox()
        self._client = client
        self._session_id = session_id
        self._prompt = prompt
        self._view = view
        self._options = options
        self._growth = Growth(Conversation(session_id), options.limits)
        self._posted: Posted | None = None
        self._gate = Gate()
        self._cut: Posted | None = None
        self._seen_alive = 0.0
        self._next_look = 0.0
        self._answering = Answering(client, approver)
        self._lost_since: float | None = None
        self._last_frame = 0.0
        self._started = time.monotonic()
        self._asked = Asked(session_id, prompt.text, options.model, options.is_scripted, _now_ms())
        self._was_warm = client.is_warm

    @property
    def conversation(self) -> Conversation:
        """What is known of the turn."""
        return self._growth.conversation

    def begin(self, conversation: Conversation) -> None:
        """Start from here."""
        self._growth = Growth(conversation, self._options.limits)

    def run(self) -> Turn:
        threading.Thread(target=self._post, name="opencode-prompt", daemon=True).start()
        try:
            self._view.show(self._so_far())
            halt = self._follow()
            if halt is not None:
                self._abort(self._grace_s())
            self._settle(MESSAGES_TIMEOUT_S if halt is None else STORED_AT_STOP_S)
        except BaseException as error:
            self._stop_and_show(is_interrupt=isinstance(error, KeyboardInterrupt))
            raise
        return self._show_last(halt or self._overgrown())

    def _show_last(self, halt: Halt | None) -> Turn:
        """Show the last frame; an Interrupt meanwhile goes on once it is shown."""
        try:
            turn = self._ended(halt)
            self._view.show(turn, is_final=True)
        except KeyboardInterrupt:
            self._view.show(self._ended(halt), is_final=True)
            raise
        return turn

    def _post(self) -> None:
        try:
            self._client.make_ready()
            is_meant = self._gate.enter()
            message = self._client.prompt(self._session_id, self._prompt) if is_meant else None
        except AgentError as error:
            posted = Posted(None, error)
        except Exception as error:  # noqa: BLE001 - a thread's outer edge: report and stop
            posted = Posted(None, AgentConnectionError(f"sending the prompt failed: {error!r}"))
        else:
            posted = Posted(message)
        self.inbox.post(posted)

    def _follow(self) -> Halt | None:
        """Crank until the POST has returned.

        Returns:
            None where it has; else why the turn must be stopped before.
        """
        while self._posted is None:
            self._frame(IDLE_WAIT_S)
            if self._is_stop_asked:
                return Halt()
            if self._posted is None and (halt := self._problem()):
                return halt
        return None

    @property
    def _is_stop_asked(self) -> bool:
        return self.stop_asked is not None and self.stop_asked.is_set()

    @property
    def _is_over(self) -> bool:
        return self._is_stop_asked or self._overgrown() is not None

    def _frame(self, wait_s: float) -> None:
        """Take what comes in until the next frame is due, reduce it, and show it once."""
        due_s = self._last_frame + self._options.frame_s
        found = [] if self._growth.is_behind else self.inbox.collect(wait_s, due_s=due_s)
        if self.inbox.posted and not (found or self._cut or self._posted):
            self._take_posted(self.inbox.posted)
        if found:
            self._last_frame = time.monotonic()
        for item, chars in found:
            if isinstance(item, Posted):
                self._take_posted(item)
            elif isinstance(item, StreamLost):
                self._lost_since = self._lost_since or time.monotonic()
            elif isinstance(item, StreamBack):
                self._lost_since = None
            else:
                self._growth.add(item, chars)
        self._look_after_cut()
        if self._growth.work():
            self._view.show(self._so_far())
        self._answering.answer_all(self.conversation, is_over=lambda: self._is_over)

    def _problem(self) -> Halt | None:
        """Say why the turn cannot go on; None while it can."""
        reason = self._over_limit()
        return Halt(reason, NEXT_AFTER_LIMIT) if reason else self._overgrown()

    def _overgrown(self) -> Halt | None:
        reason = self._growth.problem
        if not reason and self._answering.count > self._options.limits.requests:
            reason = over(self._options.limits.requests, "requests for leave")
        return Halt(reason, NEXT_AFTER_GROWTH) if reason else None

    def _over_limit(self) -> str:
        now = time.monotonic()
        retry = self.conversation.retry
        if retry is not None:
            wait_s = retry.next_ms / 1000 - time.time()
            if wait_s > self._options.retry_wait_s:
                return (
                    f"the provider asks to wait {duration(wait_s)} before the next try: "
                    f"{retry.message}"
                )
        if self._lost_since is not None and now - self._lost_since > self._options.lost_s:
            return "the agent server cannot be reached any more"
        turn = self._so_far()
        return exceeded(self._options.budget, turn, elapsed_s=now - self._started)

    def _take_posted(self, posted: Posted) -> None:
        """Note that the POST returned. Where its connection broke, the turn may go on."""
        if posted.is_cut:
            self._cut = posted
            self._seen_alive = time.monotonic()
        else:
            self._posted = posted

    def _look_after_cut(self) -> None:
        """Where the POST's connection broke: see whether the turn still runs."""
        cut, now = self._cut, time.monotonic()
        if cut is None or self._posted is not None or now < self._next_look:
            return
        self._next_look = now + IDLE_WAIT_S
        try:
            if self._session_id not in self._client.busy_sessions():
                self._posted = self._stored_end() or cut
            self._seen_alive = now
        except AgentError as error:
            if now - self._seen_alive > GONE_S:
                self._posted = Posted(None, gone(error))

    def _stored_end(self) -> Posted | None:
        """Give the end of the turn as the server stored it; None where there is none."""
        self._reconcile()
        last = self.conversation.answers[-1:]
        return Posted(last[0]) if last and last[0].completed_ms else None

    def _settle(self, timeout_s: float) -> None:
        """Take the last events, then bring the messages in line with what the server stored."""
        if self._posted is None:
            return
        until = time.monotonic() + TAIL_S
        if not self._posted.is_cut:
            while self.conversation.activity != "idle" and time.monotonic() < until:
                self._frame(max(0.01, until - time.monotonic()))
        if not self._growth.problem:
            with contextlib.suppress(AgentError):
                self._reconcile(timeout_s)

    def _reconcile(self, timeout_s: float = MESSAGES_TIMEOUT_S) -> None:
        after_id = self.conversation.after_id
        messages = self._client.messages(self._session_id, after_id=after_id, timeout_s=timeout_s)
        self._growth.take_stored(Resynced(self._session_id, messages))

    def _grace_s(self) -> float:
        return self._options.stop_grace_s + (0.0 if self._was_warm else WARM_UP_S)

    def _abort(self, grace_s: float) -> None:
        """Abort until the POST has returned: an early abort is answered yes and does nothing."""
        if self._gate.shut():
            self._posted = Posted(None)
            return
        is_over = threading.Event()
        threading.Thread(
            target=self._keep_aborting, args=(is_over,), name="opencode-abort", daemon=True
        ).start()
        try:
            self._wait_posted(grace_s)
            if self._posted is None and self.on_stuck is not None:
                on_stuck, self.on_stuck = self.on_stuck, None
                on_stuck()
                self._wait_posted(STUCK_S)
        finally:
            is_over.set()

    def _keep_aborting(self, is_over: threading.Event) -> None:
        while not is_over.is_set():
            with contextlib.suppress(AgentError):
                self._client.abort(self._session_id)
            is_over.wait(ABORT_EVERY_S)

    def _wait_posted(self, limit_s: float) -> None:
        until = time.monotonic() + limit_s
        while self._posted is None and (left_s := until - time.monotonic()) > 0:
            self._frame(min(left_s, IDLE_WAIT_S))

    def _stop_and_show(self, *, is_interrupt: bool) -> None:
        """Stop the turn on the server; show what had arrived where the user stopped it.

        A second interrupt ends the waiting.
        """
        with contextlib.suppress(KeyboardInterrupt):
            if self._posted is None:
                self._abort(self._grace_s())
            self._settle(STORED_AT_STOP_S)
        if is_interrupt:
            self._show_last(Halt())

    def _so_far(self) -> Turn:
        return turn_so_far(self._asked, self.conversation)

    def _ended(self, halt: Halt | None) -> Turn:
        return turn_at_end(
            self._asked,
            self.conversation,
            self._posted,
            halt=halt,
            refused=self._answering.refused,
            ended_ms=_now_ms(),
        )


def _now_ms() -> int:
    return round(time.time() * 1000)
