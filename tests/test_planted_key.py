from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest

from tests.scripted import script, scripted_model
from tests.tls import tls_front

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "quickstart.ipynb"
KEY = "planted-vq-8f2c61d07a35b94e"
HOST = "models.example"

CONTROL = "planted-vq-control"
"""A file that is found, so that finding nothing else means something."""

# Neither the key nor the control may stand in the command that looks for them.
LOOK = script(
    "bash echo plante''d-vq-control > /tmp/control;"
    " (env; cat /proc/*/environ /proc/*/cmdline; grep -rsah 'plante[d]-vq' /vercel /tmp /etc)"
    " 2>/dev/null | tr '\\0' '\\n' | grep -ao 'plante[d]-vq[a-z0-9-]*'",
    "say Done.",
)
RUN = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=120, store_widget_state=True).execute()
nbformat.write(notebook, sys.argv[2])
"""


@pytest.mark.usefixtures("opencode_binary")
@pytest.mark.timeout(300)
def test_a_key_is_used_and_stands_nowhere(isolated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key reaches the model; sandbox, outputs, metadata and widget state never hold it."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    prove = next(i for i, cell in enumerate(notebook.cells) if "opencode_prove" in cell.source)
    notebook.cells.insert(prove, nbformat.v4.new_code_cell(f"%%ask -o look\n{LOOK}"))
    nbformat.write(notebook, isolated / "before.ipynb")

    with scripted_model(key=KEY) as model, tls_front(urlsplit(model.url).port or 0) as front:
        for name, value in {
            "BASE_URL": f"https://{HOST}/v1",
            "API_KEY": KEY,
            "MODEL": "scripted",
            "UPSTREAM": front.upstream(HOST),
            "UPSTREAM_CA": str(front.write_ca(isolated)),
        }.items():
            monkeypatch.setenv(f"OPENCODE_MAGIC_{name}", value)
        files = [str(isolated / "before.ipynb"), str(isolated / "after.ipynb")]
        # Told by its variable that a test runs, the kernel would send no widget.
        environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
        subprocess.run([sys.executable, "-c", RUN, *files], check=True, env=environment)
        asked_with = {request.headers.get("authorization") for request in model.seen}

    executed = (isolated / "after.ipynb").read_text(encoding="utf-8")
    assert f"Bearer {KEY}" in asked_with
    assert CONTROL in executed
    assert '"widgets"' in executed
    assert KEY not in executed
