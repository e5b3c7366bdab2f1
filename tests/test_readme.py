from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from opencode_magic import settings
from opencode_magic.settings import load_settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

RUN_CELLS = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in sys.argv[1:]:
    shell.run_cell(cell).raise_error()
"""


def code_blocks(language: str) -> list[str]:
    """Give the README's blocks in one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def error_texts() -> list[str]:
    """Give the error texts that the troubleshooting table starts its rows with."""
    section = README.partition("## Troubleshooting")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([^`]+)`", section, flags=re.MULTILINE)


def test_the_table_of_flags_is_current() -> None:
    """What the README says about flags is what the magics declare."""
    checked = subprocess.run(
        [sys.executable, "scripts/readme.py", "--check"], cwd=ROOT, check=False
    )

    assert checked.returncode == 0, "run: .venv/bin/python scripts/readme.py"


@pytest.mark.parametrize("text", error_texts())
def test_an_error_in_the_table_exists(text: str) -> None:
    """Each error text that the README explains stands in the code."""
    # A message may be written over two source lines.
    sources = [
        re.sub(r'"\s+f?"', "", path.read_text(encoding="utf-8"))
        for path in (ROOT / "opencode_magic").rglob("*.py")
    ]

    assert any(text in source for source in sources)


def test_the_settings_are_read(tmp_path: Path) -> None:
    """The settings file that the README shows says what it seems to say."""
    (shown,) = code_blocks("toml")
    (tmp_path / "config.toml").write_text(shown, encoding="utf-8")

    found = load_settings(folder=tmp_path, environ={}, system_file=tmp_path / "config.toml")

    assert {name: getattr(found, name) for name in tomllib.loads(shown)} == tomllib.loads(shown)


@pytest.mark.parametrize("variable", sorted(set(re.findall(r"OPENCODE_MAGIC_\w+", README))))
def test_a_variable_exists(variable: str) -> None:
    """Each variable that the README names is one that sets something."""
    assert variable in {name for names in settings._VARIABLES.values() for name in names}


@pytest.mark.parametrize("command", code_blocks("console")[-1].splitlines())
def test_a_command_for_developers_exists(command: str) -> None:
    """Each command of the development section is a program in this repository."""
    assert os.access(ROOT / command.split(maxsplit=1)[0], os.X_OK)


def test_the_installation_is_whole() -> None:
    """What the README installs is an extra that there is, and all that the local home needs."""
    pip, apt = code_blocks("console")[0].splitlines()
    extras = re.findall(r'\.\[(.*)\]"', pip)[0].split(",")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    programs = (ROOT / "scripts" / "lib.sh").read_text(encoding="utf-8")
    needed = re.findall(r"^SANDBOX_PROGRAMS=\((.*)\)$", programs, flags=re.MULTILINE)[0]

    assert set(extras) <= set(project["optional-dependencies"])
    assert apt.removeprefix("apt-get install ").split() == [
        pair.partition("=")[2] for pair in needed.split()
    ]


@pytest.mark.parametrize(
    "command", sorted(set(re.findall(r"`python -m (opencode_magic[^`]*)`", README)))
)
def test_a_command_in_the_text_exists(command: str) -> None:
    """Each command that the text names is one that the program knows."""
    module, *words = command.split()
    known = subprocess.run(
        [sys.executable, "-m", module, "--help"], check=True, stdout=subprocess.PIPE, text=True
    )

    assert all(word in known.stdout for word in words)


@pytest.mark.usefixtures("opencode_binary")
@pytest.mark.timeout(300)
def test_the_cells_run() -> None:
    """The README's cells run one after the other, and the sandbox comes down."""
    cells = [*code_blocks("python")[:2], "assert answer.text and answer.receipt", "%opencode_down"]

    subprocess.run([sys.executable, "-c", RUN_CELLS, *cells], check=True)


@pytest.mark.usefixtures("opencode_binary")
@pytest.mark.timeout(300)
def test_the_script_runs() -> None:
    """The README's program without a notebook prints a reply."""
    program = code_blocks("python")[2]

    done = subprocess.run(
        [sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True
    )
    assert done.stdout.strip()
