"""Blocks -> inert HTML: inline styles, ``details``, no script, no address that loads by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from opencode_magic.render import style
from opencode_magic.render.escape import markup_text
from opencode_magic.render.highlight import Budget, code_html
from opencode_magic.render.inert import HTML_LIMIT_CHARS, markdown_html, plain_html
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
from opencode_magic.render.text import render_text
from opencode_magic.render.wall import ROOT_CLASS, is_inert

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


PROSE_LIMIT_CHARS = 2 * HTML_LIMIT_CHARS
"""Once the parts of a reply have made so much HTML, the others are shown as plain text."""
SHORT_CELL_CHARS = 24
"""A cell of a table with no more than this is not broken into lines."""


def render_html(blocks: Sequence[Block], *, prose: Callable[[Prose], str] | None = None) -> str:
    """Give one inert element for the blocks.

    Args:
        blocks: What to show.
        prose: Gives the HTML of the agent's Markdown; a view that shows it while it grows brings
            its own. Whatever it gives is checked like the rest.

    Returns:
        HTML that passed the second wall, or the blocks as plain text where it did not.
    """
    body = _Writer(prose or _whole).blocks(blocks)
    html = f'<div class="{ROOT_CLASS}" style="{style.ROOT}">{body}</div>'
    if is_inert(html):
        return html
    return f'<div class="{ROOT_CLASS}">{plain_html(render_text(blocks))}</div>'


def _whole(prose: Prose) -> str:
    return markdown_html(prose.text)


class _Writer:
    """Writes blocks; holds what a whole reply may spend on colouring code."""

    def __init__(self, prose: Callable[[Prose], str]) -> None:
        self._prose = prose
        self._budget = Budget()
        self._prose_left_chars = PROSE_LIMIT_CHARS

    def blocks(self, blocks: Sequence[Block]) -> str:
        return "".join(self.block(block) for block in blocks)

    def block(self, block: Block) -> str:  # noqa: C901, PLR0911 - one arm a kind of block
        match block:
            case Prose():
                return f'<div style="{style.PROSE}">{self._said(block)}</div>'
            case Code():
                return self._code(block)
            case Row():
                return f'<div style="{style.ROW}">{_sides(block.left, block.right)}</div>'
            case Steps():
                return _steps(block)
            case Fold():
                return self._fold(block)
            case Footer():
                return _footer(block)
            case Notice():
                return _notice(block)
            case Table():
                return _table(block)
            case Card():
                return self._card(block)
            case Answer():
                return f'<div style="{style.ANSWER}">{self.blocks(block.blocks)}</div>'
            case _ as never:
                assert_never(never)

    def _said(self, prose: Prose) -> str:
        html = self._prose(prose) if self._prose_left_chars > 0 else plain_html(prose.text)
        self._prose_left_chars -= len(html)
        return html

    def _code(self, code: Code) -> str:
        declarations = style.CODE if code.language else style.WRAPPED
        text = code_html(code.text, code.language, self._budget)
        return f'<pre style="{declarations}">{text}</pre>'

    def _fold(self, fold: Fold) -> str:
        right = f'<span style="{style.SUMMARY_RIGHT}">{_line(fold.right)}</span>'
        line = f"{_line(fold.left)} {right}"
        if not fold.body:
            return f'<div style="{style.FOLD}{style.NO_MARKER}">{line}</div>'
        summary = f'<summary style="{style.SUMMARY}">{line}</summary>'
        body = f'<div style="{style.FOLD_BODY}">{self.blocks(fold.body)}</div>'
        is_open = " open" if fold.is_open else ""
        return f'<details{is_open} style="{style.FOLD}">{summary}{body}</details>'

    def _card(self, card: Card) -> str:
        rows = []
        for index, block in enumerate(card.blocks):
            declarations = (style.ROW_LINE if index else "") + _padding(block)
            rows.append(f'<div style="{declarations}">{self.block(block)}</div>')
        inner = "".join(rows)
        return f'<div style="{style.CARD}">{inner}</div>'


def _padding(block: Block) -> str:
    return style.INSET if isinstance(block, Code) else ""


def _sides(left: Line, right: Line) -> str:
    end = f'<div style="{style.RIGHT}">{_line(right)}</div>' if right else ""
    return f'<div style="{style.LEFT}">{_items(left)}</div>{end}'


def _line(line: Line, *, gap: str = " ") -> str:
    return gap.join(_span(span) for span in line)


def _items(line: Line) -> str:
    """Give the spans as elements of their own, each label in one with what it names."""
    items, label = [], ""
    for span in line:
        item = f"{label}{_span(span)}"
        if span.is_label and span is not line[-1]:
            label = f"{item} "
            continue
        is_bare = span.form == "text" and span.tone == "plain"
        items.append(f"<span>{item}</span>" if label or is_bare else item)
        label = ""
    return " ".join(items)


def _span(span: Span) -> str:
    text = markup_text(span.text)
    tone = style.colour(span.tone)
    match span.form:
        case "pill":
            return f'<span style="{style.PILL}{style.wash(span.tone)}{tone}">{text}</span>'
        case "code":
            return f'<code style="{style.CHIP}{tone}">{text}</code>'
        case "mono":
            return f'<span style="{style.TOOL}{tone}">{text}</span>'
        case "tool":
            return f'<strong style="{style.TOOL}{tone}">{text}</strong>'
        case "strong":
            return f'<strong style="{style.STRONG}{tone}">{text}</strong>'
        case "text":
            return f'<span style="{tone}">{text}</span>' if tone else text
        case _ as never:
            assert_never(never)


def _steps(steps: Steps) -> str:
    rows = []
    for item in steps.items:
        mark = (
            f'<span style="{style.MARK}{style.colour(item.tone)}">{markup_text(item.mark)}</span>'
        )
        label_tone = style.colour("muted") if item.tone == "muted" else ""
        label = f'<span style="{label_tone}">{markup_text(item.label)}</span>'
        detail = _span(Span(item.detail, "muted")) if item.detail else ""
        right = _span(Span(item.right, "muted")) if item.right else ""
        rows.append(
            f'<div style="{style.STEP}">{mark}<div style="{style.LABEL}">{label} {detail}</div>'
            f'<div style="{style.TIMES}">{right}</div></div>'
        )
    track = ""
    if steps.fraction is not None:
        width = round(100 * min(1.0, max(0.0, steps.fraction)))
        fill = f'<div style="{style.FILL}{style.bar("active")}width:{width}%;"></div>'
        track = f'<div style="{style.TRACK}">{fill}</div>'
    return f'<div style="{style.STEPS}">{"".join(rows)}{track}</div>'


def _footer(footer: Footer) -> str:
    left = " ".join(f"<span>{_line(line, gap='')}</span>" for line in footer.left)
    right = (
        f'<span style="{style.RIGHT}">{_line(footer.right, gap="")}</span>' if footer.right else ""
    )
    return f'<div style="{style.FOOTER}">{left}{right}</div>'


def _notice(notice: Notice) -> str:
    heading = f"{_span(Span(notice.heading, notice.tone, 'strong'))} " if notice.heading else ""
    text = _line(notice.line, gap="")
    return f'<div style="{style.rule(notice.tone)}{style.NOTICE}">{heading}{text}</div>'


def _cell_style(cell: Sequence[Span]) -> str:
    """Keep what is short in one line: a mark belongs beside its word."""
    is_short = sum(len(span.text) for span in cell) <= SHORT_CELL_CHARS
    return style.SHORT_CELL if is_short else style.CELL


def _table(table: Table) -> str:
    head = "".join(f'<th style="{style.HEAD}">{markup_text(name)}</th>' for name in table.header)
    rows = "".join(
        f'<tr style="{style.TABLE_ROW}">'
        + "".join(f'<td style="{_cell_style(cell)}">{_line(cell, gap="")}</td>' for cell in row)
        + "</tr>"
        for row in table.rows
    )
    return (
        f'<div style="{style.WIDE}"><table style="{style.TABLE}">'
        f'<thead><tr style="{style.TABLE_ROW}">{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
