"""Daemon threads for what must block, never more than a limit.

An executor would be waited for at exit; a daemon thread is not.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Job = Callable[[], None]

_IDLE_S = 10.0
_logger = logging.getLogger(__name__)


class Workers:
    """Runs jobs in threads that start when needed and end when idle.

    Args:
        limit: Threads at most.
        waiting: Jobs that may wait for a thread; one more is refused.
    """

    def __init__(self, name: str, *, limit: int, waiting: int = 0) -> None:
        self._name = name
        self._limit = limit
        self._waiting = waiting
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = 0
        self._open = 0
        self._is_closed = False
        self._lock = threading.Lock()

    def start(self, job: Job) -> bool:
        """Run a job soon; False where too many wait already, or after :meth:`close`.

        So it is where the machine has no thread to give: a fork bomb may have taken them all.
        """
        with self._lock:
            if self._is_closed or self._open >= self._limit + self._waiting:
                return False
            if self._open >= self._threads and self._threads < self._limit:
                try:
                    threading.Thread(target=self._run, name=self._name, daemon=True).start()
                except RuntimeError:
                    return False
                self._threads += 1
            self._open += 1
            self._jobs.put(job)
            return True

    def close(self) -> None:
        """Take no more jobs; threads end after the one they are at."""
        with self._lock:
            self._is_closed = True
            for _ in range(self._threads):
                self._jobs.put(None)

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._lock:
                    if not self._jobs.empty():
                        continue
                    self._threads -= 1
                    return
            if job is None:
                return
            try:
                job()
            except Exception as exc:  # noqa: BLE001 - a thread's outer edge
                # One broken connection must not end the others. Only the type is logged, because
                # a message may repeat what the program sent.
                _logger.error("a connection ended with %s", type(exc).__name__)  # noqa: TRY400 - no traceback: its locals could hold a key
            finally:
                with self._lock:
                    self._open -= 1
