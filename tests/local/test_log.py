from __future__ import annotations

import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opencode_magic.local import log
from opencode_magic.local.log import Output, OutputLog

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECES = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(min_size=1)))


def octets(outputs: list[Output]) -> list[tuple[int, str, int]]:
    """Give every byte with its place and its stream."""
    return [
        (output.index - len(output.data) + 1 + at, output.stream, octet)
        for output in outputs
        for at, octet in enumerate(output.data)
    ]


@given(
    pieces=PIECES,
    limit=st.integers(20, 200),
    memory=st.integers(0, 200),
    joined=st.integers(1, 200),
    after=st.integers(-1, 400),
)
@settings(max_examples=300, deadline=None)
def test_what_is_kept_is_the_end_of_what_came(
    pieces: list[tuple[log.Stream, bytes]], limit: int, memory: int, joined: int, after: int
) -> None:
    """Whatever came, in memory or in a file: the newest bytes are kept, in order, unchanged."""
    kept = OutputLog(limit)
    usual = log.MEMORY_BYTES, log.PIECE_BYTES
    log.MEMORY_BYTES, log.PIECE_BYTES = memory, joined
    try:
        for stream, data in pieces:
            kept.append(stream, data)
    finally:
        log.MEMORY_BYTES, log.PIECE_BYTES = usual
    all_octets = [(stream, octet) for stream, data in pieces for octet in data]
    everything = [(index, *octet) for index, octet in enumerate(all_octets)]
    found, later = octets(list(kept.after(-1))), octets(list(kept.after(after)))
    numbers = kept.dropped_bytes, kept.kept_bytes, kept.next_index
    kept.close()

    assert found == everything[-limit:]
    assert later == [octet for octet in found if octet[0] > after]
    assert numbers == (len(everything) - len(found), len(found), len(everything))


def test_reading_starts_after_an_index() -> None:
    """Only what came after the index is given, also where older output was dropped."""
    kept = OutputLog(30)
    for number in range(10):
        kept.append("stderr" if number % 2 else "stdout", f"{number}".encode() * 10)

    assert [output.index for output in kept.after(-1)] == [79, 89, 99]
    assert [output.index for output in kept.after(79)] == [89, 99]
    assert [output.data for output in kept.after(84)] == [b"8" * 5, b"9" * 10]
    assert list(kept.after(99)) == []
    assert kept.next_index == 100


def test_small_pieces_take_no_more_memory_than_large_ones() -> None:
    """A program that writes byte by byte costs the server no record for each of them."""
    plain, mixed = OutputLog(10_000_000), OutputLog(10_000_000)
    for number in range(log.PIECES_LIMIT + 1000):
        plain.append("stdout", b"x")
        mixed.append("stderr" if number % 2 else "stdout", b"x")

    assert len(plain._pieces) < 10
    assert plain.dropped_bytes == 0
    assert len(mixed._pieces) == log.PIECES_LIMIT
    assert mixed.dropped_bytes == 1000
    for kept in (plain, mixed):
        kept.close()


def test_a_long_log_leaves_memory() -> None:
    """Beyond a quarter of a megabyte the log stands in a file that has no name."""
    kept = OutputLog(10_000_000)
    for _ in range(100):
        kept.append("stderr", bytes(10_000))

    assert len(kept._memory) == 0
    assert sum(len(output.data) for output in kept.after(-1)) == 1_000_000
    kept.close()
    kept.close()


@pytest.mark.parametrize("room", [1000, log.MEMORY_BYTES + 1000])
def test_output_that_the_disk_does_not_take(room: int) -> None:
    """What cannot be kept is an error that leaves what was there, and later output is kept."""
    kept = OutputLog(10 * log.MEMORY_BYTES)
    first = bytes(log.MEMORY_BYTES)
    kept.append("stdout", first)
    with files_up_to(room), pytest.raises(OSError, match="too large"):
        kept.append("stderr", bytes(100_000))
    kept.append("stderr", b"later")
    found = list(kept.after(-1))

    assert b"".join(output.data for output in found) == first + b"later"
    assert {output.stream for output in found} == {"stdout", "stderr"}
    assert (kept.kept_bytes, kept.dropped_bytes) == (log.MEMORY_BYTES + 5, 0)


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
