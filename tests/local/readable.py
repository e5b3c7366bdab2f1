"""A Python with this project and what it needs, for an ordinary user, where the tests are root's.

Interpreter, packages and project may lie in folders that only root may enter. Then a command is
started in a mount namespace where those folders are open, and hold only what is needed.
"""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import h11

from opencode_magic.local import image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
SITE = Path(h11.__file__).parents[1]
PACKAGES = os.pathsep.join([str(ROOT), str(SITE)])
ORDINARY_UID = 51_500
_NEEDED = (
    "import sys, ctypes, ssl, cryptography, h11, opencode_magic, re2, starlette, uvicorn\n"
    f"sys.exit('%d.%d' % sys.version_info[:2] != {sysconfig.get_python_version()!r})"
)


def drop() -> list[str]:
    """Give the start of a command line that turns root into an ordinary user."""
    return [*opened(), *become()]


def become() -> list[str]:
    """Give what of ``drop`` changes the user."""
    # Through env: setpriv itself still has root's capabilities when it looks for the program.
    user = [f"--reuid={ORDINARY_UID}", f"--regid={ORDINARY_UID}", "--clear-groups"]
    return ["setpriv", *user, "--", "/usr/bin/env"]


def opened() -> list[str]:
    """Give the start of a command line that opens what ``open_python`` needs; often nothing."""
    return _way()[0]


def open_python() -> str:
    """Give the Python that the user of ``drop`` may run; with PACKAGES it has all it needs."""
    return _way()[1]


def reach() -> list[str]:
    """Give the start of a command line that opens the folders of the Python that runs the tests."""
    return ["unshare", "--mount", "--propagation", "private", "--", "sh", "-ec", _script(), "sh"]


def runs(before: Sequence[str], program: str) -> bool:
    """Whether an ordinary user can run the program, with this project and what it needs."""
    user = [*before, *become()] if os.geteuid() == 0 else ["/usr/bin/env"]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": PACKAGES, "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [*user, program, "-S", "-c", _NEEDED]
    return subprocess.run(argv, env=env, cwd="/", capture_output=True, check=False).returncode == 0


@functools.cache
def _way() -> tuple[list[str], str]:
    base = str(image.base_python())
    for program in (base, "/usr/bin/python3"):
        if runs((), program):
            return [], program
    assert runs(reach(), base), "no Python here can be opened to an ordinary user; run as one"
    return reach(), base


def _script() -> str:
    """Give the shell script that puts an open folder over each closed one, then goes on."""
    needed = [Path(source) for source, _ in image.own_python().binds]
    needed += [ROOT, SITE]
    lines = ["umask 022"]
    for folder in dict.fromkeys(filter(None, map(image.closed_ancestor, needed))):
        lines += ["top=$(mktemp -d)", 'mount -t tmpfs -o mode=755 open "$top"']
        for path in needed:
            if folder in path.parents:
                lines += _bind(path, f'"$top"/{shlex.quote(str(path.relative_to(folder)))}')
        lines.append(f'mount --move "$top" {shlex.quote(str(folder))}; rmdir "$top"')
    return "\n".join([*lines, 'exec "$@"'])


def _bind(path: Path, target: str) -> Iterator[str]:
    if path.is_dir():
        yield f"mkdir -p {target}"
    else:
        yield f'mkdir -p "$(dirname {target})"; : > {target}'
    yield f"mount --bind {shlex.quote(str(path))} {target}"
