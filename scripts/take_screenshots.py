"""The quickstart in real JupyterLab, light and dark -> pictures of what a person sees."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from playwright.sync_api import sync_playwright
from run_demo import LOCAL_AND_FREE, NOTEBOOK, own_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Locator, Page

THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
ERROR_CELL = "%opencode_up --model a-model --base-url https://models.example/v1"
"""Run last, when the sandbox is gone: a model that does not answer is a launch that fails."""

START_LIMIT_S = 60
CELL_LIMIT_MS = 120_000
CHROMIUM = "chromium"
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass(frozen=True, slots=True)
class Lab:
    """A running JupyterLab with one notebook."""

    url: str
    cells: tuple[str, ...]
    """The sources of its cells, prose included."""


def main() -> int:
    """Take all pictures."""
    parser = argparse.ArgumentParser(prog="scripts/screenshots", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(LOCAL_AND_FREE)

    for name, theme in THEMES.items():
        with own_server(), jupyter_lab(theme) as lab, browser_page(lab) as page:
            for picture, path in take(page, lab, folder, name):
                print(f"{picture}: {path}", flush=True)
    return 0


def take(page: Page, lab: Lab, folder: Path, theme: str) -> Iterator[tuple[str, Path]]:
    """Run the notebook from top to bottom and stop where there is something to see."""

    def shoot(picture: str, target: Locator) -> tuple[str, Path]:
        path = folder / f"{picture}-{theme}.png"
        target.scroll_into_view_if_needed()
        target.screenshot(path=path)
        return picture, path

    for index, source in enumerate(lab.cells):
        cell = page.locator(".jp-Notebook .jp-Cell").nth(index)
        start(cell)
        if source == "%opencode_up":
            cell.get_by_text("Launching").first.wait_for(timeout=CELL_LIMIT_MS)
            page.wait_for_timeout(700)  # a moment in the middle of the launch
            yield shoot("launching", cell)
        wait_idle(page)
        if source == ERROR_CELL:
            yield shoot("error", cell)
        elif source == "%opencode_up":
            yield shoot("locked", cell)
        elif source.startswith("%%ask"):
            yield shoot("reply", cell)
        elif source.startswith("%opencode_prove"):
            yield shoot("proof", cell)
    page.locator(".jp-Notebook .jp-Cell").first.scroll_into_view_if_needed()
    path = folder / f"notebook-{theme}.png"
    page.screenshot(path=path, full_page=True)
    yield "notebook", path


def start(cell: Locator) -> None:
    """Select a cell and run it."""
    cell.scroll_into_view_if_needed()
    cell.click(position={"x": 90, "y": 12})
    cell.press("Control+Enter")


def wait_idle(page: Page) -> None:
    """Wait until the kernel has nothing to do."""
    page.wait_for_timeout(300)  # until the front end knows that it is busy
    page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for(
        state="attached", timeout=CELL_LIMIT_MS
    )
    page.wait_for_timeout(500)  # until the last frame is painted


@contextlib.contextmanager
def browser_page(lab: Lab) -> Iterator[Page]:
    """Open the notebook in Chromium, wide enough to read, twice as sharp."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which(CHROMIUM), args=list(CHROMIUM_FLAGS)
        )
        page = browser.new_page(viewport={"width": 1200, "height": 1600}, device_scale_factor=2)
        page.goto(lab.url)
        page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=START_LIMIT_S * 1000)
        wait_idle(page)
        yield page
        browser.close()


@contextlib.contextmanager
def jupyter_lab(theme: str) -> Iterator[Lab]:
    """Start JupyterLab with folders of its own, so that nobody's settings change."""
    with tempfile.TemporaryDirectory(prefix="om-lab-") as folder:
        base = Path(folder)
        cells = copy_notebook(base / "notebook" / NOTEBOOK.name)
        write_lab_settings(base / "settings", theme)
        token = secrets.token_hex(16)
        port = free_port()
        environment = {
            **os.environ,
            "JUPYTER_CONFIG_DIR": str(base / "config"),
            "JUPYTER_DATA_DIR": str(base / "data"),
            "JUPYTER_RUNTIME_DIR": str(base / "run"),
            "JUPYTERLAB_SETTINGS_DIR": str(base / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(base / "workspaces"),
            "IPYTHONDIR": str(base / "ipython"),
        }
        command = [
            *(sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"),
            *(f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1"),
            *(f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={base / 'notebook'}"),
        ]
        with (base / "lab.log").open("wb") as log:
            server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_answer(f"http://127.0.0.1:{port}/api/status?token={token}", base / "lab.log")
            url = f"http://127.0.0.1:{port}/lab/tree/{NOTEBOOK.name}?token={token}"
            yield Lab(url, cells)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=START_LIMIT_S)


def copy_notebook(path: Path) -> tuple[str, ...]:
    """Copy the quickstart without outputs, with a cell at its end that fails."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(ERROR_CELL))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None
    path.parent.mkdir()
    nbformat.write(notebook, path)
    return tuple(cell.source for cell in notebook.cells)


def write_lab_settings(folder: Path, theme: str) -> None:
    """Choose the theme, show every cell, and ask nothing."""
    for name, values in {
        "apputils-extension/themes": {"theme": theme},
        "notebook-extension/tracker": {"windowingMode": "none"},
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }.items():
        path = folder / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")


def free_port() -> int:
    """Give a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_answer(url: str, log: Path) -> None:
    """Wait until JupyterLab answers."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - an http address of our own
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SystemExit(f"JupyterLab did not start: {log.read_text(encoding='utf-8')[-2000:]}")


if __name__ == "__main__":
    sys.exit(main())
