"""What is shown, beside stored texts; ``UPDATE_EXPECTED=1 pytest tests/render`` writes them."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from datetime import UTC
from pathlib import Path

import pytest

from opencode_magic.core.status import Status
from opencode_magic.render.blocks import (
    Block,
    doctor_blocks,
    down_blocks,
    error_blocks,
    permission_blocks,
    proof_blocks,
    status_blocks,
    turn_blocks,
)
from opencode_magic.render.html import render_html
from opencode_magic.render.text import render_text
from opencode_magic.render.wall import is_inert
from tests.render import samples

EXPECTED = Path(__file__).parent / "expected"


def _status(status: Status) -> tuple[Block, ...]:
    return status_blocks(status, samples.NOON_MS, zone=UTC)


CARDS: dict[str, tuple[Block, ...]] = {
    "launching": _status(samples.LAUNCHING),
    "locked": _status(samples.LOCKED),
    "cloud": _status(samples.CLOUD),
    "not-launched": _status(samples.NOT_LAUNCHED),
    "not-launched-log": _status(
        replace(samples.NOT_LAUNCHED, log_lines=samples.SILENT_SERVER.log_lines)
    ),
    "down-status": _status(Status()),
    "down-after": _status(replace(samples.LOCKED, phase="down")),
    "reply": turn_blocks(samples.TURN),
    "reply-streaming": turn_blocks(samples.STREAMING),
    "reply-failed": turn_blocks(samples.LONG_TURN),
    "proven": proof_blocks(samples.PROOF, zone=UTC),
    "unproven": proof_blocks(samples.UNPROVEN, zone=UTC),
    "breached": proof_blocks(samples.BREACHED, zone=UTC),
    "permission": permission_blocks(samples.PERMISSION),
    "error": error_blocks(samples.NO_NAMESPACES),
    "error-log": error_blocks(samples.SILENT_SERVER),
    "doctor": doctor_blocks(samples.CHECKS),
    "down": down_blocks(samples.DOWN),
}


def _compare(name: str, text: str) -> None:
    path = EXPECTED / name
    if os.environ.get("UPDATE_EXPECTED"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")

    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", CARDS)
def test_text(name: str) -> None:
    """Each card reads as the stored text."""
    _compare(f"{name}.txt", render_text(CARDS[name]) + "\n")


@pytest.mark.parametrize("name", CARDS)
def test_html(name: str) -> None:
    """Each card is the stored HTML, one element a line."""
    html = render_html(CARDS[name])

    assert is_inert(html)
    _compare(
        f"{name}.html", re.sub(r"(?=<(?:div|tr|pre|details|table))", "\n", html).strip() + "\n"
    )


def test_nothing_stale() -> None:
    """Every stored text belongs to a card."""
    names = {f"{name}.{kind}" for name in CARDS for kind in ("txt", "html")}

    assert {path.name for path in EXPECTED.iterdir()} == names
