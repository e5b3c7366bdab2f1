"""Numbers and times -> the few words that a person reads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import tzinfo

_SMALL = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def seconds(duration_s: float) -> str:
    """Say how long something took."""
    if duration_s < 0.995:  # noqa: PLR2004 - from there it would round to 1.00
        return f"{max(0.0, duration_s):.2f} s"
    if duration_s < 99.95:  # noqa: PLR2004 - the same, at 100.0
        return f"{duration_s:.1f} s"
    minutes, rest = divmod(round(duration_s), 60)
    if minutes < 100:  # noqa: PLR2004 - beyond, seconds say nothing
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def time_left(left_ms: int) -> str:
    """Say how long a sandbox lives at most where its kernel does not renew its time."""
    minutes = round(left_ms / 60_000)
    if left_ms <= 0:
        return "time is up"
    if minutes == 0:
        return "under a minute without its kernel"
    took = f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"  # noqa: PLR2004 - as above
    return f"at most {took} without its kernel"


def clock(at_ms: int, zone: tzinfo | None) -> str:
    """Give the time of day; in the reader's own zone where none is named."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(zone).strftime("%H:%M:%S")


def tokens(count: int) -> str:
    """Say how many tokens."""
    if count < 1000:  # noqa: PLR2004 - from here in thousands
        return plural(count, "token")
    thousands = count / 1000
    return f"{thousands:.1f}k tokens" if thousands < 99.95 else f"{thousands:.0f}k tokens"  # noqa: PLR2004 - rounds to 100


def cost(dollars: float | None) -> str:
    """Say what it cost; unknown rather than wrong."""
    if dollars is None:
        return "cost unknown"
    if dollars == 0:
        return "no cost"
    return f"${dollars:.4f}" if dollars < 0.1 else f"${dollars:.2f}"  # noqa: PLR2004 - cents suffice from here


def plural(count: int, word: str) -> str:
    """Give a count and its word."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def spelled(count: int, word: str) -> str:
    """Give a count and its word, small counts spelled out."""
    number = _SMALL[count] if count < len(_SMALL) else str(count)
    return f"{number} {word}" if count == 1 else f"{number} {word}s"
