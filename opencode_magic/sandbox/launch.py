"""A request and an agent server -> a locked, healthy, proven sandbox, or nothing left running."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from opencode_magic.core.opencode import READY_LINE
from opencode_magic.core.status import LaunchFailed
from opencode_magic.errors import (
    BinaryError,
    CredentialsError,
    HomeUnavailableError,
    OpencodeMagicError,
    SandboxLaunchError,
    clean_line,
)
from opencode_magic.sandbox import sweep
from opencode_magic.sandbox.connect import warm_up
from opencode_magic.sandbox.ending import CleanedUp
from opencode_magic.sandbox.faults import describe
from opencode_magic.sandbox.prove import ProofTarget
from opencode_magic.sandbox.steps import Steps

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
    target: ProofTarget = field(default_factory=ProofTarget)
    """The host that the proof expects to be refused."""
    on_made: Callable[[Sandbox], None] = lambda _: None
    """Takes the sandbox before it is kept alive: an Interrupt between the launch's end and the
    caller's next line would otherwise leave one that nobody knows."""


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
        CredentialsError: The cloud refused the credentials, or they have expired.
        KeyboardInterrupt: The user stopped it; everything is cleaned up.
    """
    check_request(request)
    warm_up()
    steps = Steps(request, server, emit)
    try:
        sandbox = steps.run()
        threading.Thread(
            target=sweep.sweep, args=(request.settings,), name="sweep", daemon=True
        ).start()
    except BaseException as exc:  # noqa: BLE001 - whatever it was, nothing may stay running
        failure, event = _clean_up(steps, exc)
    else:
        return sandbox
    # Raised out here, so that no frame of the SDK (its locals hold injected headers) is chained.
    emit(event)
    raise failure


def check_request(request: LaunchRequest) -> None:
    """Refuse what the chosen home cannot do, before anything is started.

    Raises:
        HomeUnavailableError: The model is on this machine and the home is not, or the home has no
            strict firewall.
    """
    if request.choice.home == "local":
        return
    if request.model.is_scripted:
        raise HomeUnavailableError(
            "the scripted demo model runs on this machine, where the cloud home cannot reach it",
            next_step="put AI_GATEWAY_API_KEY=... into .env.local beside the notebook, or use "
            "%opencode_up --home local",
        )
    if request.settings.is_strict:
        raise HomeUnavailableError(
            "strict is the local home's alone: the cloud's firewall passes plain hosts unread",
            next_step="use %opencode_up --home local --strict, or leave --strict out",
        )
    mapped = [request.model.host] if request.model.forward_url else [*request.settings.mappings]
    if mapped:
        raise HomeUnavailableError(
            f"{mapped[0]} is mapped to this machine, where the cloud home cannot reach it",
            next_step="use %opencode_up --home local, or a model with a public address",
        )


def _clean_up(steps: Steps, exc: BaseException) -> tuple[BaseException, LaunchFailed]:
    """Remove what there is; give what to raise, and the same as an event."""
    step, label = steps.current, steps.failed_label
    cleaned = CleanedUp()
    for _again in range(3):  # an impatient second and third Interrupt
        try:
            cleaned = steps.fail(exc)
            break
        except KeyboardInterrupt:
            continue
    said = [line for line in cleaned.log_lines if not line.startswith(READY_LINE)]
    lines = tuple(map(clean_line, said))
    if not isinstance(exc, Exception):
        words = " and ".join(filter(None, ("interrupted", cleaned.left)))
        event = LaunchFailed(words, "launch again: %opencode_up", lines)
        is_told = cleaned.left and isinstance(exc, KeyboardInterrupt)
        return type(exc)(*((cleaned.left,) if is_told else exc.args)), event
    failure = _as_ours(exc, step, label)
    if cleaned.left:
        failure.args = (clean_line(f"{failure.message}; {cleaned.left}"),)
    if isinstance(failure, SandboxLaunchError):
        lines = failure.log_lines = failure.log_lines or lines
    return failure, LaunchFailed(failure.message, failure.next_step, lines)


def _as_ours(exc: Exception, step: str, label: str) -> OpencodeMagicError:
    kept_kinds = (SandboxLaunchError, BinaryError, CredentialsError, HomeUnavailableError)
    if isinstance(exc, kept_kinds):
        return exc.with_traceback(None)
    fault = describe(exc)
    return SandboxLaunchError(
        f"{label} failed: {fault.message}",
        step=step,
        next_step=fault.next_step or "run %opencode_doctor",
    )
