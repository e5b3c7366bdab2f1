from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from opencode_magic.core.providers import choose_model
from opencode_magic.core.status import (
    EgressSeen,
    LaunchStarted,
    Proved,
)
from opencode_magic.errors import (
    BinaryError,
    ProofFailedError,
    SandboxLaunchError,
)
from opencode_magic.sandbox.connect import find_server
from opencode_magic.sandbox.launch import launch
from opencode_magic.sandbox.prove import ProofTarget
from tests.sandbox.homes import (
    GATEWAY,
    KEY,
    Events,
    ScriptServer,
    live_sandboxes,
    opencode_server,
    quick_server,
    status_of,
    wait_for_no_process,
)

if TYPE_CHECKING:
    from pathlib import Path

    from opencode_magic.sandbox.launch import LaunchRequest
    from tests.sandbox.canary import Canary

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the local home needs Linux"),
    pytest.mark.usefixtures("opencode_binary"),
]


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


def test_key_is_found_where_what_runs_inside_says_that_it_is_not(
    local_keyed: LaunchRequest,
) -> None:
    """The search from outside decides, whatever the one inside has seen or been made to say."""
    sandbox = launch(local_keyed, quick_server(), Events())
    try:
        clean = sandbox.proof.probes[-1]
        sandbox._parts.session.fs.write_text(f"{sandbox.place.home}/notes.txt", KEY)
        proof, _ = replace(sandbox._parts.prover, folders=()).run()
    finally:
        sandbox.terminate(keep=False)

    assert clean.evidence.startswith("searched from outside: ")
    assert "not all" not in clean.evidence
    assert proof.verdict == "failed"
    assert proof.probes[-1].evidence == "found in a file"


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


def test_other_version_is_refused(local: LaunchRequest) -> None:
    """A server of another version than the pinned one is not used."""
    with pytest.raises(SandboxLaunchError, match=r"OpenCode 1\.18\.1, and 1\.18\.33"):
        launch(local, ScriptServer("sleep 60", version="1.18.1"), Events())


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


def test_first_event_names_home_and_hosts(local: LaunchRequest) -> None:
    """Before anything is started the home, its reason and the allowed hosts are told."""
    events = Events()

    launch(local, quick_server(), events).terminate()

    first = events.seen[0]
    assert isinstance(first, LaunchStarted)
    assert (first.home, first.home_reason) == ("local", "the test says so")
    assert first.allowed_hosts == ("demo-model.internal",)
    assert events.of(Proved)
