"""A prompt that is about to go out and a stop that may come first, to one of the two."""

from __future__ import annotations

import threading


class Gate:
    """Lets the prompt out, unless a stop came first: then nothing was sent, nothing must end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_entered = False
        self._is_shut = False

    def enter(self) -> bool:
        """Give whether the prompt may go out."""
        with self._lock:
            self._is_entered = not self._is_shut
            return self._is_entered

    def shut(self) -> bool:
        """Keep it in; give whether that came in time."""
        with self._lock:
            self._is_shut = True
            return not self._is_entered
