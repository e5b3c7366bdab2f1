"""Text from anywhere -> text in which nothing is hidden and nothing can move a cursor.

Terminal sequences go away; direction overrides and other control characters become their names;
characters that take no room go away. Line feeds and tabs stay.
"""

from __future__ import annotations

import re

_TERMINAL = re.compile(
    r"\x1b\[[0-?]{0,64}[ -/]{0,8}[@-~]"  # colours and cursor moves
    r"|\x1b[\]PX^_][^\x07\x1b\n]{0,4096}(?:\x07|\x1b\\)"  # titles, links, device strings
    r"|\x9b[0-?]{0,64}[ -/]{0,8}[@-~]"
    r"|\x1b[ -/]{0,4}[0-~]"
)
_SUSPECT = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e"
    r"\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0e\ufeff\uffa0\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e0fff]"
)
_DIRECTION = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_JOINERS = frozenset("\u200c\u200d")


def visible_text(text: str) -> str:
    """Give text that shows all it holds. Takes time linear in its length."""
    if text.isascii() and text.isprintable():
        return text
    text = text.replace("\r\n", "\n")
    if "\x1b" in text or "\x9b" in text:
        text = _TERMINAL.sub("", text)
    return _SUSPECT.sub(_shown, text)


def visible_line(text: str, *, limit_chars: int = 300) -> str:
    """Give the same on one line, its middle left out where it is longer than the limit."""
    cut = text if len(text) <= limit_chars * 8 else shorten(text, limit_chars=limit_chars * 8)
    return shorten(" ".join(visible_text(cut).split()), limit_chars=limit_chars)


def shorten(text: str, *, limit_chars: int, tail_chars: int | None = None) -> str:
    """Leave out the middle of text that is longer than the limit, and say so by a mark."""
    if len(text) <= limit_chars:
        return text
    tail = (limit_chars - 3) // 2 if tail_chars is None else tail_chars
    return f"{text[: limit_chars - 3 - tail]} … {text[len(text) - tail :]}"


def _shown(match: re.Match[str]) -> str:
    char = match.group()
    if char in _DIRECTION:
        return f"⟨U+{ord(char):04X}⟩"
    if char in _JOINERS:
        before = match.string[match.start() - 1 : match.start()]
        return "" if not before or before.isascii() else char
    if char in "\r\u2028\u2029\x85\x0b\x0c":
        return "\n"
    code = ord(char)
    if code < 0x20:  # noqa: PLR2004 - the C0 controls; Unicode keeps a picture of each
        return chr(0x2400 + code)
    return "\ufffd" if 0xD800 <= code <= 0xDFFF or 0x7F <= code <= 0x9F else ""  # noqa: PLR2004 - surrogates, C1
