"""Events in the order of their arrival -> a conversation that stays within limits.

The work of one call has an end too: events that are cheap to send may be dear to reduce.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from opencode_magic.core.conversation import join_deltas, reduce
from opencode_magic.core.events import Resynced
from opencode_magic.core.limits import GrowthLimits, Size, over, overgrown

if TYPE_CHECKING:
    from opencode_magic.core.conversation import Conversation
    from opencode_magic.core.events import Event

SLICE_S = 0.25
"""A stop is looked for at least so often."""
BATCH_EVENTS = 500
BATCH_CHARS = 1_000_000
LOOK_SHARE = 16
"""Near a limit the conversation is measured again after so small a part of it."""


class Growth:
    """Reduces events until a limit is passed; from then on none changes the conversation."""

    def __init__(self, conversation: Conversation, limits: GrowthLimits) -> None:
        self.conversation = conversation
        self.problem = ""
        """Which limit was passed, as one plain line; empty while it is within all."""
        self._limits = limits
        self._waiting: deque[tuple[Event, int]] = deque()
        self._events_chars = 0
        self._free_chars = min(limits.text_chars, limits.total_chars)
        self._free_events = min(limits.messages, limits.parts, limits.requests, limits.sub_sessions)

    @property
    def is_behind(self) -> bool:
        """Whether events wait that were added."""
        return bool(self._waiting)

    def add(self, event: Event, chars: int) -> None:
        """Take an event, which is so large; ``work`` reduces it."""
        if isinstance(event, Resynced):
            self._free_events = 0  # it may bring any number of messages
        if not self.problem:
            self._waiting.append((event, chars))

    def work(self) -> bool:
        """Reduce what waits, for a moment at most; give whether the conversation changed."""
        before = self.conversation
        until = time.monotonic() + SLICE_S
        while self._waiting and time.monotonic() < until:
            batch, chars = self._batch()
            self._grow(batch, chars)
        return self.conversation is not before

    def _batch(self) -> tuple[list[Event], int]:
        batch: list[Event] = []
        chars = 0
        while self._waiting and len(batch) < BATCH_EVENTS and chars < BATCH_CHARS:
            event, more = self._waiting.popleft()
            batch.append(event)
            chars += more
        return batch, chars

    def _grow(self, batch: list[Event], chars: int) -> None:
        grown = self.conversation
        for event in join_deltas(batch):
            grown = reduce(grown, event)
        self._events_chars += chars
        if self._events_chars > self._limits.events_bytes:
            self.problem = over(self._limits.events_bytes >> 20, "MB of events")
        self._free_chars -= chars
        self._free_events -= len(batch)
        if self._free_chars < 0 or self._free_events < 0:
            self._measure(grown)
        if self.problem:
            self._waiting.clear()
        else:
            self.conversation = grown

    def _measure(self, grown: Conversation) -> None:
        """Look whether it is within the limits, and how much must come before it may not be."""
        size, limits = Size.of(grown), self._limits
        self.problem = self.problem or overgrown(size, limits)
        free_chars = min(limits.text_chars - size.text_chars, limits.total_chars - size.total_chars)
        free_events = min(
            limits.messages - size.messages,
            limits.parts - size.parts,
            limits.requests - size.requests,
            limits.sub_sessions - size.sub_sessions,
        )
        self._free_chars = max(free_chars, limits.text_chars // LOOK_SHARE)
        self._free_events = max(free_events, limits.sub_sessions // LOOK_SHARE)

    def take_stored(self, stored: Resynced) -> None:
        """Bring the conversation in line with what the server stored, where it has room for it."""
        if not self.problem:
            self._free_events = 0
            self._grow([stored], 0)
