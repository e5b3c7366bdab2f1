"""The hostile samples in a real JupyterLab: live, saved, reopened and exported, beside a sink."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from nbconvert import HTMLExporter

from tests.jupyter.lab import (
    LabPage,
    LabServer,
    open_notebook,
    running_browser,
    running_lab,
    write_notebook,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parent.parent.parent
SETUP = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from dataclasses import replace
from IPython.display import HTML, display
from opencode_magic.core.status import BlockedPlace
from opencode_magic.errors import SandboxError
from opencode_magic.jupyter.cards import show
from opencode_magic.jupyter.panel import Panel, PanelActions
from opencode_magic.jupyter.view import CellView
from opencode_magic.render.blocks import error_blocks
from tests.render import samples
from tests.render.hostile import samples as hostile
from tests.render.test_hostile import _everywhere
from tests.render.test_inert import markdown_html
shell = get_ipython()
texts = [text for text in hostile({{port}}).values() if len(text) < 10_000]
"""
REPLIES = """
for text in texts:
    view, turn = CellView(shell), _everywhere(text)
    view.show(replace(turn, state="running"))
    view.show(turn, is_final=True)
"""
PANELS = """
for text in texts:
    panel = Panel(shell, PanelActions(*[lambda: None] * 4))
    place = BlockedPlace(text, 443, 1, text, text)
    panel.show(replace(
        samples.LOCKED, sandbox_name=text, model=text, allowed_hosts=(text,),
        blocked_places=(place,), warnings=(text,), error=text, next_step=text,
    ))
    show(error_blocks(SandboxError(text, next_step=text)))
"""
CONTROL = "display(HTML('<img src=\"http://127.0.0.1:{port}/control\">'))"
OPEN_ALL = """() => {
    for (const fold of document.querySelectorAll(".jp-OutputArea details")) fold.open = true;
    const shown = [...document.querySelectorAll(".jp-OutputArea-output")];
    const found = shown.flatMap(output => [...output.querySelectorAll(
        "img, script, iframe, object, embed, video, audio, form, input, style, link, svg, math,"
        + " mjx-container, .MathJax, [onerror], [onload], [onclick], [data-commandlinker-command]"
    )]).map(element => element.outerHTML.slice(0, 200));
    return [shown.length, found];
}"""


class Sink:
    """A server that keeps every path that it is asked for."""

    def __init__(self) -> None:
        paths: list[str] = []
        self.paths = paths

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                paths.append(self.path)
                self.send_response(204)
                self.end_headers()

            do_POST = do_GET  # noqa: N815 - the name that http.server looks for

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its signature
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A counting server."""
    sink = Sink()
    yield sink
    sink.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    """A JupyterLab over an empty folder; one for all tests here, since it takes long to start."""
    with running_lab(
        tmp_path_factory.mktemp("notebooks"), environ={"OPENCODE_MAGIC_STREAM": "1"}
    ) as lab:
        yield lab


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium."""
    with running_browser() as browser:
        yield browser


def _check(page: LabPage, lab: LabServer, sink: Sink, *, at_least: int) -> None:
    count, found = page.page.evaluate(OPEN_ALL)
    page.page.wait_for_timeout(1_000)

    assert found == []
    assert count >= at_least
    assert sink.paths == []
    assert page.dialogs == []
    own = (lab.url, lab.url.replace("http", "ws"), "data:image/", "blob:")
    assert [url for url in page.requests if not url.startswith(own)] == []


def _distrust(source: Path, target: Path) -> None:
    """Copy a notebook so that its signature does not count any more."""
    notebook = json.loads(source.read_text())
    notebook["metadata"]["copied"] = True
    for cell in notebook["cells"]:
        cell["metadata"].pop("trusted", None)
    target.write_text(json.dumps(notebook))


def test_sink_works(lab: LabServer, browser: Browser, sink: Sink) -> None:
    """An image that is published as it stands is fetched: the sink would see it."""
    write_notebook(
        lab.root / "a.ipynb",
        ["from IPython.display import HTML, display", CONTROL.format(port=sink.port)],
    )
    with open_notebook(browser, lab, "a.ipynb") as page:
        page.run_all()

    assert "/control" in sink.paths


@pytest.mark.parametrize(("name", "cell"), [("replies", REPLIES), ("panels", PANELS)])
def test_nothing_leaves(name: str, cell: str, lab: LabServer, browser: Browser, sink: Sink) -> None:
    """No sample causes a request or runs anything: live, reopened trusted or not, exported."""
    path = lab.root / f"{name}.ipynb"
    copy = lab.root / f"{name}-copy.ipynb"
    write_notebook(path, [SETUP.replace("{port}", str(sink.port)), cell, "'all shown'"])
    with open_notebook(browser, lab, path.name) as page:
        page.run_all()
        assert "all shown" in page.outputs()[-1]
        _check(page, lab, sink, at_least=60)
        page.save()
    _distrust(path, copy)
    for notebook in (path, copy):
        with open_notebook(browser, lab, notebook.name) as page:
            _check(page, lab, sink, at_least=60)
    assert _requests(browser, _export(path)) == []
    assert sink.paths == []


def _export(notebook: Path) -> Path:
    """Write the notebook as a page, without the scripts that nbconvert takes from elsewhere."""
    exporter = HTMLExporter(mathjax_url="", require_js_url="", jupyter_widgets_base_url="")
    html, _ = exporter.from_filename(str(notebook))
    page = notebook.with_suffix(".html")
    page.write_text(html)
    return page


def _requests(browser: Browser, path: Path) -> list[str]:
    """Open a page from the disk; give what it asked for besides itself."""
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_timeout(1_000)
    page.close()
    return [url for url in asked if not url.startswith((path.as_uri(), "data:image/"))]
