"""Code -> inert HTML with coloured tokens, for the languages on a list."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from pygments.lexers import get_lexer_by_name
from pygments.token import Token

from opencode_magic.render import style
from opencode_magic.render.escape import markup_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pygments.token import _TokenType

_KNOWN = (
    "python bash json yaml toml sql css rust javascript typescript c cpp go java r diff julia ini"
    " make html xml ruby lua"
)
_OTHER_NAMES = (
    "py=python python3=python ipython=python sh=bash shell=bash zsh=bash js=javascript"
    " ts=typescript yml=yaml c++=cpp rs=rust golang=go patch=diff makefile=make jsonc=json"
)
LANGUAGES = {
    **{name: name for name in _KNOWN.split()},
    **dict(pair.split("=") for pair in _OTHER_NAMES.split()),
}
"""What a fence may call itself -> Pygments' name. Anything else is plain text."""

FENCE_LIMIT_CHARS = 20_000
LINE_LIMIT_CHARS = 1_000
REPLY_LIMIT_CHARS = 200_000
"""Beyond these code is shown without colours: a lexer is not always linear."""

_KINDS: tuple[tuple[_TokenType, str], ...] = (
    (Token.Comment, "comment"),
    (Token.Keyword, "keyword"),
    (Token.Operator.Word, "keyword"),
    (Token.Literal.String, "string"),
    (Token.Name.Tag, "keyword"),
    (Token.Generic.Inserted, "good"),
    (Token.Generic.Deleted, "bad"),
    (Token.Generic.Subheading, "comment"),
)
"""Few colours: a page of code stays calm, and a frame stays small."""


@dataclass(slots=True)
class Budget:
    """How much code of one reply may still be coloured."""

    left_chars: int = field(default=REPLY_LIMIT_CHARS)

    def take(self, code: str) -> bool:
        """Say whether this code may be coloured, and count it."""
        if len(code) > min(FENCE_LIMIT_CHARS, self.left_chars):
            return False
        if any(len(line) > LINE_LIMIT_CHARS for line in code.split("\n")):
            return False
        self.left_chars -= len(code)
        return True


def code_html(code: str, language: str, budget: Budget) -> str:
    """Give code for inside ``<pre>``; coloured where its language is known and it is small."""
    lexer_name = LANGUAGES.get(language.lower())
    if lexer_name is None or not budget.take(code):
        return markup_text(code)
    lexer = get_lexer_by_name(lexer_name, stripnl=False, ensurenl=False)
    return "".join(_spans(lexer.get_tokens(code)))


def _spans(tokens: Iterable[tuple[_TokenType, str]]) -> Iterator[str]:
    kinds = ((_kind(token), text) for token, text in tokens)
    for kind, group in groupby(kinds, key=lambda pair: pair[0]):
        text = markup_text("".join(piece for _, piece in group))
        yield f'<span style="{style.code_colour(kind)}">{text}</span>' if kind else text


def _kind(token: _TokenType) -> str:
    return next((kind for parent, kind in _KINDS if parent in token.split()), "")
