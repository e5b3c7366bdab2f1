"""The local home's stream of egress records -> ``EgressSeen`` events and a bounded memory."""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from typing import TYPE_CHECKING

from opencode_magic.core.status import EgressSeen
from opencode_magic.errors import SandboxConnectionError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from opencode_magic.core.egress import EgressRecord
    from opencode_magic.core.status import StatusEvent
    from opencode_magic.sandbox.local_api import EgressStream, LocalApi

KEPT_RECORDS = 20_000
RETRY_S = 0.5
TRIES = 4


class EgressFeed:
    """Follows one sandbox's egress record in a daemon thread, resuming by number.

    Records that a proof's own probes caused are left out of memory and events.
    """

    def __init__(
        self,
        local: LocalApi,
        session_id: str,
        emit: Callable[[StatusEvent], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._local = local
        self._session_id = session_id
        self._emit = emit
        self._on_lost = on_lost
        self._records: collections.deque[EgressRecord] = collections.deque(maxlen=KEPT_RECORDS)
        self._held: list[EgressRecord] = []
        self._holds = 0
        self._own: set[int] = set()
        self._last_seq = 0
        self._lock = threading.Lock()
        self._stream: EgressStream | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="egress", daemon=True)

    @property
    def last_seq(self) -> int:
        """The number of the last record that arrived."""
        return self._last_seq

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def since(self, seq: int, *, settle_s: float = 0.0) -> tuple[EgressRecord, ...]:
        """Give the records after a number, oldest first, after asking for what there is by now."""
        if settle_s > 0:
            self._settle(settle_s)
        with self._lock:
            return tuple(r for r in self._records if r.seq > seq)

    @contextlib.contextmanager
    def holding(self) -> Iterator[set[int]]:
        """Hold records back meanwhile; those whose numbers are put into the set are left out."""
        own: set[int] = set()
        with self._lock:
            self._holds += 1
        try:
            yield own
        finally:
            with self._lock:
                self._holds -= 1
                self._own |= own
            self._take(())

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        stream = self._stream
        if stream is not None:
            stream.close()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=2.0)

    def _settle(self, settle_s: float) -> None:
        """Wait until the stream has brought what the firewall has by now."""
        try:
            newest = self._local.egress(self._session_id, self._last_seq)
        except SandboxConnectionError:
            return
        deadline = time.monotonic() + settle_s
        while newest and self._last_seq < newest[-1].seq and time.monotonic() < deadline:
            time.sleep(0.005)

    def _follow(self) -> None:
        tries = 0
        while not self._ended.is_set():
            try:
                stream = self._local.follow(self._session_id, self._last_seq)
            except SandboxConnectionError:
                tries += 1
                if tries >= TRIES:
                    break
                self._ended.wait(RETRY_S)
                continue
            self._stream = stream
            before = self._last_seq
            with contextlib.closing(stream):
                if self._ended.is_set():
                    return
                for record in stream:
                    self._take((record,))
            # A stream that ends at once and brings nothing, again and again, is no stream.
            tries = 0 if self._last_seq > before else tries + 1
            if tries >= TRIES:
                break
            self._ended.wait(0.05)
        if not self._ended.is_set():
            self._on_lost()

    def _take(self, records: Collection[EgressRecord]) -> None:
        with self._lock:
            for record in records:
                self._last_seq = max(self._last_seq, record.seq)
            self._held.extend(records)
            if self._holds:
                return
            fresh = tuple(r for r in self._held if r.seq not in self._own)
            self._held.clear()
            self._records.extend(fresh)
        if fresh:
            self._emit(EgressSeen(fresh))
