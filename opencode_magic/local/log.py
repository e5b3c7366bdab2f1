"""A command's output: kept in order, in memory while it is little, then in a nameless file."""

from __future__ import annotations

import itertools
import os
import tempfile
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Stream = Literal["stdout", "stderr"]
MEMORY_BYTES = 256 * 1024
"""What a log keeps in memory before it moves to a file."""
PIECE_BYTES = 64 * 1024
"""Output of one stream is joined up to this size: a program that writes byte by byte makes few."""
PIECES_LIMIT = 100_000
"""Pieces beyond it are dropped, oldest first: so many are small ones of streams that take turns."""


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of output; ``index`` is the place of its last byte, over both streams, from 0."""

    index: int
    stream: Stream
    data: bytes


@dataclass(slots=True)
class _Piece:
    stream: Stream
    start: int
    size: int


class OutputLog:
    """Not safe to use from two threads at once: the command that owns it has the lock.

    Attributes:
        dropped_bytes: How much of the oldest output is not kept any more.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.dropped_bytes = 0
        self._limit_bytes = limit_bytes
        self._pieces: deque[_Piece] = deque()
        self._written_bytes = 0
        self._memory = bytearray()
        self._file: int | None = None

    @property
    def next_index(self) -> int:
        """The index that a single byte more would have."""
        return self._written_bytes

    @property
    def kept_bytes(self) -> int:
        """How much of the output is kept."""
        return self._written_bytes - self._pieces[0].start if self._pieces else 0

    def append(self, stream: Stream, data: bytes, *, is_note: bool = False) -> None:
        """Keep a piece of output, and drop the oldest where a limit asks for it.

        Args:
            stream: Which one.
            data: What came.
            is_note: It is a line about the output, for which there is always room in memory.

        Raises:
            OSError: The disk does not take it; what was kept before still is.
        """
        is_much = self._written_bytes + len(data) > MEMORY_BYTES
        if self._file is None and is_much and not is_note:
            self._move_to_file()
        if self._file is None:
            self._memory += data
        else:
            newest = data[-self._limit_bytes :]
            self._write(self._written_bytes + len(data) - len(newest), newest)
        last = self._pieces[-1] if self._pieces else None
        if last is not None and last.stream == stream and last.size + len(data) <= PIECE_BYTES:
            last.size += len(data)
        else:
            self._pieces.append(_Piece(stream, self._written_bytes, len(data)))
        self._written_bytes += len(data)
        self._drop()

    def after(self, index: int) -> Iterator[Output]:
        """Give what is kept after an index, oldest first, read as it is asked for."""
        start = index + 1
        number = bisect_right(self._pieces, start, key=lambda piece: piece.start) - 1
        for piece in itertools.islice(self._pieces, max(0, number), None):
            skipped = max(0, start - piece.start)
            if skipped < piece.size:
                found = self._read(piece.start + skipped, piece.size - skipped)
                yield Output(piece.start + piece.size - 1, piece.stream, found)

    def close(self) -> None:
        """Give the file's room back. Nothing can be read afterwards. Twice is harmless."""
        self._pieces.clear()
        self._memory.clear()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)

    def _drop(self) -> None:
        excess = self.kept_bytes - self._limit_bytes
        while excess > 0 or len(self._pieces) > PIECES_LIMIT:
            oldest = self._pieces[0]
            cut = oldest.size if len(self._pieces) > PIECES_LIMIT else min(excess, oldest.size)
            oldest.start += cut
            oldest.size -= cut
            if not oldest.size:
                self._pieces.popleft()
            self.dropped_bytes += cut
            excess -= cut

    def _move_to_file(self) -> None:
        with tempfile.TemporaryFile() as file:
            self._file = os.dup(file.fileno())
        try:
            self._write(0, bytes(self._memory))
        except OSError:
            os.close(self._file)
            self._file = None
            raise
        self._memory.clear()

    def _write(self, start: int, data: bytes) -> None:
        """Write at a place of the whole output; the file is a ring of the limit's size."""
        assert self._file is not None
        view = memoryview(data)
        while view:
            at = start % self._limit_bytes
            done = os.pwrite(self._file, view[: self._limit_bytes - at], at)
            view, start = view[done:], start + done

    def _read(self, start: int, size: int) -> bytes:
        if self._file is None:
            return bytes(self._memory[start : start + size])
        at = start % self._limit_bytes
        data = os.pread(self._file, min(size, self._limit_bytes - at), at)
        return data if len(data) == size else data + os.pread(self._file, size - len(data), 0)
