from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("opencode_binary")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_does_what_it_shows(notebook: Path) -> None:
    """Run again by nbval, a notebook ends without an error and shows what it was saved with."""
    replayed = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", str(notebook)),
            *("-o", "addopts=", "-o", "filterwarnings=", "-o", "timeout=280"),
            *("-p", "no:randomly", "-p", "no:cacheprovider", "-q"),
        ],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )

    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
