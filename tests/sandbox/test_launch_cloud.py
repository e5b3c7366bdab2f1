from __future__ import annotations

import json
import sys
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from opencode_magic.core.status import (
    Warned,
)
from opencode_magic.errors import (
    HomeUnavailableError,
)
from opencode_magic.sandbox.launch import launch
from tests.sandbox.homes import (
    KEY,
    Events,
    opencode_server,
    quick_server,
    status_of,
)

if TYPE_CHECKING:
    from opencode_magic.sandbox.launch import LaunchRequest
    from tests.sandbox.canary import Canary

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the local home needs Linux"),
    pytest.mark.usefixtures("opencode_binary"),
]


def test_launch_on_the_cloud_home_uploads_and_is_proven(
    cloud: LaunchRequest, canary: Canary
) -> None:
    """The same launch without any of the local extras: uploaded, proven, asked, removed."""
    events = Events()

    sandbox = launch(cloud, opencode_server(cloud), events)
    try:
        status = status_of(events)
        seen = canary.authorizations[:]
        evidence = {p.asked: p.is_wall_evidence for p in sandbox.proof.probes}
        lease = json.loads(
            (cloud.settings.state_dir / "leases" / f"{sandbox.name}.json").read_text()
        )
    finally:
        gone = sandbox.terminate()

    assert [step.name for step in status.steps] == [
        "create",
        "binary",
        "configure",
        "serve",
        "prove",
    ]
    assert status.phase == "locked"
    assert not status.has_egress_record
    assert sandbox.cut_model() is False
    assert sandbox.records_since(0) == ()
    assert seen == [f"Bearer {KEY}"]
    assert evidence["example.com by name"]
    assert not evidence["192.0.2.1 by address"]
    assert (lease["home"], lease["url"]) == ("cloud", sandbox.url)
    assert len(gone.removed) == 1


def test_cloud_without_evidence_is_not_proven(cloud: LaunchRequest) -> None:
    """A kernel that cannot reach the blocked host itself proves nothing; who accepts is warned."""
    blind = replace(cloud, target=replace(cloud.target, kernel_address=("127.0.0.1", 9)))
    events = Events()

    sandbox = launch(replace(blind, allow_unproven=True), quick_server(), events)
    sandbox.terminate()

    assert status_of(events).phase == "unproven"
    assert [e.text for e in events.of(Warned) if isinstance(e, Warned)] == [
        "locked, not proven from here: no probe has the wall's own evidence"
    ]


def test_scripted_model_is_refused_on_the_cloud(cloud: LaunchRequest, local: LaunchRequest) -> None:
    """The demo model lives on this machine: the cloud home says so before anything starts."""
    events = Events()

    with pytest.raises(HomeUnavailableError, match="scripted demo model"):
        launch(replace(cloud, model=local.model), quick_server(), events)

    assert events.seen == []


def test_strict_is_refused_on_the_cloud(cloud: LaunchRequest) -> None:
    """What the cloud's firewall cannot do is said before anything starts."""
    strict = replace(cloud, settings=replace(cloud.settings, is_strict=True))

    with pytest.raises(HomeUnavailableError, match="strict is the local home's alone"):
        launch(strict, quick_server(), Events())


def test_mapped_model_is_refused_on_the_cloud(cloud: LaunchRequest, local: LaunchRequest) -> None:
    """A name that leads to this machine is refused in one line on the cloud home."""
    mapped = replace(
        local.model,
        is_scripted=False,
        host="ollama.internal",
        forward_url="http://127.0.0.1:11434",
    )

    with pytest.raises(HomeUnavailableError, match=r"ollama\.internal is mapped to this machine"):
        launch(replace(cloud, model=mapped), quick_server(), Events())


def test_work_is_fetched_from_the_cloud(cloud: LaunchRequest) -> None:
    """The cloud keeps nothing: the workspace is copied into the user's state folder, privately."""
    sandbox = launch(cloud, quick_server(), Events())
    sandbox._parts.session.fs.write_text(f"{sandbox.place.workspace}/notes.md", "hello")

    gone = sandbox.terminate()

    kept = cloud.settings.state_dir / "kept" / sandbox.name / "workspace.tar.gz"
    assert gone.kept == (f"the agent's files, for 7 days: {kept}",)
    assert kept.stat().st_mode & 0o077 == 0
    with tarfile.open(kept) as archive:
        assert "workspace/notes.md" in archive.getnames()
