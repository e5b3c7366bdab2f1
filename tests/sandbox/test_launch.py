from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opencode_magic.core.opencode import VERSION
from opencode_magic.core.providers import choose_model
from opencode_magic.core.status import (
    EgressSeen,
    Launched,
    LaunchFailed,
    LaunchStarted,
    Proved,
    StepStarted,
    WentDown,
)
from opencode_magic.errors import (
    BinaryError,
    ProofFailedError,
    SandboxLaunchError,
)
from opencode_magic.sandbox import steps
from opencode_magic.sandbox.connect import find_server
from opencode_magic.sandbox.launch import launch
from opencode_magic.sandbox.local_api import LocalApi
from opencode_magic.sandbox.prove import ProofTarget
from tests.sandbox.homes import (
    GATEWAY,
    KEY,
    Events,
    ScriptServer,
    opencode_server,
    quick_server,
    status_of,
)

if TYPE_CHECKING:
    from opencode_magic.core.status import StatusEvent
    from opencode_magic.sandbox.handle import Sandbox
    from opencode_magic.sandbox.launch import LaunchRequest
    from tests.sandbox.canary import Canary

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the local home needs Linux"),
    pytest.mark.usefixtures("opencode_binary"),
]


def live_sandboxes(request: LaunchRequest) -> object:
    """What the local server says is there."""
    server = find_server(request.settings)
    assert server is not None
    return LocalApi(server.socket, server.token).info()["sandboxes"]


def processes_of(request: LaunchRequest) -> list[str]:
    """Processes whose arguments name the test's own folder, other than its local server."""
    mark = str(request.settings.state_dir).encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes()
        except OSError:
            continue
        if mark in arguments and b"opencode_magic.local\0serve" not in arguments:
            found.append(arguments.replace(b"\0", b" ").decode())
    return found


def wait_for_no_process(request: LaunchRequest) -> None:
    """The spare that the server keeps ready ends a moment after the last sandbox."""
    deadline = time.monotonic() + 5
    while processes_of(request):
        assert time.monotonic() < deadline, processes_of(request)
        time.sleep(0.02)


def test_launch_on_the_local_home_ends_proven_and_leaves_nothing(local: LaunchRequest) -> None:
    """Up, proven by the firewall's own record, down, and nothing of it remains."""
    events = Events()

    sandbox = launch(local, opencode_server(local), events)
    status = status_of(events)
    again = sandbox.prove()
    gone = sandbox.terminate()

    assert status.phase == "locked"
    assert [step.state for step in status.steps] == ["done"] * 5
    assert sandbox.proof is again
    assert again.verdict == "proven"
    assert all(p.is_wall_evidence for p in again.probes if p.must == "refused")
    assert gone.kept == ()
    assert not live_sandboxes(local)
    wait_for_no_process(local)
    assert not list((local.settings.state_dir / "leases").glob("*.json"))


def test_own_probes_do_not_count_as_the_agents(local: LaunchRequest) -> None:
    """What a proof tried is on the firewall's record, and in nobody's receipt."""
    events = Events()

    sandbox = launch(local, quick_server(), events)
    try:
        sandbox.prove()
        records = sandbox.records_since(0, settle_s=1.0)
    finally:
        sandbox.terminate()

    assert records == ()
    assert events.of(EgressSeen) == []


def test_egress_of_a_command_inside_reaches_the_status(local: LaunchRequest) -> None:
    """A blocked attempt is in the records and in the status, with its host."""
    events = Events()
    sandbox = launch(local, quick_server(), events)
    try:
        before = sandbox.last_seq
        session = sandbox._parts.session
        session.run_process("sh", ["-c", "getent hosts blocked.example"], capture_output=True)
        records = sandbox.records_since(before, settle_s=2.0)
    finally:
        sandbox.terminate()

    assert {(r.host, r.verdict) for r in records} == {("blocked.example", "blocked")}
    assert {place.host for place in status_of(events).blocked_places} == {"blocked.example"}


def test_key_is_injected_and_never_inside(local_keyed: LaunchRequest, canary: Canary) -> None:
    """The gateway sees the key, and a search of the sandbox does not find it."""
    sandbox = launch(local_keyed, quick_server(), Events())
    try:
        seen = canary.authorizations[:]
        absent = sandbox.proof.probes[-1]
    finally:
        sandbox.terminate()

    assert set(seen) == {f"Bearer {KEY}"}
    assert (absent.asked, absent.seen) == ("the key, inside", "absent")


@pytest.mark.parametrize("place", ["file", "process", "deep file"])
def test_planted_key_is_found(local_keyed: LaunchRequest, place: str) -> None:
    """A key that stands in a file, or in a process's environment, makes the proof fail."""
    sandbox = launch(local_keyed, quick_server(), Events())
    session, home = sandbox._parts.session, sandbox.place.home
    try:
        if place == "process":
            session.create_process("sleep", ["60"], env={"LEAK": f"x{KEY}y"})
        else:
            path = {"file": "notes.txt", "deep file": "a/b/.c/d.json"}[place]
            content = b"\xff" * 70_000 + f'"{KEY}"'.encode() + b"\0" * 10
            session.fs.write_bytes(f"{home}/workspace/{path}", content)
        proof = sandbox.prove()
    finally:
        sandbox.terminate(keep=False)

    assert proof.verdict == "failed"
    assert proof.probes[-1].seen == "present"


def test_open_wall_fails_the_launch(local_keyed: LaunchRequest) -> None:
    """Where the blocked host can be reached the launch fails, and leaves nothing running."""
    events = Events()

    with pytest.raises(ProofFailedError, match=r"the wall does not hold: example\.com by name"):
        launch(
            replace(
                local_keyed,
                hosts=("example.com",),
                allow_unproven=True,
                target=ProofTarget("example.com", ("127.0.0.1", 9)),
            ),
            quick_server(),
            events,
        )

    assert status_of(events).phase == "failed"
    assert not live_sandboxes(local_keyed)


def test_host_that_the_user_allowed_is_not_the_proofs(local_keyed: LaunchRequest) -> None:
    """Where the usual blocked host is allowed the proof asks for another one."""
    sandbox = launch(replace(local_keyed, hosts=("example.com",)), quick_server(), Events())
    sandbox.terminate()

    assert sandbox.proof.verdict == "proven"
    assert "example.org by name" in [probe.asked for probe in sandbox.proof.probes]


def test_unreachable_model_fails_the_launch(local_keyed: LaunchRequest) -> None:
    """With no network at all everything is refused: that is no proof."""
    offline = replace(local_keyed.settings, upstreams=(f"{GATEWAY}=127.0.0.1:9",))

    with pytest.raises(ProofFailedError, match="did not answer from inside"):
        launch(
            replace(local_keyed, settings=offline, allow_unproven=True),
            quick_server(),
            Events(),
        )


def test_model_whose_name_does_not_resolve_is_told(local: LaunchRequest) -> None:
    """The firewall's reason stands beside what the program inside saw, which is a reset alone."""
    model = choose_model("m", keys={}, base_url="https://nosuch.example/v1")
    assert model is not None

    with pytest.raises(ProofFailedError, match=r"nosuch\.example did not answer") as caught:
        launch(replace(local, model=model), quick_server(), Events())

    assert "its name was not found outside" in caught.value.message


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


def test_other_version_is_refused(local: LaunchRequest) -> None:
    """A server of another version than the pinned one is not used."""
    with pytest.raises(SandboxLaunchError, match=r"OpenCode 1\.18\.1, and 1\.18\.33"):
        launch(local, ScriptServer("sleep 60", version="1.18.1"), Events())


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
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(local, ScriptServer("echo booting; sleep 60", version=VERSION), interrupt)

    status = status_of(events)
    assert status.log_lines == ("booting",)
    assert status.next_step == "launch again: %opencode_up"


def test_failure_carries_no_frame_with_the_key(local_keyed: LaunchRequest) -> None:
    """What a launch raises has no exception behind it, whose frames would hold the key."""
    with pytest.raises(SandboxLaunchError) as caught:
        launch(local_keyed, ScriptServer("exit 1"), Events())

    frames = []
    trace = caught.value.__traceback__
    while trace is not None:
        frames.append(repr(trace.tb_frame.f_locals))
        trace = trace.tb_next
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert KEY not in "".join(frames)


def test_named_binary_is_what_runs(local: LaunchRequest, tmp_path: Path) -> None:
    """A binary that the user named is uploaded and run, not the one in the image."""
    named = tmp_path / "named"
    named.write_text("#!/bin/sh\necho named and started >&2\nexit 7\n")
    settings = replace(local.settings, binary=named)

    events = Events()
    with pytest.raises(SandboxLaunchError, match="ended with code 7") as caught:
        launch(replace(local, settings=settings), opencode_server(local), events)

    step = next(step for step in status_of(events).steps if step.name == "binary")
    digest = hashlib.sha256(named.read_bytes()).hexdigest()[:12]
    assert "named and started" in caught.value.log_lines
    assert (step.label, step.detail) == ("OpenCode", f"named by you, sha256 {digest}, uploaded")


def test_missing_binary_starts_nothing(local: LaunchRequest, tmp_path: Path) -> None:
    """A named binary that is not there fails the first step, before any server is started."""
    lost = replace(local, settings=replace(local.settings, binary=tmp_path / "lost"))

    with pytest.raises(BinaryError, match="no file"):
        launch(lost, quick_server(), Events())

    assert find_server(local.settings) is None


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
    kept = [Path(line.removeprefix("the agent's files: ")) for line in gone.kept]
    assert gone.removed != ()
    assert [(path / "work.txt").read_text() for path in kept] == ["mine"] * keep
    assert found == ["mine"] * keep
    assert live_sandboxes(local) == []


def test_work_is_kept_when_it_ends(local: LaunchRequest) -> None:
    """What stands in the workspace at the end is kept in the user's state folder."""
    sandbox = launch(local, quick_server(), Events())
    sandbox._parts.session.fs.write_text(f"{sandbox.place.workspace}/notes.md", "hello")

    (note,) = sandbox.terminate().kept

    folder = Path(note.removeprefix("the agent's files: "))
    assert folder.is_relative_to(local.settings.state_dir)
    assert (folder / "notes.md").read_text() == "hello"


def test_discarded_work_is_gone(local: LaunchRequest) -> None:
    """Who discards the agent's files finds none of them afterwards."""
    sandbox = launch(local, quick_server(), Events())
    sandbox._parts.session.fs.write_text(f"{sandbox.place.workspace}/notes.md", "hello")

    gone = sandbox.terminate(keep=False)

    assert gone.kept == ()
    assert not list(local.settings.state_dir.rglob("notes.md"))


def test_first_event_names_home_and_hosts(local: LaunchRequest) -> None:
    """Before anything is started the home, its reason and the allowed hosts are told."""
    events = Events()

    launch(local, quick_server(), events).terminate()

    first = events.seen[0]
    assert isinstance(first, LaunchStarted)
    assert (first.home, first.home_reason) == ("local", "the test says so")
    assert first.allowed_hosts == ("demo-model.internal",)
    assert events.of(Proved)
