"""Markdown that grows -> inert HTML, each finished part rendered once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from opencode_magic.render.chunks import Splitter
from opencode_magic.render.inert import HTML_LIMIT_CHARS, markdown_html, plain_html

if TYPE_CHECKING:
    from opencode_magic.render.shapes import Prose


@dataclass(slots=True)
class _Growing:
    splitter: Splitter = field(default_factory=Splitter)
    done_text: str = ""
    done_html: list[str] = field(default_factory=list)
    done_chars: int = 0


class LiveMarkdown:
    """Renders the parts of one turn while they grow.

    What stands before the last safe cut is rendered once; only the tail is written anew each time,
    as plain text. A part whose text is replaced is rendered from its beginning. Code gets its
    colours and links become links with the last frame, which is rendered as a whole.
    """

    def __init__(self) -> None:
        self._growing: dict[str, _Growing] = {}

    def html(self, prose: Prose) -> str:
        """Give the HTML of a part as it stands now."""
        growing = self._growing.setdefault(prose.key, _Growing())
        if not prose.text.startswith(growing.done_text):
            growing = self._growing[prose.key] = _Growing()
        start = len(growing.done_text)
        cuts = growing.splitter.feed(prose.text)
        if cuts:
            finished = prose.text[start : cuts[-1]]
            is_short = growing.done_chars < HTML_LIMIT_CHARS
            html = markdown_html(finished, is_draft=True) if is_short else plain_html(finished)
            growing.done_html.append(html)
            growing.done_chars += len(html)
            growing.done_text = prose.text[: cuts[-1]]
        return "".join(growing.done_html) + plain_html(prose.text[len(growing.done_text) :])
