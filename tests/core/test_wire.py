"""JSON that is made to hurt its reader."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_magic.core.wire import LARGEST_VALUES, parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_any_value_is_read(value: object) -> None:
    """What is JSON is given as the standard library reads it."""
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False)) == value


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        "9" * 1_000_000,
        "[" + "[]," * LARGEST_VALUES + "1]",
        "[" + '"",' * LARGEST_VALUES + "1]",
        '"' * 4_000_000,
        '"' + '\\"' * 2_000_000 + "," * 2_000_000,
        "",
        "nul",
    ],
    ids=lambda text: f"{text[:6]}x{len(text)}",
)
def test_what_would_hurt_is_no_value(text: str) -> None:
    """Deep, endless, broken and overfull texts are one kind of error."""
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_a_long_string_may_hold_any_number_of_commas() -> None:
    """A table of 5 MB in a tool's input is one value."""
    text = 'a,b,[{"\\\n' * 600_000

    assert parse_json(json.dumps({"content": text})) == {"content": text}


def test_numbers_that_json_has_not_are_null() -> None:
    """Python's reader takes NaN and the infinities; nothing after it should meet them."""
    assert parse_json("[NaN, Infinity, -Infinity]") == [None, None, None]


def test_an_error_does_not_keep_the_text() -> None:
    """A notebook keeps the last error, and with it what it holds."""
    with pytest.raises(ValueError, match=r".") as caught:
        parse_json("x" * 1_000_000)

    assert caught.value.__cause__ is None
    assert len(f"{caught.value} {vars(caught.value)}") < 200
