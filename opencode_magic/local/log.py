"""A command's output: kept in order, in memory while it is little, then in a nameless file."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Stream = Literal["stdout", "stderr"]
MEMORY_BYTES = 256 * 1024
"""What a log keeps in memory before it moves to a file."""


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of output; ``index`` counts up from 0 over both streams in the order they came."""

    index: int
    stream: Stream
    data: bytes


@dataclass(frozen=True, slots=True)
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
        self._first_index = 0
        self._written_bytes = 0
        self._memory = bytearray()
        self._file: int | None = None

    @property
    def next_index(self) -> int:
        """The index that the next output will have."""
        return self._first_index + len(self._pieces)

    @property
    def kept_bytes(self) -> int:
        """How much of the output is kept."""
        return self._written_bytes - self._pieces[0].start if self._pieces else 0

    def append(self, stream: Stream, data: bytes) -> None:
        """Keep a piece of output, and drop the oldest ones where the limit asks for it."""
        data = data[-self._limit_bytes :]
        if self._file is None and self._written_bytes + len(data) > MEMORY_BYTES:
            self._move_to_file()
        self._pieces.append(_Piece(stream, self._written_bytes, len(data)))
        self._written_bytes += len(data)
        while self._written_bytes - self._pieces[0].start > self._limit_bytes:
            self.dropped_bytes += self._pieces.popleft().size
            self._first_index += 1
        if self._file is None:
            self._memory += data
        else:
            self._write(self._written_bytes - len(data), data)

    def after(self, index: int) -> Iterator[Output]:
        """Give what is kept after an index, oldest first, read as it is asked for."""
        skipped = max(0, index + 1 - self._first_index)
        for number in range(skipped, len(self._pieces)):
            piece = self._pieces[number]
            yield Output(self._first_index + number, piece.stream, self._read(piece))

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

    def _move_to_file(self) -> None:
        with tempfile.TemporaryFile() as file:
            self._file = os.dup(file.fileno())
        self._write(0, bytes(self._memory))
        self._memory.clear()

    def _write(self, start: int, data: bytes) -> None:
        """Write at a place of the whole output; the file is a ring of the limit's size."""
        assert self._file is not None
        view = memoryview(data)
        while view:
            at = start % self._limit_bytes
            done = os.pwrite(self._file, view[: self._limit_bytes - at], at)
            view, start = view[done:], start + done

    def _read(self, piece: _Piece) -> bytes:
        if self._file is None:
            return bytes(self._memory[piece.start : piece.start + piece.size])
        at = piece.start % self._limit_bytes
        data = os.pread(self._file, min(piece.size, self._limit_bytes - at), at)
        return (
            data
            if len(data) == piece.size
            else data + os.pread(self._file, piece.size - len(data), 0)
        )
