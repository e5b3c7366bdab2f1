"""The quickstart notebook -> a run on the local home, told cell by cell, and an HTML page of it."""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
PAGE = ROOT / "build" / "quickstart.html"

LOCAL_AND_FREE = {"OPENCODE_MAGIC_HOME": "local", "OPENCODE_MAGIC_MODEL": "demo-model/scripted"}
"""A demonstration never bills anybody, whatever keys the machine has."""

FORBID_ALL_BUT_LOOKS = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:\">"
)
TERMINAL_CODES = re.compile(r"\x1b\[[0-9;]*m")
CELL_LIMIT_S = 300
OUTSIDE_HOST = "example.com"

FACTS = """__import__("json").dumps({
    "state": answer.state,
    "session": answer.turn.session_id,
    "text": answer.text,
    "tools": [tool.tool for tool in answer.tools],
    "source": answer.receipt.source if answer.receipt else "",
    "blocked": [place.host for place in answer.receipt.blocked] if answer.receipt else [],
})"""
"""Asked of the kernel after the last cell: what the demonstration claims, from its own values."""


def main() -> int:
    """Run it; 0 only where everything that the quickstart promises was seen to happen."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--save", action="store_true", help="keep the outputs in the notebook")
    options = parser.parse_args()

    os.environ.update(LOCAL_AND_FREE)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    began = time.monotonic()
    with own_server():
        wrong = run(notebook)
    write_page(notebook)
    if options.save:
        save(notebook)
    print(f"\nRan in {time.monotonic() - began:.0f} s. The page: {PAGE}")
    for line in wrong:
        print(f"Not as promised: {line}")
    if not wrong:
        print(f"OpenCode answered from its sandbox, and the wall refused {OUTSIDE_HOST}.")
    return 1 if wrong else 0


@contextlib.contextmanager
def own_server() -> Iterator[None]:
    """Keep apart from whatever runs for the same user, and leave no server behind."""
    with tempfile.TemporaryDirectory(
        prefix="om-demo-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        for name in ("RUNTIME", "STATE"):
            os.environ[f"OPENCODE_MAGIC_{name}_DIR"] = f"{folder}/{name.lower()}"
        try:
            yield
        finally:
            stop = [sys.executable, "-m", "opencode_magic.local", "stop"]
            stop += ["--runtime-dir", f"{folder}/runtime"]
            subprocess.run(stop, check=False, stdout=subprocess.DEVNULL)


def run(notebook: nbformat.NotebookNode) -> list[str]:
    """Run every cell in a kernel of its own and give what was not as promised."""
    client = NotebookClient(
        notebook,
        timeout=CELL_LIMIT_S,
        store_widget_state=False,
        record_timing=False,
        resources={"metadata": {"path": str(NOTEBOOK.parent)}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    with client.setup_kernel():
        try:
            for index, cell in enumerate(notebook.cells):
                tell(client, cell, index)
        except CellExecutionError as exc:
            return [f"a cell failed: {exc.ename}: {exc.evalue}"]
        return broken_promises(ask_facts(client))


def tell(client: NotebookClient, cell: nbformat.NotebookNode, index: int) -> None:
    """Run one cell, and print it and what it shows."""
    print(told_source(cell), flush=True)
    try:
        client.execute_cell(cell, index)
    finally:
        print(told_outputs(cell), end="", flush=True)


def ask_facts(client: NotebookClient) -> dict[str, object]:
    """Evaluate ``FACTS`` in the kernel that ran the notebook."""
    kernel = client.kc
    assert isinstance(kernel, AsyncKernelClient)
    ask = run_sync(kernel.execute_interactive)
    reply = ask("", silent=True, user_expressions={"facts": FACTS}, timeout=CELL_LIMIT_S)
    expression = reply["content"]["user_expressions"]["facts"]
    if expression["status"] != "ok":
        return {"error": expression["evalue"]}
    facts: dict[str, object] = json.loads(ast.literal_eval(expression["data"]["text/plain"]))
    return facts


def broken_promises(facts: dict[str, object]) -> list[str]:
    """Compare what happened with what the quickstart says will happen."""
    if "error" in facts:
        return [f"there is no reply to look at: {facts['error']}"]
    checks = {
        f"the turn ended as {facts['state']!r}": facts["state"] == "done",
        "the reply has no text": bool(facts["text"]),
        "the reply belongs to no OpenCode session": str(facts["session"]).startswith("ses_"),
        "the agent used no tool": bool(facts["tools"]),
        f"the receipt comes from {facts['source']!r}": facts["source"] == "firewall record",
        f"the wall has no record of refusing {OUTSIDE_HOST}": OUTSIDE_HOST
        in list(facts["blocked"] if isinstance(facts["blocked"], list) else []),
    }
    return [claim for claim, is_kept in checks.items() if not is_kept]


def told_source(cell: nbformat.NotebookNode) -> str:
    """A code cell's source as plain text; prose is told without its markup."""
    lines = cell.source.splitlines() or [""]
    if cell.cell_type != "code":
        return "\n" + "\n".join(line.lstrip("# ") for line in lines if line)
    return "\n" + "\n".join(
        f"{'In: ' if number == 0 else '    '}{line}" for number, line in enumerate(lines)
    )


def told_outputs(cell: nbformat.NotebookNode) -> str:
    """What a cell shows, as a terminal can show it."""
    told = []
    for output in cell.get("outputs", []):
        match output.output_type:
            case "stream":
                told.append(output.text)
            case "error":
                told.append(TERMINAL_CODES.sub("", "\n".join(output.traceback)))
            case _:
                told.append(output.data.get("text/plain", ""))
    text = "\n".join(part.rstrip() for part in told if part.strip())
    return "".join(f"  | {line}\n" for line in text.splitlines())


def write_page(notebook: nbformat.NotebookNode) -> None:
    """Write the executed notebook as a page that runs nothing and fetches nothing."""
    html, _ = HTMLExporter().from_notebook_node(notebook)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(inert_page(html), encoding="utf-8")


def inert_page(html: str) -> str:
    """Drop the scripts that the exporter's own template brings, and forbid any other."""
    html = re.sub(r"<script\b.*?</script>", "", html, flags=re.DOTALL | re.IGNORECASE)
    return html.replace("<head>", f"<head>{FORBID_ALL_BUT_LOOKS}", 1)


def save(notebook: nbformat.NotebookNode) -> None:
    """Keep the outputs in the notebook itself, without what depends on this machine."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    sys.exit(main())
