from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

PATH = Path(__file__).parent.parent / "scripts" / "run_demo.py"
KEPT = {
    "state": "done",
    "session": "ses_1",
    "text": "I listed the files.",
    "tools": ["list", "webfetch"],
    "source": "firewall record",
    "blocked": ["example.com"],
}


@pytest.fixture(scope="module")
def run_demo() -> ModuleType:
    """The demonstration's program, as a module."""
    spec = importlib.util.spec_from_file_location("run_demo", PATH)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_demonstration_that_keeps_its_promises_ends_well(run_demo: ModuleType) -> None:
    """With a reply from OpenCode and a refusal on the wall's record, nothing is wrong."""
    assert run_demo.broken_promises(KEPT) == []


@pytest.mark.parametrize(
    "broken",
    [
        {"state": "failed"},
        {"session": ""},
        {"text": ""},
        {"tools": []},
        {"source": "tool reports"},
        {"blocked": []},
        {"error": "name 'answer' is not defined"},
    ],
    ids=lambda broken: next(iter(broken)),
)
def test_a_broken_promise_is_told(run_demo: ModuleType, broken: dict[str, object]) -> None:
    """Each thing that the quickstart promises is looked at on its own."""
    assert len(run_demo.broken_promises({**KEPT, **broken})) == 1


def test_the_page_runs_and_fetches_nothing(run_demo: ModuleType) -> None:
    """Scripts are dropped, and the page forbids everything but its own looks."""
    page = run_demo.inert_page(
        '<html><head><SCRIPT src="https://cdn.example/x.js"></SCRIPT></head>'
    )

    assert "cdn.example" not in page
    assert "default-src 'none'" in page
