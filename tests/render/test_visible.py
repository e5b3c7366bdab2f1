from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_magic.render.visible import shorten, visible_line, visible_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x\x1b]8;;http://h\x1b\\y", "xy"),
        ("\x9b1mx", "x"),
        ("\x1b(Bx", "x"),
        ("\x1b", "␛"),
        ("\x00\x07", "␀␇"),
        ("\x7f\x80", "��"),
        ("\x0b\x0c\x85\u2028\u2029", "\n\n\n\n\n"),
        ("a\u202eb", "a⟨U+202E⟩b"),
        ("a\u200bb\ufeff\u200e", "ab"),
        ("a\u200db", "ab"),
        ("👩\u200d💻", "👩\u200d💻"),
        ("\u200d", ""),
        ("\ud83d", "�"),
        ("é", "é"),
    ],
)
def test_visible_text(text: str, shown: str) -> None:
    """What is hidden or moves a cursor is named, pictured or left out; the rest stays."""
    assert visible_text(text) == shown


def test_cut_sequence() -> None:
    """A terminal sequence that came in two pieces cannot be put together again."""
    assert visible_text("\x1b") + visible_text("[31m") == "␛[31m"


@given(st.text())
def test_nothing_moves(text: str) -> None:
    """Whatever comes, no control character but line feed and tab stays, and it can be encoded."""
    shown = visible_text(text)

    assert all(char in "\n\t" or char.isprintable() or ord(char) > 0x9F for char in shown)
    assert "\u202e" not in shown
    shown.encode()


def test_visible_line() -> None:
    """A line has no line feed and keeps its two ends."""
    assert visible_line("a\nb\t c") == "a b c"
    assert visible_line("a" * 50 + "b" * 50, limit_chars=23) == "a" * 10 + " … " + "b" * 10
    assert len(visible_line("a" * 1_000_000)) == 300


def test_shorten() -> None:
    """A text within the limit stays as it is; of another a tail can be asked for."""
    assert shorten("abc", limit_chars=3) == "abc"
    assert shorten("a" * 20 + "z", limit_chars=10, tail_chars=1) == "aaaaaa … z"
