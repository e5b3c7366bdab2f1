"""The one event stream of an agent server, read in a thread of its own and routed by session."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opencode_magic.agent.client import CHILDREN_LIMIT
from opencode_magic.core.events import (
    Connected,
    Event,
    Heartbeat,
    Resynced,
    SessionCreated,
    SessionFaulted,
    parse_event,
    session_of,
)
from opencode_magic.core.sse import EventDecoder
from opencode_magic.errors import AgentApiError, AgentConnectionError, AgentError, SessionBusyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from opencode_magic.agent.client import AgentClient, EventStream

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0


@dataclass(frozen=True, slots=True)
class StreamLost:
    """The event stream broke; it is opened again until it is there or the reader is closed."""

    error: str


@dataclass(frozen=True, slots=True)
class StreamBack:
    """The event stream is there again, and what was missed has been read."""


Item = Event | StreamLost | StreamBack


@dataclass(eq=False)
class Subscription:
    """The events of one session and of its sub-agents, in the order of their arrival."""

    session_id: str
    after_id: str
    """Stored messages up to this one are not read again after a lost stream."""
    children: frozenset[str]
    offer: Callable[[Item], bool]
    """Called in the reader's thread; must return soon and not raise. False is no room: the reader
    offers it again until it is taken, and reads nothing meanwhile."""


class EventReader:
    """Reads events from ``start`` to ``close``. One per agent server.

    A stream that breaks is opened again, and every session that someone listens to is read from
    the server's store: so nothing is lost, and nothing comes twice that a reduce would not see.
    """

    def __init__(self, client: AgentClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._subscriptions: dict[str, Subscription] = {}
        self._is_ready = threading.Event()
        self._is_closed = threading.Event()
        self._stream: EventStream | None = None
        self._has_connected = False
        self._error = ""
        self._thread = threading.Thread(target=self._run, name="opencode-events", daemon=True)

    def start(self) -> None:
        """Open the stream in the background."""
        self._thread.start()

    def close(self) -> None:
        """End the stream and its thread. Harmless when called twice."""
        self._is_closed.set()
        with self._lock:
            stream = self._stream
        if stream is not None:
            stream.close()
        if self._thread.is_alive():
            self._thread.join(5)

    def wait_ready(self, *, timeout_s: float) -> None:
        """Wait until events arrive.

        Raises:
            AgentConnectionError: The stream is not there in time.
        """
        if not self._is_ready.wait(timeout_s):
            raise AgentConnectionError(
                f"the agent server sends no events: {self._error or 'no answer'}",
                next_step="look with %opencode_status; launch again with %opencode_up",
            )

    def subscribe(self, subscription: Subscription) -> None:
        """Listen to a session.

        Raises:
            SessionBusyError: Somebody listens already: a turn runs there.
        """
        with self._lock:
            if subscription.session_id in self._subscriptions:
                raise busy(subscription.session_id)
            self._subscriptions[subscription.session_id] = subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Stop listening."""
        with self._lock:
            if self._subscriptions.get(subscription.session_id) is subscription:
                del self._subscriptions[subscription.session_id]

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._is_closed.is_set():
            try:
                self._read()
            except AgentError as error:
                self._lose(error)
            except Exception as error:  # noqa: BLE001 - a thread's outer edge: report and stop
                self._lose(AgentConnectionError(f"reading events failed: {error!r}"))
                return
            if self._is_ready.is_set():
                pause_s = FIRST_PAUSE_S
            self._is_ready.clear()
            self._is_closed.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _lose(self, error: AgentError) -> None:
        self._error = error.message
        for subscription in self._listeners():
            self._deliver(subscription, StreamLost(error.message))

    def _read(self) -> None:
        decoder = EventDecoder()
        oversized = 0
        with self._client.events() as stream:
            with self._lock:
                self._stream = stream
            if self._is_closed.is_set():
                return
            for chunk in stream.chunks():
                for event in decoder.feed(chunk):
                    self._route(parse_event(event.data))
                if decoder.oversized != oversized:
                    oversized = decoder.oversized
                    self._resync()
        raise AgentConnectionError("the agent server ended the event stream")

    def _route(self, event: Event) -> None:
        if isinstance(event, Heartbeat):
            return
        if isinstance(event, Connected):
            if self._has_connected:
                self._resync()
            self._has_connected = True
            self._is_ready.set()
            return
        session_id = session_of(event)
        for subscription in self._listeners():
            if isinstance(event, SessionCreated):
                known = {subscription.session_id, *subscription.children}
                if event.parent_id in known and len(known) <= CHILDREN_LIMIT:
                    subscription.children |= {event.session_id}
                    self._deliver(subscription, event)
            elif (
                session_id == subscription.session_id
                or session_id in subscription.children
                or (isinstance(event, SessionFaulted) and not session_id)
            ):
                self._deliver(subscription, event)

    def _deliver(self, subscription: Subscription, item: Item) -> None:
        while not (subscription.offer(item) or self._is_closed.is_set()):
            with self._lock:
                if subscription not in self._subscriptions.values():
                    return

    def _resync(self) -> None:
        for subscription in self._listeners():
            for event in self._missed(subscription):
                self._deliver(subscription, event)
            self._deliver(subscription, StreamBack())

    def _missed(self, subscription: Subscription) -> list[Event]:
        """Read what the server has stored of a session and its sub-agents."""
        session_id = subscription.session_id
        try:
            found = self._client.children(session_id)
        except AgentApiError:
            found = frozenset()
        if len(subscription.children) <= CHILDREN_LIMIT:
            subscription.children |= found
        events: list[Event] = [SessionCreated(child, session_id) for child in sorted(found)]
        busy_ids = self._client.busy_sessions()
        messages = self._client.messages(session_id, after_id=subscription.after_id)
        known = {session_id, *subscription.children}
        # A request may stay listed after its turn was aborted: only those of busy sessions count.
        requests = (r for r in self._client.permissions() if r.session_id in known & busy_ids)
        events.append(
            Resynced(
                session_id,
                messages,
                "busy" if session_id in busy_ids else "idle",
                tuple(requests),
            )
        )
        return events

    def _listeners(self) -> list[Subscription]:
        with self._lock:
            return list(self._subscriptions.values())


def busy(session_id: str) -> SessionBusyError:
    """Give the error for a session in which a turn runs."""
    return SessionBusyError(
        f"a turn is running in the session {session_id!r}",
        next_step="wait for it, or stop it with Interrupt",
    )
