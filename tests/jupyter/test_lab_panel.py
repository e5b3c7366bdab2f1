"""The panel in a real JupyterLab: its buttons, idle and in a turn, and its card when reopened."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jupyter.lab import open_notebook, running_browser, running_lab, write_notebook

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parent.parent.parent
SETUP = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from dataclasses import replace
from opencode_magic.errors import SandboxError
from opencode_magic.jupyter.panel import Panel, PanelActions
from tests.render import samples
def prove():
    panel.show(replace(samples.LOCKED, egress_blocked=77))
def extend():
    raise SandboxError("the home does not answer", next_step="try it later")
panel = Panel(
    get_ipython(), PanelActions(prove, extend, *[lambda: None] * 2), now_ms=lambda: samples.NOON_MS
)
panel.show(samples.LAUNCHING)
panel.show(samples.LOCKED)
"""

IN_A_TURN = f"""
import sys, threading
sys.path.insert(0, {str(ROOT)!r})
from dataclasses import replace
from opencode_magic.jupyter.panel import Panel, PanelActions
from tests.render import samples
stopped = threading.Event()
panel = Panel(get_ipython(), PanelActions(*[lambda: None] * 2, stopped.set, lambda: None))
panel.show(samples.LOCKED)
panel.show(replace(samples.LOCKED, is_turn_running=True))
"""
WAITING = "print('stopped' if stopped.wait(30) else 'nobody heard it')"


def test_stop_while_the_cell_runs(tmp_path: Path) -> None:
    """A turn keeps the kernel busy: the button that stops it is heard all the same."""
    write_notebook(tmp_path / "a.ipynb", [IN_A_TURN, WAITING])
    with (
        running_lab(tmp_path, environ={"OPENCODE_MAGIC_STREAM": "1"}) as lab,
        running_browser() as browser,
        open_notebook(browser, lab, "a.ipynb") as page,
    ):
        page.command("notebook:run-cell-and-select-next")
        page.wait_idle()
        page.page.locator(".jp-Cell").nth(1).press("Control+Enter")
        page.page.wait_for_selector(".jp-InputPrompt:has-text('*')")
        page.press("Stop turn")
        page.wait_idle()

        assert page.outputs()[1].strip() == "stopped"


def test_panel(tmp_path: Path) -> None:
    """A press does its action; reopened without its kernel, the card stands."""
    write_notebook(tmp_path / "a.ipynb", [SETUP])
    with running_lab(tmp_path, environ={"OPENCODE_MAGIC_STREAM": "1"}) as lab:
        with running_browser() as browser, open_notebook(browser, lab, "a.ipynb") as page:
            page.run_all()
            page.press("Prove again")
            page.page.wait_for_selector(".jp-OutputArea :text-is('77')")
            page.press("Extend 30 min")
            page.page.wait_for_selector(".jp-OutputArea :text('the home does not answer')")
            page.save()
            page.command("kernelmenu:shutdown")
        with running_browser() as browser, open_notebook(browser, lab, "a.ipynb") as page:
            page.page.wait_for_selector(".jp-OutputArea :text('quiet-heron')", timeout=20_000)
            reopened = page.outputs()[0]
            buttons = page.page.locator(".jp-OutputArea button").count()

    assert reopened.startswith("✓ Locked\nquiet-heron\nlocal home")
    assert buttons == 0
