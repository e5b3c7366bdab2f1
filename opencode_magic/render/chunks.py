"""Markdown -> chunks that can be rendered one by one, as it grows or when it is long."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)", re.DOTALL)
_GOES_ON = re.compile(r"(?:[*+-]|\d{1,9}[.)])(?:\s|$)|\s")


class Fences:
    """Follows fenced code line by line, as CommonMark does at the margin."""

    def __init__(self) -> None:
        self._marker = ""

    @property
    def is_inside(self) -> bool:
        """Whether a fence is open."""
        return bool(self._marker)

    def feed(self, line: str) -> bool:
        """Read a line; say whether it belongs to fenced code, its first and last line included."""
        match = _FENCE.match(line) if line[:1] in {" ", "`", "~"} else None
        if self._marker:
            if match and not match.group(2).strip() and match.group(1).startswith(self._marker):
                self._marker = ""
            return True
        if match is None or (match.group(1)[0] == "`" and "`" in match.group(2)):
            return False
        self._marker = match.group(1)
        return True


class Splitter:
    """Finds the places where Markdown can be cut, reading each character once.

    A cut stands before a line that starts at the margin, after a blank line, outside a fence,
    and that does not go on with a list.
    """

    def __init__(self) -> None:
        self._fences = Fences()
        self._was_blank = False
        self._read = 0
        self.cut = 0
        """Where the last cut stands: everything before it can be rendered for good."""

    def feed(self, text: str) -> list[int]:
        """Read on in a text that has grown at its end; give the places of further cuts."""
        cuts = []
        end = text.find("\n", self._read)
        while end >= 0:
            if self._is_cut(text[self._read : end]) and self._read > self.cut:
                self.cut = self._read
                cuts.append(self._read)
            self._read = end + 1
            end = text.find("\n", self._read)
        return cuts

    def _is_cut(self, line: str) -> bool:
        was_inside = self._fences.is_inside
        self._fences.feed(line)
        was_blank, self._was_blank = self._was_blank, not line.strip()
        return was_blank and not was_inside and bool(line) and _GOES_ON.match(line) is None


def split_markdown(text: str, *, at_least_chars: int = 4_000) -> Iterator[str]:
    """Cut Markdown into chunks, each at least so long where a cut can be found."""
    start = 0
    for cut in Splitter().feed(text):
        if cut - start >= at_least_chars:
            yield text[start:cut]
            start = cut
    if start < len(text):
        yield text[start:]


def paragraphs(text: str) -> Iterator[str]:
    """Give what stands outside fenced code, paragraph by paragraph."""
    fences = Fences()
    lines: list[str] = []
    for line in text.split("\n"):
        if not fences.feed(line) and line.strip():
            lines.append(line)
        elif lines:
            yield "\n".join(lines)
            lines = []
    if lines:
        yield "\n".join(lines)
