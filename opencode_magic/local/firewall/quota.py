"""How many records a flood of attempts may make."""

from __future__ import annotations

import time


class Quota:
    """Bounds how many records one kind of attempt may make in a window of time.

    A tunnel or a scan makes thousands of attempts a second: past the limit they are refused just
    the same, and counted into one record.
    """

    WINDOW_S = 10.0
    LIMIT = 200
    GROUPS_LIMIT = 1024

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._since_s = time.monotonic()

    def is_within(self, group: str) -> bool:
        """Count one attempt; whether it gets a record of its own."""
        if len(self._counts) >= self.GROUPS_LIMIT and group not in self._counts:
            group = "*"
        self._counts[group] = count = self._counts.get(group, 0) + 1
        return count <= self.LIMIT

    def close_window(self) -> dict[str, int]:
        """Give how many went without a record, by group, once the window is over."""
        now_s = time.monotonic()
        if now_s - self._since_s < self.WINDOW_S:
            return {}
        self._since_s = now_s
        counts, self._counts = self._counts, {}
        return {group: n - self.LIMIT for group, n in counts.items() if n > self.LIMIT}
