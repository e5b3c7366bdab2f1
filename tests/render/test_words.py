from __future__ import annotations

from datetime import UTC, timedelta, timezone

import pytest

from opencode_magic.render import words


@pytest.mark.parametrize(
    ("duration_s", "said"),
    [
        (-1, "0.00 s"),
        (0.064, "0.06 s"),
        (0.994, "0.99 s"),
        (0.996, "1.0 s"),
        (2.34, "2.3 s"),
        (99.96, "1 min 40 s"),
        (5_999, "99 min 59 s"),
        (6_000, "1 h 40 min"),
    ],
)
def test_seconds(duration_s: float, said: str) -> None:
    """A time has the digits that matter."""
    assert words.seconds(duration_s) == said


@pytest.mark.parametrize(
    ("left_ms", "said"),
    [
        (-5, "time is up"),
        (0, "time is up"),
        (29_999, "under a minute without its kernel"),
        (14 * 60_000 + 59_000, "at most 15 min without its kernel"),
        (43 * 60_000, "at most 43 min without its kernel"),
        (125 * 60_000, "at most 2 h 5 min without its kernel"),
    ],
)
def test_time_left(left_ms: int, said: str) -> None:
    """The time that a live kernel renews is not said as one that runs out."""
    assert words.time_left(left_ms) == said


def test_clock() -> None:
    """The time of day is the reader's."""
    assert words.clock(1_764_072_271_000, UTC) == "12:04:31"
    assert words.clock(1_764_072_271_000, timezone(timedelta(hours=2))) == "14:04:31"


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 tokens"),
        (1, "1 token"),
        (999, "999 tokens"),
        (4_100, "4.1k tokens"),
        (120_412, "120k tokens"),
    ],
)
def test_tokens(count: int, said: str) -> None:
    """Tokens are counted in thousands once they are many."""
    assert words.tokens(count) == said


@pytest.mark.parametrize(
    ("dollars", "said"),
    [(None, "cost unknown"), (0.0, "no cost"), (0.00123, "$0.0012"), (1.5, "$1.50")],
)
def test_cost(dollars: float | None, said: str) -> None:
    """A cost that is not known is said to be unknown."""
    assert words.cost(dollars) == said


def test_counts() -> None:
    """A word stands in the number of its count."""
    assert [words.plural(1, "turn"), words.plural(2, "turn")] == ["1 turn", "2 turns"]
    assert [words.spelled(1, "probe"), words.spelled(4, "probe"), words.spelled(12, "probe")] == [
        "one probe",
        "four probes",
        "12 probes",
    ]
