"""Real keepers for tests, and a way to run one as an ordinary user."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import opencode_magic
from opencode_magic.local import image
from opencode_magic.local.commands import Command, CommandSpec, run
from opencode_magic.local.isolation import Limits, SandboxSpec
from opencode_magic.local.keeper import Keeper, KeeperPlace
from tests.local.readable import ORDINARY_UID, become, open_python, opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TIME_LIMIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A keeper with a sandbox in it."""

    keeper: Keeper
    folder: Path

    def start(self, *argv: str, **options: object) -> Command:
        """Start a command; ``options`` are CommandSpec's."""
        spec = CommandSpec(argv, **options)  # type: ignore[arg-type] # CommandSpec's own names
        return run(self.keeper, spec, image.environment(has_opencode=False))

    def run(self, *argv: str, **options: object) -> tuple[int | None, str]:
        """Run a command to its end; gives exit code and all output."""
        command = self.start(*argv, **options)
        code = command.wait(TIME_LIMIT_S)
        return code, b"".join(output.data for output in command.outputs()).decode()

    def shell(self, script: str, **options: object) -> tuple[int | None, str]:
        """Run a shell script to its end."""
        return self.run("sh", "-c", script, **options)

    def python(self, source: str, **options: object) -> tuple[int | None, str]:
        """Run a Python program to its end, on the sandbox's own Python."""
        return self.run(image.inside_python().program, "-I", "-S", "-c", source, **options)


@contextmanager
def sandbox(limits: Limits | None = None, *, name: str = "one") -> Iterator[Sandbox]:
    """Give a sandbox in a folder of its own, and end it."""
    base = Path(tempfile.mkdtemp(prefix="om-keep-", dir="/tmp"))
    base.chmod(0o755)
    spec = SandboxSpec(name, base / "boxes" / name, limits=limits or Limits())
    keeper = Keeper.start(KeeperPlace(base / "boxes"), spec)
    try:
        yield Sandbox(keeper, spec.folder)
    finally:
        keeper.close()
        shutil.rmtree(base, ignore_errors=True)


def eventually(holds: Callable[[], bool], *, timeout_s: float) -> bool:
    """Whether it holds at some moment before the time is up."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def descendants(pid: int) -> set[int]:
    """Give a process and all below it, by their numbers on this machine."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def run_as_ordinary_user(program: str, *, within: Sequence[str] = ()) -> str:
    """Run a Python program that imports this package as a user without rights; gives its output.

    Where the tests run as such a user already, it is that user. ``within`` is the start of a
    command line that the program is given to.
    """
    user = become() if os.geteuid() == 0 else []
    return run_with_a_copy([*user, *within], program)


def run_with_a_copy(start: Sequence[str], program: str) -> str:
    """Run a program on a copy of this package that every user may read; gives its output.

    Its folder is in the variable BASE, and belongs to the ordinary user where root runs this.
    """
    base = Path(tempfile.mkdtemp(prefix="om-user-", dir="/tmp"))
    try:
        package = base / "lib" / "opencode_magic"
        shutil.copytree(Path(opencode_magic.__file__).parent, package)
        (base / "home").mkdir()
        base.chmod(0o755)
        if os.geteuid() == 0:
            os.chown(base / "home", ORDINARY_UID, ORDINARY_UID)
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(base / "lib"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "BASE": str(base / "home"),
        }
        argv = [*opened(), *start, open_python(), "-c", program]
        done = subprocess.run(
            argv, env=env, cwd="/", capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr}"
        return done.stdout
    finally:
        shutil.rmtree(base, ignore_errors=True)
