from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from IPython.core.displaypub import CapturingDisplayPublisher

from opencode_magic.jupyter.frontend import choose_way
from tests.jupyter.screens import Screen

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from opencode_magic.jupyter.frontend import Way


@pytest.mark.parametrize(
    ("environ", "way"),
    [
        ({}, "frames"),
        ({"PYTEST_CURRENT_TEST": "a.ipynb::Cell 0 (setup)"}, "once"),
        ({"OPENCODE_MAGIC_STREAM": "1", "PYTEST_CURRENT_TEST": "x"}, "frames"),
        ({"OPENCODE_MAGIC_STREAM": "0"}, "once"),
        ({"OPENCODE_MAGIC_STREAM": " Off "}, "once"),
        ({"OPENCODE_MAGIC_STREAM": "auto"}, "frames"),
        ({"OPENCODE_MAGIC_STREAM": "auto", "PYTEST_CURRENT_TEST": "x"}, "once"),
    ],
)
def test_kernel(environ: dict[str, str], way: Way) -> None:
    """A kernel gets frames, but where the variable or pytest says otherwise."""
    assert choose_way(Screen(kernel=object()), environ) == way  # type: ignore[arg-type] # - a stand-in


def test_terminal(shell: InteractiveShell) -> None:
    """A shell without a kernel, and no shell at all, get lines."""
    assert choose_way(shell, {}) == "lines"
    assert choose_way(None, {}) == "lines"


def test_captured() -> None:
    """Captured output is one message: it would be shown frame by frame afterwards."""

    class Captured(Screen):
        display_pub = CapturingDisplayPublisher()  # type: ignore[assignment] # - what %%capture puts

    assert choose_way(Captured(kernel=object()), {}) == "once"  # type: ignore[arg-type] # - a stand-in
