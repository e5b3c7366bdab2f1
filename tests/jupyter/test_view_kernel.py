"""The view and the panel in a real kernel: what a front end is sent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opencode_magic.render.blocks import turn_blocks
from opencode_magic.render.text import render_text
from tests.jupyter.kernels import Kernel, kernel_folder
from tests.render.samples import TURN

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent
SETUP = f"""
import os, sys, threading, time
sys.path.insert(0, {str(ROOT)!r})
from opencode_magic.jupyter.panel import Panel, PanelActions
from opencode_magic.jupyter.view import CellView
from tests.render import samples
shell = get_ipython()
"""
SHOW = """
view = CellView(shell)
view.show(samples.STREAMING)
view.show(samples.TURN, is_final=True)
"""
TEXT = render_text(turn_blocks(TURN))
VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """A kernel that has everything imported."""
    with kernel_folder() as base:
        kernel = Kernel(base, base / "cache")
        assert kernel.run(SETUP).error == ""
        yield kernel
        kernel.close()


def test_frames(kernel: Kernel) -> None:
    """A turn is one output; its last frame replaces the ones before."""
    shown = kernel.run(SHOW)

    assert (shown.error, shown.count, shown.updates) == ("", 1, 1)
    assert shown.displays[0]["text/plain"] == TEXT
    assert set(shown.displays[0]) == {"text/plain", "text/html"}


@pytest.mark.parametrize(
    ("name", "value"), [("OPENCODE_MAGIC_STREAM", "0"), ("PYTEST_CURRENT_TEST", "a.ipynb::Cell 0")]
)
def test_once(kernel: Kernel, name: str, value: str) -> None:
    """With the variable, and in a kernel that nbval runs, there is one output and no update."""
    shown = kernel.run(f"os.environ[{name!r}] = {value!r}\n{SHOW}\ndel os.environ[{name!r}]")

    assert (shown.error, shown.count, shown.updates) == ("", 1, 0)
    assert shown.displays[0]["text/plain"] == TEXT


def test_captured(kernel: Kernel) -> None:
    """Captured output is shown afterwards as one reply, without the frames before."""
    kernel.run(f"%%capture kept\n{SHOW}")
    shown = kernel.run("kept.show()")

    assert (shown.count, shown.updates) == (1, 0)
    assert shown.displays[0]["text/plain"] == TEXT


def test_from_a_thread(kernel: Kernel) -> None:
    """A thread that goes on after its cell still reaches the cell's output."""
    begun = kernel.run("view = CellView(shell)\nview.show(samples.STREAMING)")
    ended = kernel.run(
        "worker = threading.Thread(target=view.show, args=(samples.TURN,),"
        " kwargs={'is_final': True})\nworker.start(); worker.join()"
    )

    assert (ended.error, ended.count, ended.updates) == ("", 0, 1)
    assert begun.displays[0]["text/plain"] == TEXT


def test_panel(kernel: Kernel) -> None:
    """The panel is a card that is replaced, and buttons that go when the sandbox is down."""
    up = kernel.run(
        "panel = Panel(shell, PanelActions(*[lambda: None] * 4), now_ms=lambda: samples.NOON_MS)\n"
        "panel.show(samples.LAUNCHING)\npanel.show(samples.LOCKED)"
    )
    locked, buttons = (dict(data) for data in up.displays)
    kernel.run("from opencode_magic.core.status import Status\npanel.show(Status())")

    assert (up.error, up.count, up.updates) == ("", 2, 1)
    assert set(locked) == {"text/plain", "text/html"}
    assert set(buttons) == {VIEW, "text/plain"}
    assert locked["text/plain"].startswith("[✓ Locked]  quiet-heron")
    assert up.displays[0]["text/plain"] == "Down  no sandbox is running"
    assert up.displays[1] == {"text/plain": ""}


def test_no_thread_stays(kernel: Kernel) -> None:
    """Frames that wait leave no thread behind them."""
    shown = kernel.run(
        f"{SHOW}\ntime.sleep(0.3)\n"
        "print([t.name for t in threading.enumerate() if t.name.startswith('opencode')])"
    )

    assert shown.stdout == "[]\n"
