"""Runs a program inside to its end, and keeps no more of its output than an honest one has.

The agent's programs have the same user: they may stand first in PATH, or write into the pipe of
another. What they print must not fill the notebook's memory.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opencode_magic.errors import SandboxConnectionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vercel.sandbox.sync import SyncSandboxRuntimeSession

LIMIT_CHARS = 4 * 1024 * 1024
SHELL = "/bin/sh"
"""By its place: a bare name could be a program of the agent's."""
SYSTEM_FIRST = "PATH=/usr/bin:/bin:$PATH\n"
"""How a script begins whose programs are not to be the agent's."""


@dataclass(frozen=True, slots=True)
class Done:
    """A program that has ended."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def last_line(self) -> str:
        """The last line that it complained with; empty where it did not."""
        lines = self.stderr.strip().splitlines()
        return lines[-1] if lines else ""


class _TooMuchError(Exception):
    """A program printed more than is kept."""


class _Kept(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self._left = LIMIT_CHARS

    def write(self, text: str) -> int:
        self._left -= len(text)
        if self._left < 0:
            raise _TooMuchError
        return super().write(text)


def run_inside(
    session: SyncSandboxRuntimeSession,
    program: str,
    arguments: Sequence[str],
    *,
    kill_after: float,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Done:
    """Run a program to its end; after ``kill_after`` seconds it is killed.

    Raises:
        SandboxConnectionError: It printed too much.
        Exception: What the SDK raises where the sandbox does not answer.
    """
    stdout, stderr = _Kept(), _Kept()
    try:
        done = session.run_process(
            program,
            list(arguments),
            cwd=cwd,
            env=env,
            kill_after=kill_after,
            stdout=stdout,
            stderr=stderr,
        )
    except _TooMuchError:
        msg = f"a program inside printed more than {LIMIT_CHARS // 1024**2} MB"
        raise SandboxConnectionError(msg, next_step="launch again: %opencode_up") from None
    return Done(done.returncode, stdout.getvalue(), stderr.getvalue())
