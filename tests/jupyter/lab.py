"""A real JupyterLab on a configuration of its own, driven in Debian's Chromium."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from playwright.sync_api import Error as BrowserError
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from playwright.sync_api import Browser, Page, Request

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
START_LIMIT_S = 60.0
IDLE_LIMIT_S = 120.0
Theme = Literal["light", "dark"]

_IS_IDLE = """() => {
    const prompts = [...document.querySelectorAll(".jp-InputPrompt")];
    const indicator = document.querySelector(".jp-Notebook-ExecutionIndicator");
    return prompts.every(prompt => !prompt.textContent.includes("*"))
        && indicator?.dataset.status === "idle";
}"""
_IS_READY = """async () => {
    const panel = window.jupyterapp?.shell.currentWidget;
    if (!panel?.context?.sessionContext) return false;
    await panel.context.ready;
    await panel.context.sessionContext.ready;
    const kernel = panel.context.sessionContext.session?.kernel;
    if (!kernel || kernel.connectionStatus !== "connected") return false;
    await kernel.info;
    return panel.context.sessionContext.session?.kernel === kernel;
}"""
_THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
_QUIET: dict[str, dict[str, object]] = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
    "@jupyterlab/notebook-extension:tracker": {
        "windowingMode": "none",
        "maxNumberOutputs": 1_000,
    },
}


@dataclass(frozen=True)
class LabServer:
    """A running JupyterLab. ``root`` holds its notebooks."""

    url: str
    token: str
    root: Path
    theme: Theme

    def page_url(self, notebook: str) -> str:
        """Give the address of a notebook, in a workspace of its own."""
        name = re.sub(r"\W", "-", notebook) + secrets.token_hex(4)
        return f"{self.url}/lab/workspaces/{name}/tree/{notebook}?token={self.token}"


@contextlib.contextmanager
def running_lab(
    root: Path, *, theme: Theme = "light", environ: Mapping[str, str] | None = None
) -> Iterator[LabServer]:
    """Run JupyterLab over a folder until the block ends; nothing of the user's is read or written.

    Args:
        root: Where the notebooks are.
        theme: Light or dark.
        environ: Variables for the server and its kernels, beside those of this process.
    """
    with tempfile.TemporaryDirectory(prefix="lab-") as scratch:
        folder = Path(scratch)
        token = secrets.token_hex(16)
        _write_settings(folder, theme)
        log = folder / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                _command(root, token),
                env={**os.environ, **_folders(folder), **(environ or {})},
                cwd=root,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield LabServer(_wait_url(process, log, token), token, root, theme)
        finally:
            _end(process)


def _command(root: Path, token: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port=0",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={root}",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.extension_manager=readonly",
    ]


def _folders(folder: Path) -> dict[str, str]:
    names = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    for name in names.values():
        (folder / name).mkdir(exist_ok=True)
    return {variable: str(folder / name) for variable, name in names.items()}


def _write_settings(folder: Path, theme: Theme) -> None:
    wanted: dict[str, dict[str, object]] = {
        **_QUIET,
        "@jupyterlab/apputils-extension:themes": {"theme": _THEMES[theme]},
    }
    for plugin, values in wanted.items():
        package, _, name = plugin.partition(":")
        path = folder / "settings" / package / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))


def _wait_url(process: subprocess.Popen[bytes], log: Path, token: str) -> str:
    until = time.monotonic() + START_LIMIT_S
    while time.monotonic() < until:
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", log.read_text(errors="replace"))
        if found and found.group(1) != "0":
            url = found.group(0).rstrip("/")
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"{url}/api/status?token={token}", timeout=5).close()  # noqa: S310 - loopback
                return url
        if process.poll() is not None:
            break
        time.sleep(0.1)
    msg = f"JupyterLab did not start:\n{log.read_text(errors='replace')[-2_000:]}"
    raise RuntimeError(msg)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and its kernels: they share a session that only it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def running_browser() -> Iterator[Browser]:
    """Run Chromium until the block ends."""
    assert CHROMIUM.exists(), "needs Debian's chromium, which scripts/test installs"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class LabPage:
    """One notebook in one tab. ``requests`` holds every address that the page asked for."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        page.on("request", self._keep)
        page.on("dialog", self._dismiss)

    def wait_ready(self) -> None:
        """Wait until the notebook is shown and its kernel is connected."""
        self.page.wait_for_selector(".jp-Notebook", timeout=START_LIMIT_S * 1_000)
        until = time.monotonic() + START_LIMIT_S
        while time.monotonic() < until:
            self._accept_dialog()
            if self.page.evaluate(_IS_READY):
                self.wait_idle()
                return
            self.page.wait_for_timeout(200)
        msg = "the notebook's kernel was not ready in time"
        raise RuntimeError(msg)

    def run_all(self) -> None:
        """Run every cell, and wait until the kernel is idle again."""
        self.command("notebook:run-all-cells")
        self.wait_idle()

    def wait_idle(self, *, limit_s: float = IDLE_LIMIT_S) -> None:
        """Wait until no cell runs or waits to run."""
        self.page.wait_for_timeout(500)
        self.page.wait_for_function(_IS_IDLE, timeout=limit_s * 1_000)
        self.page.wait_for_timeout(500)

    def save(self) -> None:
        """Save the notebook as it is shown."""
        self.command("docmanager:save")
        self.page.wait_for_selector(".jp-mod-dirty", state="detached", timeout=10_000)
        self.page.wait_for_timeout(500)

    def picture(self, path: Path, *, selector: str = "") -> None:
        """Take a picture of the tab, or of the first element that the selector finds."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if selector:
            self.page.locator(selector).first.screenshot(path=path)
        else:
            self.page.screenshot(path=path)

    def press(self, button: str) -> None:
        """Press a widget's button by its name."""
        self.page.locator(f".jp-OutputArea button:has-text('{button}')").first.click()

    def outputs(self) -> list[str]:
        """Give the text of each cell's output, as a person sees it."""
        return self.page.locator(".jp-CodeCell .jp-OutputArea").all_inner_texts()

    def _accept_dialog(self) -> None:
        """Take what a dialog proposes, such as a kernel."""
        button = self.page.locator(".jp-Dialog .jp-mod-accept")
        if button.count():
            button.first.click()
            self.page.wait_for_timeout(500)

    def command(self, name: str) -> None:
        """Run one of JupyterLab's commands, as its menus do."""
        self._accept_dialog()
        self.page.evaluate("name => window.jupyterapp.commands.execute(name)", name)
        self._accept_dialog()

    def _keep(self, request: Request) -> None:
        self.requests.append(request.url)

    def _dismiss(self, dialog: object) -> None:
        self.dialogs.append(str(getattr(dialog, "message", "")))
        with contextlib.suppress(BrowserError):
            dialog.dismiss()  # type: ignore[attr-defined] # - playwright's Dialog


@contextlib.contextmanager
def open_notebook(
    browser: Browser,
    lab: LabServer,
    notebook: str,
    *,
    size: tuple[int, int] = (1_280, 1_000),
    scale: float = 1,
) -> Iterator[LabPage]:
    """Open a notebook in a tab of its own, with its kernel ready."""
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height},
        device_scale_factor=scale,
        color_scheme=lab.theme,
    )
    try:
        page = LabPage(context.new_page())
        page.page.goto(lab.page_url(notebook))
        page.wait_ready()
        yield page
    finally:
        context.close()


def write_notebook(
    path: Path, cells: Sequence[str], outputs: Sequence[dict[str, object]] = ()
) -> None:
    """Write a notebook of code cells; ``outputs`` stand under the first ones, one each."""
    made: list[dict[str, object]] = [
        {
            "cell_type": "code",
            "id": f"cell-{number}",
            "metadata": {},
            "execution_count": 1 if number < len(outputs) else None,
            "source": source,
            "outputs": [outputs[number]] if number < len(outputs) else [],
        }
        for number, source in enumerate(cells)
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {
        "cells": made,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(notebook))
