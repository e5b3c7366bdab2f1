from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from IPython.core.error import UsageError

from opencode_magic.jupyter.magics.ask import AskMagics
from opencode_magic.jupyter.magics.sandbox import OpencodeMagics
from tests.doubles import StandInSandbox, StandInStarter
from tests.jupyter.kernels import kernel_folder, running_kernel
from tests.jupyter.test_magics import error_of, magics

if TYPE_CHECKING:
    from pathlib import Path

    from IPython.core.interactiveshell import InteractiveShell

NEEDS_A_KEY = "anthropic/"


def examples() -> list[str]:
    """Give the cells that the magics' help shows as examples, in their order."""
    cells: list[str] = []
    for owner in (OpencodeMagics, AskMagics):
        for magic in vars(owner).values():
            shown = re.search(
                r"Examples::\n\n((?: {4}.*\n)+)", getattr(magic, "__doc__", None) or ""
            )
            for line in re.findall(r" {4}(.*)\n", shown.group(1)) if shown else ():
                if line.startswith("%"):
                    cells.append(line)
                else:
                    cells[-1] += f"\n{line}"
    return cells


@pytest.mark.parametrize("cell", ["%opencode_up --hom local", "%opencode_down --disc"])
def test_a_part_of_a_name(loaded: InteractiveShell, cell: str) -> None:
    """A part of a flag's name is a mistake: it could delete files."""
    error = error_of(loaded, cell)

    assert type(error) is UsageError
    assert "unrecognized arguments" in str(error)


@pytest.mark.parametrize("cell", [cell for cell in examples() if NEEDS_A_KEY in cell])
def test_an_example_with_a_key(
    loaded: InteractiveShell, monkeypatch: pytest.MonkeyPatch, cell: str
) -> None:
    """An example for a provider with a key launches where the key is."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a-key-of-nobody")
    magics(loaded).session._starter = StandInStarter(StandInSandbox())

    assert error_of(loaded, cell) is None
    assert magics(loaded).session.status.phase == "locked"


@pytest.mark.timeout(300)
def test_the_other_examples(seeded_cache: Path) -> None:
    """Each other example does what it says, in a kernel, one after the other."""
    cells = [cell for cell in examples() if NEEDS_A_KEY not in cell]
    with kernel_folder() as base, running_kernel(base, seeded_cache) as kernel:
        for cell in cells:
            if cell.startswith("%opencode_up"):
                kernel.run("%opencode_down")
            shown = kernel.run(cell)
            assert (shown.error, shown.stderr) == ("", ""), cell
            assert "Locked" in shown.text or "done in" in shown.text, cell
        kept = kernel.run("print(answer.state)").stdout

    assert [cell.partition(" ")[0] for cell in cells] == ["%opencode_up", "%opencode_up", "%%ask"]
    assert kept == "done\n"
