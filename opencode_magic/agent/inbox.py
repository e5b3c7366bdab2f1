"""What waits for a turn's crank: events up to a size, and the POST's end always."""

from __future__ import annotations

import contextlib
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from opencode_magic.agent.reader import StreamBack, StreamLost
from opencode_magic.core.limits import EVENT_CHARS, event_chars

if TYPE_CHECKING:
    from opencode_magic.agent.outcome import Posted
    from opencode_magic.agent.reader import Item

INBOX_CHARS = 32_000_000
"""What may wait while the crank is held up. An honest burst of 2,000 deltas has 0.5 MB."""
FULL_WAIT_S = 0.02


class Inbox:
    """One thread offers, one collects, a third may post the end."""

    def __init__(self, *, limit_chars: int = INBOX_CHARS) -> None:
        self.posted: Posted | None = None
        """The POST's end, as soon as it is known: also while nobody collects."""
        self._limit_chars = limit_chars
        self._queue: SimpleQueue[tuple[Item | Posted, int]] = SimpleQueue()
        # Each is written by one thread only, so that no lock is needed.
        self._offered_chars = 0
        self._collected_chars = 0

    def offer(self, item: Item) -> bool:
        """Take an item; False, after a moment, where too much waits already: offer it again."""
        chars = EVENT_CHARS if isinstance(item, StreamLost | StreamBack) else event_chars(item)
        waiting = self._offered_chars - self._collected_chars
        if waiting and waiting + chars > self._limit_chars:
            time.sleep(FULL_WAIT_S)
            return False
        self._offered_chars += chars
        self._queue.put((item, chars))
        return True

    def post(self, posted: Posted) -> None:
        """Put the POST's end behind what waits, whatever its size."""
        self.posted = posted
        self._queue.put((posted, 0))

    def collect(self, wait_s: float, *, due_s: float) -> list[tuple[Item | Posted, int]]:
        """Wait for a first item, then take what comes until a moment of the monotonic clock."""
        try:
            found = [self._queue.get(timeout=wait_s)]
        except Empty:
            return []
        with contextlib.suppress(Empty):
            while found[-1][1] and (left_s := due_s - time.monotonic()) > 0:
                found.append(self._queue.get(timeout=left_s))
        # What waits already goes into this frame too; what comes meanwhile into the next one.
        found += [self._queue.get_nowait() for _ in range(self._queue.qsize())]
        self._collected_chars += sum(chars for _, chars in found)
        return found
