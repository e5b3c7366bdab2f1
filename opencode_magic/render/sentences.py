"""A sentence and its next step -> spans in which commands are shown as such."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from opencode_magic.errors import as_sentence
from opencode_magic.render.shapes import Span

if TYPE_CHECKING:
    from opencode_magic.render.shapes import Line

_COMMAND = re.compile(
    r"`([^`]{1,200})`|(%{1,2}(?:opencode_\w+|ask|load_ext)(?: --?[\w-]+(?: [\w/.:-]+)?)*)"
)


def with_next(text: str, next_step: str) -> Line:
    """Give what went wrong and, where there is one, the next step."""
    if not next_step:
        return _with_commands(text)
    return (*_with_commands(as_sentence(text)), Span(" Next: "), *_with_commands(next_step))


def _with_commands(text: str) -> Line:
    """Cut a sentence so that commands in it can be shown as such."""
    spans = []
    end = 0
    for match in _COMMAND.finditer(text):
        if match.start() > end:
            spans.append(Span(text[end : match.start()]))
        spans.append(Span(match.group(1) or match.group(2), form="code"))
        end = match.end()
    if end < len(text):
        spans.append(Span(text[end:]))
    return tuple(spans)
