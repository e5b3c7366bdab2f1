"""One lock for each name, for as long as somebody uses it."""

from __future__ import annotations

import threading
from weakref import WeakValueDictionary


class NameLocks:
    """Locks by name. A lock goes with its last user: names that were used once take no memory."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, threading.RLock] = WeakValueDictionary()
        self._lock = threading.Lock()

    def of(self, name: str) -> threading.RLock:
        """Give the lock of a name; the same one to all who hold it or wait for it."""
        with self._lock:
            lock = self._locks.get(name)
            if lock is None:
                lock = self._locks[name] = threading.RLock()
            return lock
