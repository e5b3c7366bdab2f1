"""A request and an agent server -> a locked, healthy, proven sandbox, or nothing left running."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from opencode_magic.errors import SandboxLaunchError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opencode_magic.core.opencode import Place, SandboxFile
    from opencode_magic.core.providers import ModelChoice
    from opencode_magic.core.status import StatusEvent
    from opencode_magic.sandbox.handle import Sandbox
    from opencode_magic.sandbox.home import HomeChoice
    from opencode_magic.settings import Settings


class AgentServer(Protocol):
    """What a sandbox must run, and how to see that it runs."""

    def files(self, place: Place) -> Sequence[SandboxFile]:
        """Give the files to write before the start. Paths are absolute inside the sandbox."""

    def command(self, place: Place) -> Sequence[str]:
        """Give the program and its arguments."""

    def environment(self, place: Place) -> Mapping[str, str]:
        """Give the server's environment: its own random password, never a key."""

    def poll_health(self, url: str) -> str | None:
        """Try once, shortly: the server's version, or None while it does not answer.

        Raises:
            AgentConnectionError: Something else answers, or OpenCode 2.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """What to launch and where."""

    settings: Settings
    choice: HomeChoice
    model: ModelChoice
    """A scripted one needs no ``forward_url``: the local server's own is filled in."""
    hosts: tuple[str, ...] = ()
    """Hosts that may be reached beside the model's, as patterns of a network policy."""
    allow_unproven: bool = False
    """Let the launch end where no evidence can be had; a probe that got through still fails it."""


def launch(
    request: LaunchRequest, server: AgentServer, emit: Callable[[StatusEvent], None]
) -> Sandbox:
    """Launch: binary, create locked, configure, serve, healthy, prove.

    ``emit`` is called from this thread and, for what the firewall records, from another; it must
    return soon and not raise.

    Raises:
        SandboxLaunchError: A step failed; everything is cleaned up.
        ProofFailedError: The wall could not be proven, or a probe got through.
        HomeUnavailableError: The home cannot do what was asked, such as the scripted model.
        BinaryError: OpenCode cannot be had, or is not the pinned one.
        KeyboardInterrupt: The user stopped it; everything is cleaned up.
    """
    raise SandboxLaunchError("not there yet", step="create")
