"""The panel in a real JupyterLab: its buttons while the kernel is idle, its card when reopened."""

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
