from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from opencode_magic.local import log
from opencode_magic.local.log import Output, OutputLog

PIECES = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(min_size=1)))


@given(pieces=PIECES, limit=st.integers(20, 200), memory=st.integers(0, 200))
@settings(max_examples=300, deadline=None)
def test_what_is_kept_is_the_end_of_what_came(
    pieces: list[tuple[log.Stream, bytes]], limit: int, memory: int
) -> None:
    """Whatever came, in memory or in a file: the newest pieces that fit are kept, unchanged."""
    kept = OutputLog(limit)
    usual, log.MEMORY_BYTES = log.MEMORY_BYTES, memory
    try:
        for stream, data in pieces:
            kept.append(stream, data)
    finally:
        log.MEMORY_BYTES = usual
    everything = [
        Output(index, stream, data[-limit:]) for index, (stream, data) in enumerate(pieces)
    ]
    found = list(kept.after(-1))
    kept.close()

    assert found == everything[len(everything) - len(found) :]
    assert kept.dropped_bytes == sum(
        len(output.data) for output in everything[: len(everything) - len(found)]
    )
    dropped = everything[: len(everything) - len(found)]
    assert not dropped or sum(len(o.data) for o in [dropped[-1], *found]) > limit


def test_reading_starts_after_an_index() -> None:
    """Only what came after the index is given, also where older pieces were dropped."""
    kept = OutputLog(30)
    for number in range(10):
        kept.append("stdout", f"{number}".encode() * 10)

    assert [output.index for output in kept.after(-1)] == [7, 8, 9]
    assert [output.index for output in kept.after(7)] == [8, 9]
    assert list(kept.after(9)) == []
    assert kept.next_index == 10


def test_a_long_log_leaves_memory() -> None:
    """Beyond a quarter of a megabyte the log stands in a file that has no name."""
    kept = OutputLog(10_000_000)
    for _ in range(100):
        kept.append("stderr", bytes(10_000))

    assert len(kept._memory) == 0
    assert sum(len(output.data) for output in kept.after(-1)) == 1_000_000
    kept.close()
    kept.close()
