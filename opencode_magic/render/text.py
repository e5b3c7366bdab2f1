"""Blocks -> plain text for terminals, saved notebooks and viewers that show no HTML."""

from __future__ import annotations

from itertools import zip_longest
from textwrap import wrap
from typing import TYPE_CHECKING, assert_never

from opencode_magic.render.shapes import (
    Answer,
    Block,
    Card,
    Code,
    Fold,
    Footer,
    Line,
    Notice,
    Prose,
    Row,
    Span,
    Steps,
    Table,
)
from opencode_magic.render.visible import visible_text

if TYPE_CHECKING:
    from collections.abc import Sequence


CELL_WIDTH = 60
"""Characters of a table's cell before it goes on in another line."""


def render_text(blocks: Sequence[Block]) -> str:
    """Give the blocks as lines without terminal sequences or hidden characters.

    The agent's Markdown stays as it was written; a fold shows its line, and its body where it is
    open.
    """
    return "\n".join(_lines(blocks))


def _lines(blocks: Sequence[Block]) -> list[str]:
    lines: list[str] = []
    for block in blocks:
        if isinstance(block, Prose | Footer | Card) and lines and lines[-1]:
            lines.append("")
        lines.extend(_block_lines(block))
        if isinstance(block, Prose):
            lines.append("")
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _block_lines(block: Block) -> list[str]:  # noqa: PLR0911 - one arm a kind of block
    match block:
        case Prose():
            return visible_text(block.text).strip("\n").split("\n")
        case Code():
            return ["    " + line for line in visible_text(block.text).split("\n")]
        case Row():
            return [_two_sides(_row(block.left), _words(block.right))]
        case Steps():
            return [_step(item.mark, item.label, item.detail, item.right) for item in block.items]
        case Fold():
            head = f"[{_two_sides(_words(block.left), _words(block.right))}]"
            return [head, *(_lines(block.body) if block.is_open else [])]
        case Footer():
            sides = [_words(line, gap="") for line in block.left]
            return ["-- " + _two_sides(", ".join(sides), _words(block.right, gap=""))]
        case Notice():
            heading = f"{visible_text(block.heading)} " if block.heading else ""
            return [heading + _words(block.line, gap="")]
        case Table():
            return _table(block)
        case Card() | Answer():
            return _lines(block.blocks)
        case _ as never:
            assert_never(never)


def _row(line: Line) -> str:
    """Give the spans of a row, each label close to what it names."""
    text = ""
    for index, span in enumerate(line):
        before = line[index - 1] if index else span
        text += ("" if not index else " " if before.is_label else "  ") + _span(span)
    return text


def _words(line: Line, *, gap: str = " ") -> str:
    return gap.join(_span(span) for span in line).strip()


def _span(span: Span) -> str:
    text = visible_text(span.text).replace("\n", " ")
    return f"[{text}]" if span.form == "pill" else text


def _two_sides(left: str, right: str) -> str:
    return f"{left}  ({right})" if left and right else left or right


def _step(mark: str, label: str, detail: str, right: str) -> str:
    words = " ".join(filter(None, (mark, label, detail)))
    return f"  {_two_sides(visible_text(words), right)}"


def _table(table: Table) -> list[str]:
    rows = [list(table.header), *([_words(cell, gap="") for cell in row] for row in table.rows)]
    cells = [[_cell_lines(cell) for cell in row] for row in rows]
    widths = [
        max(len(line) for row in cells for line in row[column])
        for column in range(len(table.header))
    ]
    return [
        "  ".join(line.ljust(width) for line, width in zip(lines, widths, strict=True)).rstrip()
        for row in cells
        for lines in zip_longest(*row, fillvalue="")
    ]


def _cell_lines(cell: str) -> list[str]:
    """Give a cell in lines that a terminal has room for; a path or an address stays whole."""
    return wrap(cell, CELL_WIDTH, break_long_words=False, break_on_hyphens=False) or [""]
