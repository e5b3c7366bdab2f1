"""JSON text from a server that may be hostile, to values of a bounded number.

A text of some megabytes can hold millions of empty lists, each of them twenty times as large in
memory, and can nest deeper than the interpreter goes.
"""

from __future__ import annotations

import json
import re

LARGEST_VALUES = 1_000_000
"""Values and names in one text. A page of 50 large messages has some ten thousand."""

_DECODER = json.JSONDecoder(parse_constant=lambda _name: None)  # made once: that takes time
_REST_OF_STRING = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)


def parse_json(text: str, *, limit: int = LARGEST_VALUES) -> object:
    """Give the value of a JSON text; NaN and the infinities, which JSON has not, become null.

    Args:
        text: The whole text.
        limit: How many values and names it may hold.

    Raises:
        ValueError: It is no JSON, nests too deep, or holds too much.
    """
    if _exceeds(text, limit):
        raise ValueError(f"more than {limit} values")
    try:
        value: object = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        # Its own error holds the whole text for as long as a traceback is kept.
        raise ValueError(error.msg) from None
    except RecursionError:
        raise ValueError("nested too deep") from None
    return value


def _exceeds(text: str, limit: int) -> bool:
    """Whether a text holds more values than this; its strings may hold any number of commas."""
    if len(text) <= limit or _marks(text, 0, len(text)) <= limit:
        return False
    count, place = 0, 0
    while count <= limit:
        quote = text.find('"', place)
        count += 1 + _marks(text, place, len(text) if quote < 0 else quote)
        if quote < 0:
            return count > limit
        rest = _REST_OF_STRING.match(text, quote + 1)
        place = quote + 1 if rest is None else rest.end()
    return True


def _marks(text: str, start: int, end: int) -> int:
    return sum(text.count(mark, start, end) for mark in ",[{")
