"""Bytes of an event stream, in any split, to server-sent events.

Source: WHATWG HTML, section 9.2.6, "Interpreting an event stream".
"""

from __future__ import annotations

from dataclasses import dataclass

LARGEST_EVENT_BYTES = 64 * 1024 * 1024
"""A prompt comes back as an event; it may have 20 MB, and JSON may double it."""
LINE_BYTES = 64
"""What each further line of data takes in memory besides its text."""

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event. ``data`` is its lines joined by a line feed."""

    data: str
    event: str = "message"
    event_id: str = ""


class EventDecoder:
    """Feed it bytes as they come; it gives the events that they complete.

    Lines end at CR, LF or CRLF and nowhere else: JSON may hold U+2028 and U+0085 as they are.
    An event above the size limit is left out and counted. Never raises.

    Args:
        limit_bytes: The size of one event's lines; must be positive.
    """

    def __init__(self, *, limit_bytes: int = LARGEST_EVENT_BYTES) -> None:
        self.oversized = 0
        """How many events were left out because they were too large."""
        self.retry_ms: int | None = None
        """The last reconnection time that the server asked for."""
        self._limit_bytes = limit_bytes
        self._is_first_line = True
        self._is_after_cr = False
        self._is_skipping = False
        self._line = bytearray()  # a list of pieces takes much more where each is tiny
        self._size_bytes = 0
        self._data: list[str] = []
        self._event = ""
        self._event_id = ""

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """Take the next bytes; give the events that are whole now, oldest first."""
        if not data:
            return []
        if self._is_after_cr and data.startswith(b"\n"):
            data = data[1:]
        self._is_after_cr = data.endswith(b"\r")
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = data.split(b"\n")
        events = []
        for line in lines:
            self._take(line)
            whole, self._line = bytes(self._line), bytearray()
            event = self._line_ended(whole)
            if event is not None:
                events.append(event)
        self._take(rest)
        return events

    def _take(self, piece: bytes) -> None:
        self._size_bytes += len(piece)
        if self._size_bytes > self._limit_bytes and not self._is_skipping:
            self._is_skipping = True
            self._line, self._data = bytearray(), []
        if piece and not self._is_skipping:
            self._line += piece
        elif piece:
            # What matters of a line that is skipped is only that it is not empty.
            self._line = bytearray(b":")

    def _line_ended(self, line: bytes) -> ServerSentEvent | None:
        if self._is_first_line:
            self._is_first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._event_ended()
        if not self._is_skipping:
            self._field(line)
        return None

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        text = value.removeprefix(b" ").decode("utf-8", "replace")
        match name:
            case b"data":
                self._size_bytes += LINE_BYTES if self._data else 0
                self._data.append(text)
            case b"event":
                self._event = text
            case b"id" if "\0" not in text:
                self._event_id = text
            case b"retry" if text.isascii() and text.isdecimal():
                self.retry_ms = int(text[:9])
            case _:
                pass  # a comment or a field that the format does not know

    def _event_ended(self) -> ServerSentEvent | None:
        data, event, is_skipped = self._data, self._event, self._is_skipping
        self._data, self._event, self._size_bytes, self._is_skipping = [], "", 0, False
        if is_skipped:
            self.oversized += 1
            return None
        if not data:
            return None
        return ServerSentEvent("\n".join(data), event or "message", self._event_id)
