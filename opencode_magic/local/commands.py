"""Run commands in a sandbox: output as it comes and kept, stdin, signals, time limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from opencode_magic.local.keeper import Keeper

Stream = Literal["stdout", "stderr"]


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """What to run."""

    argv: Sequence[str]
    cwd: str = "/vercel"
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to (and stronger than) the sandbox's environment."""
    has_stdin: bool = False
    """Without it stdin is empty."""
    kill_after_s: float | None = None
    """SIGKILL to the whole process group after so long; the exit code is then 137."""


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of output; ``index`` counts up from 0 over both streams in the order they came."""

    index: int
    stream: Stream
    data: bytes


class Command:
    """One command. Safe to use from any thread.

    Attributes:
        started_ms: Unix time in milliseconds.
        exit_code: None while it runs; 128 + signal number where a signal ended it.
    """

    started_ms: int
    exit_code: int | None

    def outputs(self, after: int = -1) -> list[Output]:
        """Give what is kept of the output after an index, oldest first. Does not wait."""
        raise NotImplementedError

    def follow(self, after: int = -1) -> Iterator[Output]:
        """Give output from the start (or after an index) and as it comes, until the exit."""
        raise NotImplementedError

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` (from another thread) on new output and at the end; gives the undo."""
        raise NotImplementedError

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Give the exit code, or None when it still runs after ``timeout_s``."""
        raise NotImplementedError

    def signal(self, number: int) -> None:
        """Send a signal to the whole process group. Harmless when it has ended."""
        raise NotImplementedError

    def write_stdin(self, data: bytes, *, timeout_s: float = 10.0) -> int:
        """Give how many bytes the command took within the time.

        Raises:
            StdinUnavailableError: It has no stdin, closed it, or has ended.
        """
        raise NotImplementedError

    def close_stdin(self) -> None:
        """Let the command see the end of its input. Twice is harmless."""
        raise NotImplementedError


def run(keeper: Keeper, spec: CommandSpec, base_env: Mapping[str, str]) -> Command:
    """Start a command; raises what ``Keeper.spawn`` raises."""
    raise NotImplementedError
