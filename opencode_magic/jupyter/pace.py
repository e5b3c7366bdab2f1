"""When the next frame of a growing output may be sent, so that traffic grows with the output."""

from __future__ import annotations

from dataclasses import dataclass

MIN_INTERVAL_S = 0.15
BASE_INTERVAL_S = 0.05
PER_BYTE_S = 10e-6
"""A front end needs so long to show a byte that replaces another."""
MIN_GROWTH_CHARS = 120
GROWTH_SHARE = 2.2
"""A frame that only adds text waits until one part in so many of it is new."""
PATIENCE_S = 2.5
PATIENCE_PER_CHAR_S = 150e-6
PATIENCE_PER_FRAME_S = 0.15
"""Text that comes slowly is shown after this at the latest."""


@dataclass(slots=True)
class Pace:
    """Remembers the last frame, and says when the next may follow."""

    _sent_s: float = float("-inf")
    _sent_bytes: int = 0
    _sent_chars: int = 0
    _sent_shape: object = None
    frames: int = 0

    def wait_s(self, now_s: float, *, chars: int, shape: object) -> float:
        """Give how long a frame with so much text still has to wait; 0 or less means send it.

        Args:
            now_s: A clock that only goes forward.
            chars: How much text the frame holds.
            shape: What else it shows, such as the states of the tool calls. A change of that
                waits only for the shortest interval.
        """
        interval = max(MIN_INTERVAL_S, BASE_INTERVAL_S + PER_BYTE_S * self._sent_bytes)
        if shape == self._sent_shape and 0 <= chars - self._sent_chars < self._enough(chars):
            patience = PATIENCE_S + PATIENCE_PER_CHAR_S * chars + PATIENCE_PER_FRAME_S * self.frames
            interval = max(interval, patience)
        return self._sent_s + interval - now_s

    def sent(self, now_s: float, *, size_bytes: int, chars: int, shape: object) -> None:
        """Remember a frame that was sent."""
        self._sent_s = now_s
        self._sent_bytes = size_bytes
        self._sent_chars = chars
        self._sent_shape = shape
        self.frames += 1

    @staticmethod
    def _enough(chars: int) -> float:
        return max(MIN_GROWTH_CHARS, chars / GROWTH_SHARE)
