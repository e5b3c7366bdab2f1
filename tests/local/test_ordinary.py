"""The same server as a user without rights: what most people have."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import httpx2
import pytest
from vercel.sandbox import sync as sdk

from tests.local.readable import ORDINARY_UID
from tests.local.servers import LocalServer, processes_with, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

VALUE = "planted-vck-0123456789abcdefghij"
SERVE = ("-m", "http.server", "4096", "--bind", "127.0.0.1")


@pytest.fixture
def ordinary() -> Iterator[LocalServer]:
    """A server that an ordinary user runs."""
    running = LocalServer.make_ordinary()
    try:
        running.start()
        yield running
    finally:
        running.close()


def test_whole_round_as_an_ordinary_user(ordinary: LocalServer) -> None:
    """Create, files, commands, ports, snapshot and the end need no rights."""
    assert ordinary.process is not None
    owner = os.stat(f"/proc/{ordinary.process.pid}").st_uid  # noqa: PTH116 - of a process
    client = ordinary.client()
    box = client.create_sandbox(name="plain", persistent=False, ports=[4096])
    box.fs.write_text("page.html", "served")
    name = box.run_process("id", ["-un"], capture_output=True).stdout
    box.create_process("python3", SERVE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"{box.routes[0].url}/page.html"
    wait_for(lambda: httpx2.get(url, trust_env=False).status_code == 200, 10)
    page = httpx2.get(url, trust_env=False).text
    snapshot = box.snapshot()
    source = sdk.SnapshotSource(snapshot_id=snapshot.id)
    with client.create_sandbox(name="copy", persistent=False, source=source) as copy:
        text = copy.fs.read_text("page.html")
    kept = ordinary.ask("DELETE", "/v2/sandboxes/plain").json()["kept"]
    client.close()

    assert owner == (ORDINARY_UID if os.geteuid() == 0 else os.geteuid())
    assert (name, page, text) == ("ubuntu\n", "served", "served")
    assert isinstance(kept, dict)
    assert kept["files"] == 1


def test_search_for_the_key_as_an_ordinary_user(ordinary: LocalServer) -> None:
    """What the sandbox holds is read from outside; what its owner may not read is said."""
    headers = {"authorization": f"Bearer {VALUE}"}
    rule = sdk.NetworkPolicyRule(transform=[sdk.NetworkPolicyTransform(headers=headers)])
    client = ordinary.client()
    box = client.create_sandbox(
        name="search",
        persistent=False,
        network_policy=sdk.NetworkPolicy.custom(allow={"api.example.com": [rule]}),
    )
    assert box.current_session is not None
    path = f"/local/sessions/{box.current_session.id}/search-key"
    box.run_process("sh", ["-c", "echo clean > note; sleep 60 &"])
    clean = ordinary.ask("POST", path).json()
    box.run_process("sh", ["-c", f"echo {VALUE} > note; echo > closed; chmod 0 closed"])
    box.create_process("sleep", ["60"], env={"LEAK": VALUE})
    dirty = ordinary.ask("POST", path).json()
    box.destroy()
    client.close()

    assert (clean["hits"], clean["isWhole"]) == ([], True)
    assert dirty["hits"] == ["the environment of a process", "a file"]
    assert not dirty["isWhole"]


def test_crash_as_an_ordinary_user_leaves_nothing(ordinary: LocalServer) -> None:
    """After kill -9 of the server nothing of it is left, and its files still are."""
    client = ordinary.client()
    box = client.create_sandbox(name="crash", persistent=False)
    box.fs.write_text("work.txt", "work")
    box.create_process("sleep", ["300"])
    client.close()
    ordinary.kill()
    wait_for(lambda: not processes_with(ordinary.base.name), 2)
    left = processes_with(ordinary.base.name)
    ordinary.start()
    kept = ordinary.ask("DELETE", "/v2/sandboxes/crash").json()["kept"]

    assert left == []
    assert isinstance(kept, dict)
    assert kept["files"] == 1


def test_closed_files_are_saved_and_come_back_closed(ordinary: LocalServer) -> None:
    """What nobody may read, not even its owner, is in a snapshot all the same, with its mode."""
    client = ordinary.client()
    box = client.create_sandbox(name="closed", persistent=False)
    script = "mkdir -p d/deep; echo in > d/deep/in; echo secret > secret; chmod 0 secret d/deep d"
    box.run_process("sh", ["-c", script], check=True)
    source = sdk.SnapshotSource(snapshot_id=box.snapshot().id)
    copy = client.create_sandbox(name="copy", persistent=False, source=source)
    modes = copy.run_process("stat", ["-c", "%a %U", "d", "secret"], capture_output=True).stdout
    script = "chmod 700 d d/deep; chmod 600 secret; cat d/deep/in secret"
    text = copy.run_process("sh", ["-c", script], capture_output=True).stdout
    for item in (box, copy):
        item.destroy(delete_orphan_snapshots=True)
    client.close()

    assert (modes, text) == ("0 ubuntu\n0 ubuntu\n", "in\nsecret\n")
