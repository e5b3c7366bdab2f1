from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = sorted((ROOT / "scripts" / "locks").glob("*.txt"))
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==", re.MULTILINE)


def normal(name: str) -> str:
    """Write a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_a_lock_names_no_index_and_no_folder(lock: Path) -> None:
    """A lock file works on any machine: it holds names, versions, markers and hashes alone."""
    allowed = re.compile(
        r"#.*|[A-Za-z0-9._-]+==[^ ]+( ; [^\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?"
    )
    lines = lock.read_text(encoding="utf-8").splitlines()

    assert [line for line in lines if not allowed.fullmatch(line)] == []


def test_every_dependency_is_locked() -> None:
    """What pyproject.toml asks for is in the lock that developers install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["demo"], *extras["test"], *extras["dev"]]
    names = {normal(re.split(r"[<>=\[ ]", line)[0]) for line in asked}
    locked = PINNED.findall((ROOT / "scripts" / "locks" / "dev.txt").read_text(encoding="utf-8"))

    assert names - {normal(name) for name in locked} == set()


def test_the_demo_and_the_tests_run_the_same_versions() -> None:
    """Everything in the demonstration's lock stands in the developers' lock as it is."""
    demo, dev = (
        set((ROOT / "scripts" / "locks" / name).read_text(encoding="utf-8").splitlines())
        for name in ("demo.txt", "dev.txt")
    )

    assert {line for line in demo - dev if PINNED.match(line)} == set()


def test_the_kernel_image_hands_over_to_its_command() -> None:
    """Binder's start script ends in the command that it was given."""
    done = subprocess.run(
        [ROOT / "binder" / "start", "echo", "handed", "over"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )

    assert done.stdout == "handed over\n"


def test_without_the_right_to_install_one_line_says_what_is_missing(tmp_path: Path) -> None:
    """Where a program is missing and nothing may be installed, the set-up names the package."""
    script = (
        '. "$0/scripts/lib.sh"; may_install() { return 1; }; ensure_system no-such-one=a-package'
    )

    done = subprocess.run(
        ["bash", "-c", script, str(ROOT)],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "apt-get install a-package" in done.stderr
