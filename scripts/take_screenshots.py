"""The quickstart in real JupyterLab, light and dark -> pictures of what a person sees."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import nbformat
from run_demo import LOCAL_AND_FREE, NOTEBOOK, own_server

from tests.jupyter.lab import Theme, open_notebook, running_browser, running_lab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Locator

    from tests.jupyter.lab import LabPage

ERROR_CELL = "%opencode_up --model a-model --base-url https://models.example/v1"
"""Run last, when the sandbox is gone: a model that does not answer is a launch that fails."""

PICTURES = {
    "%opencode_up": "locked",
    "%%ask": "reply",
    "%opencode_prove": "proof",
    "%opencode_status": "status",
    "%opencode_down": "down",
}
"""What a picture of a cell that has run is called, by the cell's first word."""

LAUNCH_LIMIT_MS = 60_000
MID_LAUNCH_MS = 700
TAB_SIZE = (1_200, 1_600)
SHARPNESS = 2


def main() -> int:
    """Take all pictures."""
    parser = argparse.ArgumentParser(prog="scripts/screenshots", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(LOCAL_AND_FREE)

    for theme in get_args(Theme):
        with tempfile.TemporaryDirectory(prefix="om-") as root, own_server():
            cells = copy_notebook(Path(root) / NOTEBOOK.name)
            with (
                running_lab(Path(root), theme=theme) as lab,
                running_browser() as browser,
                open_notebook(
                    browser, lab, NOTEBOOK.name, size=TAB_SIZE, scale=SHARPNESS
                ) as notebook,
            ):
                for picture, target in run_cells(notebook, cells):
                    path = folder / f"{picture}-{theme}.png"
                    target.scroll_into_view_if_needed()
                    target.screenshot(path=path)
                    print(path, flush=True)
    return 0


def run_cells(notebook: LabPage, cells: tuple[str, ...]) -> Iterator[tuple[str, Locator]]:
    """Run the notebook from top to bottom, and stop where there is something to see."""
    page = notebook.page
    for index, source in enumerate(cells):
        cell = page.locator(".jp-Notebook .jp-Cell").nth(index)
        cell.scroll_into_view_if_needed()
        cell.click(position={"x": 90, "y": 12})
        cell.press("Control+Enter")
        if source == "%opencode_up":
            cell.get_by_text("Launching").first.wait_for(timeout=LAUNCH_LIMIT_MS)
            page.wait_for_timeout(MID_LAUNCH_MS)
            yield "launching", cell
        notebook.wait_idle()
        picture = "error" if source == ERROR_CELL else PICTURES.get(source.partition(" ")[0])
        if picture:
            yield picture, cell
    page.locator(".jp-Notebook .jp-Cell").first.scroll_into_view_if_needed()
    yield "notebook", page.locator(".jp-NotebookPanel")


def copy_notebook(path: Path) -> tuple[str, ...]:
    """Copy the quickstart without outputs, with a cell at its end that fails."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(ERROR_CELL))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None
    nbformat.write(notebook, path)
    return tuple(cell.source for cell in notebook.cells)


if __name__ == "__main__":
    sys.exit(main())
