"""The event stream decoder, byte for byte."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_magic.core.sse import EventDecoder, ServerSentEvent

LINE_ENDS = (b"\n", b"\r", b"\r\n")
TEXTS = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=30)


def events_of(*pieces: bytes) -> list[ServerSentEvent]:
    decoder = EventDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@pytest.mark.parametrize("end", LINE_ENDS)
def test_every_line_end_ends_a_line(end: bytes) -> None:
    """CR, LF and CRLF are the same."""
    data = end.join([b"data: one", b"data: two", b"", b"data: three", b"", b""])

    assert events_of(data) == [ServerSentEvent("one\ntwo"), ServerSentEvent("three")]


def test_separators_inside_json_are_text() -> None:
    """U+2028, U+2029, U+0085, vertical tab and form feed end no line."""
    text = "a\u2028b\u2029c\u0085d\x0be\x0cf"

    assert events_of(f"data: {text}\n\n".encode()) == [ServerSentEvent(text)]


def test_an_event_cut_in_two_by_the_network_arrives_whole() -> None:
    """Also inside a character, and between CR and LF."""
    data = "data: häppy\r\n\r\n".encode()

    for place in range(len(data)):
        assert events_of(data[:place], data[place:]) == [ServerSentEvent("häppy")]


@given(
    st.lists(st.lists(TEXTS, min_size=1, max_size=3), max_size=5),
    st.sampled_from(LINE_ENDS),
    st.lists(st.integers(min_value=0), max_size=12),
    st.sampled_from((b"", b"\xef\xbb\xbf")),
)
def test_any_split_gives_the_same_events(
    events: list[list[str]], end: bytes, places: list[int], mark: bytes
) -> None:
    """What is decoded depends on the bytes, not on how they are cut."""
    lines = [
        line for event in events for line in (*(f"data: {text}".encode() for text in event), b"")
    ]
    data = mark + b"".join(line + end for line in lines)

    expected = [ServerSentEvent("\n".join(event)) for event in events]
    assert events_of(*cut(data, places)) == expected


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_no_bytes_break_the_decoder(pieces: list[bytes]) -> None:
    """Whatever comes, it gives events or nothing, and the same for the joined bytes."""
    assert events_of(*pieces) == events_of(b"".join(pieces))


def test_fields_are_read_as_the_format_says() -> None:
    """Comments go, one blank after the colon goes, a name without a colon has an empty value."""
    decoder = EventDecoder()
    data = b": ping\nevent: x\nid: 7\nretry: 1500\ndata:  two blanks\ndata\nother: 1\n\ndata:b\n\n"

    events = decoder.feed(data)

    assert events == [
        ServerSentEvent(" two blanks\n", "x", "7"),
        ServerSentEvent("b", "message", "7"),
    ]
    assert decoder.retry_ms == 1500


def test_a_comment_is_no_event() -> None:
    """A server that says only that it lives says nothing."""
    assert events_of(b": ping\n\n", b"event: x\n\n", b"data: a\n\n") == [ServerSentEvent("a")]


def test_malformed_ids_and_retries_change_nothing() -> None:
    """An id with a null and a retry that is no number are left out."""
    decoder = EventDecoder()

    assert decoder.feed(b"id: a\0b\nretry: soon\ndata: x\n\n") == [ServerSentEvent("x")]
    assert decoder.retry_ms is None


def test_an_event_without_its_last_line_end_does_not_arrive() -> None:
    """A stream that is cut loses the event that it was in."""
    assert events_of(b"data: whole\n\ndata: half\n") == [ServerSentEvent("whole")]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_an_event_above_the_limit_is_left_out_and_counted(size: int) -> None:
    """The events around it arrive, however the bytes are cut."""
    decoder = EventDecoder(limit_bytes=20)
    data = b"data: a\n\ndata: " + b"x" * 50 + b"\ndata: y\n\ndata: b\n\n"

    events = [
        event
        for start in range(0, len(data), size)
        for event in decoder.feed(data[start : start + size])
    ]

    assert events == [ServerSentEvent("a"), ServerSentEvent("b")]
    assert decoder.oversized == 1


def test_no_bytes_give_no_events() -> None:
    """An empty piece changes nothing, also after a CR."""
    assert events_of(b"data: a\r", b"", b"\n\r\n") == [ServerSentEvent("a")]


@pytest.mark.parametrize("piece", [b"ab", b"data:ab\n", b"data:\n", b":x\n", b"id:ab\n"])
def test_an_event_without_end_fills_no_memory(piece: bytes) -> None:
    """Neither a line in tiny pieces nor lines without end take more than some events' room."""
    limit_bytes = 200_000
    decoder = EventDecoder(limit_bytes=limit_bytes)
    tracemalloc.start()

    for _ in range(2 * limit_bytes // len(piece)):
        assert decoder.feed(piece) == []
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak_bytes < 3 * limit_bytes
    assert decoder.feed(b"\n\ndata: next\n\n")[-1].data == "next"
    assert decoder.oversized == 1
