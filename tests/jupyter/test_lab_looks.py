"""Cards in a real JupyterLab: nothing is cut off in a narrow window, all text has contrast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest

from tests.jupyter.lab import Theme, open_notebook, running_browser, running_lab, write_notebook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.jupyter.lab import LabPage

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parent.parent.parent
CARDS = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from dataclasses import replace
from opencode_magic.jupyter.cards import show
from opencode_magic.render import blocks
from opencode_magic.render.shapes import Answer, Prose
from tests.render import samples as s
def status(value):
    return blocks.status_blocks(value, s.NOON_MS)
show(status(s.LAUNCHING)); show(status(s.LOCKED)); show(status(s.NOT_LAUNCHED))
show(status(replace(s.LOCKED, phase="down")))
show(blocks.turn_blocks(s.TURN)); show(blocks.turn_blocks(s.LONG_TURN))
show(blocks.proof_blocks(s.PROOF)); show(blocks.proof_blocks(s.BREACHED))
show(blocks.permission_blocks(s.PERMISSION)); show(blocks.doctor_blocks(s.CHECKS))
show(blocks.down_blocks(s.DOWN)); show(blocks.error_blocks(s.NO_NAMESPACES))
heads = [f"column {{n}}" for n in range(9)]
rows = ["|".join(heads), "|".join(["---"] * 9), "|".join(["some words in a cell"] * 9)]
show([Answer((Prose("\\n".join(rows)),))])
long = replace(s.BASH, input={{"command": "make " * 24}})
messages = (replace(s.TURN.messages[0], parts=(s.BASH, long, s.BASH)),)
show(blocks.turn_blocks(replace(s.TURN, messages=messages)))
show([Answer((Prose("שלום עולם!\\n\\nhello, עולם!"),))])
"""

CUT_OFF = """() => {
    const found = [];
    const parts = ".jp-OutputArea-output td, .jp-OutputArea-output span";
    for (const part of document.querySelectorAll(parts)) {
        const box = part.getBoundingClientRect();
        if (!box.width || !part.textContent.trim()) continue;
        let over = part.parentElement;
        let scrolls = false;
        while (over && !over.matches(".jp-OutputArea-output")) {
            const style = getComputedStyle(over);
            scrolls ||= style.overflowX === "auto";
            if (style.overflowX === "hidden" && !scrolls
                && box.right > over.getBoundingClientRect().right + 1) {
                found.push("cut off: " + part.textContent);
            }
            over = over.parentElement;
        }
        const isNumber = /^[\\d.]+ [a-z]+$/.test(part.textContent.trim());
        if (isNumber && box.height > 30) found.push("broken: " + part.textContent);
        if (part.matches("td") && box.width < 60) found.push("squeezed: " + part.textContent);
    }
    return found;
}"""
"""Text that a border hides where nothing scrolls, numbers without their unit, narrow cells."""

FAINT = """() => {
    const parse = text => {
        const numbers = text.match(/-?[\\d.]+(e-?\\d+)?/g).map(Number);
        const scale = text.startsWith("color(") ? 255 : 1;
        return [...numbers.slice(0, 3).map(n => n * scale), numbers[3] ?? 1];
    };
    const over = (top, alpha, bottom) => bottom.map((c, i) => top[i] * alpha + c * (1 - alpha));
    const light = rgb => {
        const [r, g, b] = rgb.map(c => c / 255)
            .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const chain = node => node ? [...chain(node.parentElement), node] : [];
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const node = walker.currentNode.parentElement;
        if (!node.closest(".jp-OutputArea-output") || !walker.currentNode.data.trim()) continue;
        let back = [255, 255, 255], opacity = 1;
        for (const above of chain(node)) {
            const style = getComputedStyle(above);
            opacity *= Number(style.opacity);
            const colour = parse(style.backgroundColor);
            back = over(colour, colour[3] * opacity, back);
        }
        const colour = parse(getComputedStyle(node).color);
        const [a, b] = [light(over(colour, colour[3] * opacity, back)), light(back)];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) found.push(contrast.toFixed(2) + " " + walker.currentNode.data.trim());
    }
    return found;
}"""
"""Text with less contrast than WCAG 2 asks for (level AA), with the contrast that it has."""


OUTSIDE = """() => [...document.querySelectorAll(".jp-OutputArea-output summary")].filter(row => {
    const box = row.getBoundingClientRect();
    return [...row.children].map(part => part.getBoundingClientRect()).some(part =>
        part.top < box.top || part.bottom > box.bottom || part.right > box.right + 1);
}).map(row => row.textContent)"""
"""Rows of tool calls that do not hold all that stands in them."""


SIDE = "p => getComputedStyle(p).direction + ' ' + getComputedStyle(p).textAlign"


@pytest.fixture(scope="module", params=get_args(Theme))
def cards(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabPage]:
    """Give JupyterLab in one theme, in a narrow window, with every kind of card."""
    folder = tmp_path_factory.mktemp("lab")
    write_notebook(folder / "a.ipynb", [CARDS])
    with (
        running_lab(folder, theme=request.param) as lab,
        running_browser() as browser,
        open_notebook(browser, lab, "a.ipynb", size=(480, 1_000)) as page,
    ):
        page.page.evaluate("window.jupyterapp.shell.collapseLeft()")
        page.run_all()
        yield page


def test_narrow(cards: LabPage) -> None:
    """In a window as narrow as a phone all of a card can be read."""
    assert "\n".join(cards.page.evaluate(CUT_OFF)) == ""


def test_contrast(cards: LabPage) -> None:
    """Every word stands out from what is behind it."""
    assert "\n".join(cards.page.evaluate(FAINT)) == ""


def test_direction(cards: LabPage) -> None:
    """Each paragraph is read from the side that its own script is read from."""
    paragraphs = cards.page.locator(".jp-OutputArea-output p[dir=auto]")

    assert [
        (paragraph.inner_text(), paragraph.evaluate(SIDE)) for paragraph in paragraphs.all()
    ] == [("שלום עולם!", "rtl start"), ("hello, עולם!", "ltr start")]


def test_rows_hold_their_endings(cards: LabPage) -> None:
    """How a call ended stands in its own row, however long its command is."""
    endings = cards.page.evaluate(
        """() => [...document.querySelectorAll(".jp-OutputArea-output summary")].map(row =>
            row.lastElementChild.getBoundingClientRect().top - row.getBoundingClientRect().top)"""
    )

    assert cards.page.evaluate(OUTSIDE) == []
    assert min(endings) < 5
