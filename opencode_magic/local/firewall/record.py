"""What the firewall decided, in order, bounded in memory, for those who follow it."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from opencode_magic.core.egress import Channel, EgressRecord, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_RECORDS = 10_000
HOST_LIMIT_CHARS = 260
PATH_LIMIT_CHARS = 1024
REASON_LIMIT_CHARS = 200


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to leave, before it has a number and a time."""

    channel: Channel
    host: str
    port: int
    source_port: int = 0
    connection: str = ""
    method: str = ""
    path: str = ""
    program: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attempt."""

    verdict: Verdict
    reason: str
    status_code: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    is_end: bool = field(default=False)


class EgressLog:
    """The egress record of one sandbox: appended by the firewall, read by anyone, thread-safe.

    When more than ``limit`` records are held the oldest go; ``seq`` then shows the gap.
    """

    def __init__(self, *, limit: int = LIMIT_RECORDS, first_seq: int = 1) -> None:
        self._records: deque[EgressRecord] = deque(maxlen=limit)
        self._next_seq = first_seq
        self._is_closed = False
        self._changed = threading.Condition()

    @property
    def last_seq(self) -> int:
        """The number of the newest record; 0 where there is none yet."""
        with self._changed:
            return self._next_seq - 1

    @property
    def is_closed(self) -> bool:
        """Whether nothing more will come."""
        return self._is_closed

    def append(self, attempt: Attempt, outcome: Outcome) -> EgressRecord:
        """Number, date and keep one record; whoever follows is woken."""
        with self._changed:
            record = EgressRecord(
                seq=self._next_seq,
                at_ms=time.time_ns() // 1_000_000,
                channel=attempt.channel,
                host=attempt.host[:HOST_LIMIT_CHARS],
                port=attempt.port,
                verdict=outcome.verdict,
                reason=outcome.reason[:REASON_LIMIT_CHARS],
                source_port=attempt.source_port,
                connection=attempt.connection,
                program=attempt.program,
                method=attempt.method[:32],
                path=attempt.path[:PATH_LIMIT_CHARS],
                status_code=outcome.status_code,
                bytes_out=outcome.bytes_out,
                bytes_in=outcome.bytes_in,
                is_end=outcome.is_end,
            )
            self._next_seq += 1
            self._records.append(record)
            self._changed.notify_all()
        return record

    def since(self, seq: int) -> tuple[EgressRecord, ...]:
        """Give the records after this number, oldest first."""
        with self._changed:
            return self._after(seq)

    def wait(self, seq: int, *, timeout_s: float) -> tuple[EgressRecord, ...]:
        """Wait until there are records after this number, and give them, oldest first.

        Returns:
            Nothing when the time is over or the log was closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._next_seq > seq + 1, timeout_s)
            return self._after(seq)

    def follow(self, seq: int) -> Iterator[EgressRecord]:
        """Give the records after this number, and every later one, until the log is closed.

        Blocks between records; use it in a thread, or :meth:`wait` where waiting must end.
        """
        while True:
            records = self.wait(seq, timeout_s=3600)
            yield from records
            if records:
                seq = records[-1].seq
            elif self._is_closed:
                return

    def close(self) -> None:
        """Wake and end everyone who follows. What is held stays readable."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _after(self, seq: int) -> tuple[EgressRecord, ...]:
        newer = []
        for record in reversed(self._records):
            if record.seq <= seq:
                break
            newer.append(record)
        return tuple(reversed(newer))
