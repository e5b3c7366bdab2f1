"""How launches fail, are interrupted, and end: nothing stays running, and nothing is lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opencode_magic.core.opencode import READY_LINE, VERSION
from opencode_magic.core.status import (
    Launched,
    LaunchFailed,
    StepStarted,
    WentDown,
)
from opencode_magic.errors import (
    SandboxLaunchError,
)
from opencode_magic.sandbox import steps
from opencode_magic.sandbox.connect import find_server
from opencode_magic.sandbox.launch import launch
from tests.sandbox.homes import (
    Events,
    ScriptServer,
    live_sandboxes,
    quick_server,
    status_of,
    wait_for_no_process,
)

if TYPE_CHECKING:
    from opencode_magic.core.status import StatusEvent
    from opencode_magic.sandbox.handle import Sandbox
    from opencode_magic.sandbox.launch import LaunchRequest

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the local home needs Linux"),
    pytest.mark.usefixtures("opencode_binary"),
]


def test_server_that_ends_shows_its_last_lines(local: LaunchRequest) -> None:
    """A server that ends at once fails the launch with what it said, and is cleaned up."""
    server = ScriptServer("echo first; echo the port is taken >&2; exit 3")

    events = Events()
    with pytest.raises(SandboxLaunchError, match="ended with code 3") as caught:
        launch(local, server, events)

    assert status_of(events).log_lines == ("first", "the port is taken")
    assert caught.value.step == "serve"
    assert caught.value.log_lines[-1] == "the port is taken"
    assert not live_sandboxes(local)


def test_log_that_cannot_be_read_does_not_hold_up_the_end(
    local: LaunchRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading the last lines takes a part of the time; the sandbox is destroyed all the same."""
    monkeypatch.setattr(steps, "CLEAN_UP_BUDGET_S", 4.0)
    log = "$HOME/.opencode-magic/server.log"

    with pytest.raises(SandboxLaunchError, match="ended with code 3") as caught:
        launch(local, ScriptServer(f"rm {log}; mkfifo {log}; exit 3"), Events())

    assert not live_sandboxes(local)
    assert "may still run" not in caught.value.message


@pytest.mark.parametrize("is_interrupted", [True, False])
def test_home_that_hangs_at_the_end_is_told(
    local: LaunchRequest, monkeypatch: pytest.MonkeyPatch, *, is_interrupted: bool
) -> None:
    """Where it is not known that the sandbox is gone the words say so, with its name."""
    monkeypatch.setattr(steps, "CLEAN_UP_BUDGET_S", 4.0)
    events = Events()
    stopped: list[int] = []

    def hang(event: StatusEvent) -> None:
        events(event)
        if isinstance(event, StepStarted) and event.name == "prove":
            server = find_server(local.settings)
            assert server is not None
            stopped.append(server.pid)
            os.kill(server.pid, signal.SIGSTOP)
            raise KeyboardInterrupt if is_interrupted else RuntimeError("it broke")

    kind = KeyboardInterrupt if is_interrupted else SandboxLaunchError
    try:
        with pytest.raises(kind, match="may still run until its time is up") as caught:
            launch(local, ScriptServer("sleep 60", version=VERSION), hang)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)

    status = status_of(events)
    assert status.sandbox_name.removeprefix("ocm-") in str(caught.value)
    assert "may still run until its time is up: the home did not answer in time" in status.error


@pytest.mark.parametrize("step", ["binary", "create", "configure", "serve", "prove"])
def test_interrupt_in_any_step_cleans_up(local: LaunchRequest, step: str) -> None:
    """An Interrupt ends the launch, whatever it was at, and nothing stays running."""
    events = Events()

    def interrupt(event: StatusEvent) -> None:
        events(event)
        if isinstance(event, StepStarted) and event.name == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(local, quick_server(), interrupt)

    assert [e.error for e in events.of(LaunchFailed) if isinstance(e, LaunchFailed)] == [
        "interrupted"
    ]
    assert find_server(local.settings) is None or not live_sandboxes(local)
    wait_for_no_process(local)
    assert not list((local.settings.state_dir / "leases").glob("*.json"))


def test_interrupt_at_the_end_leaves_no_heartbeat(local: LaunchRequest) -> None:
    """An Interrupt just after the last step: nothing runs, and nothing is kept alive or told."""
    events = Events()
    made: list[Sandbox] = []

    def interrupt(event: StatusEvent) -> None:
        events(event)
        if isinstance(event, Launched):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(replace(local, on_made=made.append), quick_server(), interrupt)

    assert "lease" not in {thread.name for thread in threading.enumerate()}
    assert [sandbox.is_alive() for sandbox in made] == [False]
    assert made[0].terminate().kept == ()
    assert status_of(events).error == "interrupted"
    assert find_server(local.settings) is None or not live_sandboxes(local)
    wait_for_no_process(local)
    assert not list((local.settings.state_dir / "leases").glob("*.json"))


def test_interrupt_shows_the_last_lines(local: LaunchRequest) -> None:
    """An Interrupt after the agent server's start says what that said, and what to do next."""
    events = Events()

    def interrupt(event: StatusEvent) -> None:
        events(event)
        if isinstance(event, StepStarted) and event.name == "prove":
            time.sleep(1)  # so that the script has said its line
            raise KeyboardInterrupt

    script = f"echo booting; echo '{READY_LINE}http://127.0.0.1:4096'; sleep 60"
    with pytest.raises(KeyboardInterrupt):
        launch(local, ScriptServer(script, version=VERSION), interrupt)

    status = status_of(events)
    assert status.log_lines == ("booting",)
    assert status.next_step == "launch again: %opencode_up"


def test_killed_local_server_is_noticed(local: LaunchRequest) -> None:
    """When the local server is killed the status says that the sandbox is gone, and why."""
    events = Events()
    sandbox = launch(local, quick_server(), events)
    server = find_server(local.settings)
    assert server is not None

    os.kill(server.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not events.of(WentDown) and time.monotonic() < deadline:
        time.sleep(0.05)
    gone = sandbox.terminate()

    assert status_of(events).phase == "failed"
    assert "local server" in status_of(events).error
    assert not sandbox.is_alive()
    assert gone.removed != ()


@pytest.mark.parametrize("keep", [True, False])
def test_work_outlives_a_killed_local_server(local: LaunchRequest, *, keep: bool) -> None:
    """Where the local server was killed the agent's files are found, and told or deleted."""
    sandbox = launch(local, quick_server(), Events())
    server = find_server(local.settings)
    assert server is not None
    sandbox._parts.session.fs.write_text("workspace/work.txt", "mine")
    os.kill(server.pid, signal.SIGKILL)

    gone = sandbox.terminate(keep=keep)

    local_dir = local.settings.state_dir / "local"
    found = [path.read_text() for path in local_dir.rglob("work.txt")]
    kept = [Path(line.removeprefix("the agent's files, for 7 days: ")) for line in gone.kept]
    assert gone.removed != ()
    assert [(path / "work.txt").read_text() for path in kept] == ["mine"] * keep
    assert found == ["mine"] * keep
    assert live_sandboxes(local) == []


def test_work_is_kept_when_it_ends(local: LaunchRequest) -> None:
    """What stands in the workspace at the end is kept in the user's state folder."""
    sandbox = launch(local, quick_server(), Events())
    sandbox._parts.session.fs.write_text(f"{sandbox.place.workspace}/notes.md", "hello")

    (note,) = sandbox.terminate().kept

    folder = Path(note.removeprefix("the agent's files, for 7 days: "))
    assert folder.is_relative_to(local.settings.state_dir)
    assert (folder / "notes.md").read_text() == "hello"


def test_discarded_work_is_gone(local: LaunchRequest) -> None:
    """Who discards the agent's files finds none of them afterwards."""
    sandbox = launch(local, quick_server(), Events())
    sandbox._parts.session.fs.write_text(f"{sandbox.place.workspace}/notes.md", "hello")

    gone = sandbox.terminate(keep=False)

    assert gone.kept == ()
    assert not list(local.settings.state_dir.rglob("notes.md"))
