"""A turn -> lines on a terminal: each word once, as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from opencode_magic.core.parts import TextPart, ToolPart
from opencode_magic.render.blocks import turn_blocks
from opencode_magic.render.shapes import Answer, Footer, Notice
from opencode_magic.render.text import render_text
from opencode_magic.render.tools import tool_fold
from opencode_magic.render.visible import visible_text

if TYPE_CHECKING:
    from opencode_magic.core.parts import Turn


class TerminalView:
    """Writes what has come since the last call. Text that was replaced is written on, not again."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._written: dict[str, int] = {}
        self._is_mid_line = False

    def show(self, turn: Turn, *, is_final: bool = False) -> None:
        """Write on; the last call also writes how the turn ended and what it reached."""
        for part in turn.parts:
            if isinstance(part, TextPart) and not part.is_synthetic:
                self._write_text(part)
            elif isinstance(part, ToolPart) and part.status in {"completed", "error"}:
                self._write_tool(part)
        if turn.permissions:
            self._end_line()  # the question follows
        if is_final:
            self._end(turn)
        self._out.flush()

    def _write_text(self, part: TextPart) -> None:
        done = self._written.get(part.part_id, 0)
        if len(part.text) <= done:
            return
        if not done:
            self._end_line()
        text = visible_text(part.text[done:])
        self._out.write(text)
        self._is_mid_line = not text.endswith("\n")
        self._written[part.part_id] = len(part.text)

    def _write_tool(self, part: ToolPart) -> None:
        if part.part_id in self._written:
            return
        self._written[part.part_id] = 0
        self._end_line()
        self._out.write(f"{render_text((tool_fold(part, None, with_body=False),))}\n")

    def _end(self, turn: Turn) -> None:
        self._end_line()
        endings = [
            inner
            for block in turn_blocks(turn)
            if isinstance(block, Answer)
            for inner in block.blocks
            if isinstance(inner, Notice | Footer)
        ]
        self._out.write(f"{render_text(endings)}\n")

    def _end_line(self) -> None:
        if self._is_mid_line:
            self._out.write("\n")
            self._is_mid_line = False
