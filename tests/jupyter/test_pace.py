from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_magic.jupyter.pace import MIN_INTERVAL_S, Pace


def _play(size: int, *, rate: float, step: int = 5) -> tuple[int, int]:
    """Stream text at a rate in characters a second; give the frames and their bytes."""
    pace = Pace()
    sent_bytes = 0
    for chars in range(0, size + 1, step):
        now = chars / rate
        if pace.wait_s(now, chars=chars, shape=()) <= 0:
            pace.sent(now, size_bytes=chars + 500, chars=chars, shape=())
            sent_bytes += chars + 500
    return pace.frames, sent_bytes


def test_first_frame_goes_at_once() -> None:
    """Nothing waits before the first frame."""
    assert Pace().wait_s(0, chars=0, shape=()) <= 0


def test_shape_waits_only_for_the_interval() -> None:
    """A tool call that ends is shown soon, text that grows a little later."""
    pace = Pace()
    pace.sent(10, size_bytes=1_000, chars=100, shape=("running",))

    assert pace.wait_s(10.05, chars=100, shape=("done",)) == pytest.approx(MIN_INTERVAL_S - 0.05)
    assert pace.wait_s(10.05, chars=101, shape=("running",)) > 1
    assert pace.wait_s(10.2, chars=400, shape=("running",)) <= 0
    assert pace.wait_s(10.2, chars=50, shape=("running",)) <= 0


def test_large_frames_are_rare() -> None:
    """The interval grows with the size of the last frame."""
    pace = Pace()
    pace.sent(0, size_bytes=1_000_000, chars=900_000, shape=())

    assert pace.wait_s(0, chars=1_900_000, shape=()) == pytest.approx(10.05)


@pytest.mark.parametrize("rate", [50, 200, 1_000, 100_000])
def test_small_reply(rate: float) -> None:
    """A reply of 2 KB takes at most 24 frames before the last, however fast it comes."""
    frames, sent_bytes = _play(2_048, rate=rate)

    assert frames <= 24
    assert sent_bytes <= 35_000


@given(st.integers(20_000, 200_000), st.sampled_from([300, 3_000, 100_000]))
def test_traffic_is_linear(size: int, rate: float) -> None:
    """What is sent stays within a small multiple of the reply."""
    _, sent_bytes = _play(size, rate=rate, step=50)

    assert sent_bytes <= 20 * size
