"""A server that is killed in the middle of its work, and the one that comes after it."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

import httpx2
import pytest
from vercel.sandbox import sync as sdk

from tests.local.servers import LocalServer, processes_with, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LIMIT_S = 20.0
FILL = "head -c 150000000 /dev/urandom > big; mkdir many; cd many; seq 1 3000 | xargs touch"
"""Takes a moment to copy wherever blocks are not shared."""


@pytest.fixture
def crashing() -> Iterator[LocalServer]:
    """A server of the test's own, which is started and killed."""
    made = LocalServer.make()
    made.start()
    try:
        yield made
    finally:
        made.close()


def kill_during(
    server: LocalServer, work: Callable[[], object], moment: Callable[[], bool]
) -> None:
    """Begin a work, kill the server at a moment of it, and start the next one."""

    def try_it() -> None:
        with contextlib.suppress(httpx2.TransportError, sdk.SandboxError, OSError):
            work()

    worker = threading.Thread(target=try_it)
    worker.start()
    deadline = time.monotonic() + LIMIT_S
    while not (is_there := moment()) and time.monotonic() < deadline:
        pass
    server.kill()
    worker.join(LIMIT_S)
    assert is_there
    assert not worker.is_alive()
    wait_for(lambda: not processes_with(str(server.state_dir)), LIMIT_S)
    server.start()


def recorded(server: LocalServer) -> dict[str, list[dict[str, object]]]:
    """Give the sessions of the sandboxes on disk, by name."""
    found = {}
    for path in (server.state_dir / "sandboxes").glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            found[path.stem] = json.loads(path.read_text())["sessions"]
    return found


def status_of(server: LocalServer, name: str) -> str:
    """Give what the record says of the last session of a sandbox."""
    return str(recorded(server).get(name, [{"status": ""}])[-1]["status"])


def boxes_of(server: LocalServer) -> set[str]:
    """Give the folders of sandboxes that a record names."""
    return {
        str(session["box_id"]) for sessions in recorded(server).values() for session in sessions
    }


def lost_boxes(server: LocalServer) -> set[str]:
    """Give the folders of sandboxes that no record names, but for the one of the spare."""
    folder = server.state_dir / "boxes"
    wait_for(lambda: len(set(os.listdir(folder)) - boxes_of(server)) == 1, LIMIT_S)  # noqa: PTH208 - names
    time.sleep(0.3)
    lost = set(os.listdir(folder)) - boxes_of(server)  # noqa: PTH208 - the same
    return lost if len(lost) > 1 else set()


def names(client: sdk.SyncSandboxClient) -> dict[str, str]:
    """Give the sandboxes that are listed, and their statuses."""
    return {item.name: str(item.status.value) for item in client.query_sandboxes() if item.status}


def test_a_create_that_is_killed_leaves_nothing(crashing: LocalServer) -> None:
    """No sandbox of the name, no folder of it, and what it was made from is whole."""
    with closing(crashing.client()) as client:
        box = client.create_sandbox(name="source", persistent=False)
        box.run_process("sh", ["-c", FILL], check=True)
        snapshot_id = box.snapshot().id
        known = set(os.listdir(crashing.state_dir / "boxes"))  # noqa: PTH208 - names

        def is_half() -> bool:
            folders = (crashing.state_dir / "boxes").iterdir()
            new = [path for path in folders if path.name not in boxes_of(crashing)]
            return any((path / "home/big").exists() for path in new)

        kill_during(
            crashing,
            lambda: client.create_sandbox(
                name="killed",
                persistent=False,
                source=sdk.SnapshotSource(snapshot_id=snapshot_id),
            ),
            is_half,
        )
    with closing(crashing.client()) as client:
        listed = names(client)
        lost = lost_boxes(crashing)
        again = client.create_sandbox(
            name="killed", persistent=False, source=sdk.SnapshotSource(snapshot_id=snapshot_id)
        )
        said = again.run_process(
            "sh", ["-c", "stat -c %s big; ls many | wc -l"], capture_output=True
        )

    assert known
    assert listed == {"source": "stopped"}
    assert lost == set()
    assert said.stdout == "150000000\n3000\n"


@pytest.mark.parametrize("is_persistent", [True, False])
def test_a_snapshot_that_is_killed_keeps_the_files(
    crashing: LocalServer,
    is_persistent: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """There is no half snapshot; the sandbox is aborted, and its files are there or kept."""
    folder = crashing.state_dir / "snapshots"
    with closing(crashing.client()) as client:
        box = client.create_sandbox(name="work", persistent=is_persistent)
        box.run_process("sh", ["-c", FILL], check=True)
        kill_during(crashing, box.snapshot, lambda: bool(os.listdir(folder)))  # noqa: PTH208 - names
    with closing(crashing.client()) as client:
        listed, snapshots = names(client), list(client.query_snapshots())
        wait_for(lambda: not os.listdir(folder), 5)  # noqa: PTH208 - the same
        left = os.listdir(folder)  # noqa: PTH208 - the same
        if is_persistent:
            again = client.get_sandbox(name="work")
            said = again.run_process("sh", ["-c", "ls many | wc -l"], capture_output=True).stdout
        else:
            kept = crashing.ask("DELETE", "/v2/sandboxes/work").json()["kept"]
            assert isinstance(kept, dict)
            said = f"{int(str(kept['files'])) - 1}\n"

    assert listed == {"work": "aborted"}
    assert (snapshots, left) == ([], [])
    assert said == "3000\n"


def test_a_stop_that_is_killed_is_an_end(crashing: LocalServer) -> None:
    """The sandbox is listed as ended, nothing of it runs, and it can be resumed."""
    with closing(crashing.client()) as client:
        box = client.create_sandbox(name="stopping", persistent=True)
        box.fs.write_text("work.txt", "work")
        box.create_process("sleep", ["600"])

        kill_during(crashing, box.stop, lambda: status_of(crashing, "stopping") == "stopping")
    with closing(crashing.client()) as client:
        listed = names(client)
        text = client.get_sandbox(name="stopping").fs.read_text("work.txt")

    assert listed == {"stopping": "aborted"}
    assert text == "work"


def test_a_write_that_is_killed_touches_nothing_else(crashing: LocalServer) -> None:
    """Files that stood there stay, and the sandbox takes the write again in its next life."""
    with closing(crashing.client()) as client:
        box = client.create_sandbox(name="writing", persistent=True)
        box.fs.write_text("old.txt", "old")
        data = os.urandom(60_000_000)

        def has_begun() -> bool:
            (box_id,) = boxes_of(crashing)
            return (crashing.state_dir / "boxes" / box_id / "home/new.bin").exists()

        kill_during(crashing, lambda: box.fs.write_bytes("new.bin", data), has_begun)
    with closing(crashing.client()) as client:
        again = client.get_sandbox(name="writing")
        old = again.fs.read_text("old.txt")
        again.fs.write_bytes("new.bin", data)

        assert old == "old"
        assert again.fs.read_bytes("new.bin") == data


def test_a_delete_that_is_killed_can_be_done_again(crashing: LocalServer) -> None:
    """The agent's files are in one place only, in the sandbox or kept, and are listed there."""
    with closing(crashing.client()) as client:
        box = client.create_sandbox(name="gone", persistent=False)
        box.run_process(
            "sh", ["-c", FILL + "; mkdir ~/.cache; seq 1 20000 | (cd ~/.cache; xargs touch)"]
        )
        kept = crashing.state_dir / "kept"
        kill_during(
            crashing,
            lambda: crashing.ask("DELETE", "/v2/sandboxes/gone"),
            lambda: any(kept.iterdir()) or status_of(crashing, "gone") == "stopped",
        )
    answer = crashing.ask("DELETE", "/v2/sandboxes/gone")
    info = crashing.ask("GET", "/local/info").json()
    listed = info["kept"]

    assert answer.status in {200, 404}
    assert isinstance(listed, list)
    assert len(listed) == 1
    assert os.path.isfile(listed[0]["path"] + "/big")  # noqa: PTH113 - text
    assert lost_boxes(crashing) == set()


def test_what_crashes_left_is_removed_at_the_start(crashing: LocalServer) -> None:
    """Half a snapshot, half a record, and kept files that never came are gone; the rest stays."""
    with closing(crashing.client()) as client:
        box = client.create_sandbox(name="whole", persistent=False)
        box.fs.write_text("work.txt", "work")
        snapshot_id = box.snapshot().id
    crashing.kill()
    state = crashing.state_dir
    for folder in ("snapshots/snap_half/home", "boxes/box_half/home", "kept/never"):
        (state / folder).mkdir(parents=True)
    promised = {
        "name": "never", "path": str(state / "kept/never/files"), "files": 1, "size_bytes": 1,
        "kept_ms": time.time_ns() // 1_000_000, "until_ms": time.time_ns() // 1_000_000 + 10**9,
    }  # fmt: skip
    (state / "kept/never/kept.json").write_text(json.dumps(promised))
    (state / "sandboxes/whole.77777.tmp").write_text("{")
    (state / "snapshots/snap_new.77777.tmp").write_text("{")
    crashing.start()
    wait_for(lambda: not (state / "boxes/box_half").exists(), 5)
    left = [
        str(path.relative_to(state))
        for pattern in ("snapshots/*", "sandboxes/*", "kept/*", "boxes/box_half")
        for path in sorted(state.glob(pattern))
    ]
    info = crashing.ask("GET", "/local/info").json()

    assert left == [
        f"snapshots/{snapshot_id}",
        f"snapshots/{snapshot_id}.json",
        "sandboxes/whole.json",
    ]
    assert info["kept"] == []


def test_records_of_another_version_are_read(crashing: LocalServer) -> None:
    """A field that this version does not know hides neither a snapshot nor what is kept."""
    with closing(crashing.client()) as client:
        box = client.create_sandbox(name="later", persistent=False)
        box.fs.write_text("work.txt", "work")
        snapshot_id = box.snapshot().id
        other = client.create_sandbox(name="kept", persistent=False)
        other.fs.write_text("work.txt", "work")
    crashing.ask("DELETE", "/v2/sandboxes/kept")
    crashing.kill()
    for path in (
        crashing.state_dir / f"snapshots/{snapshot_id}.json",
        crashing.state_dir / "kept/kept/kept.json",
    ):
        path.write_text(json.dumps({**json.loads(path.read_text()), "of_a_later_version": 1}))
    crashing.start()
    with closing(crashing.client()) as client:
        found = [item.id for item in client.query_snapshots()]
    info = crashing.ask("GET", "/local/info").json()

    assert found == [snapshot_id]
    assert [item["name"] for item in info["kept"]] == ["kept"]  # type: ignore[attr-defined] # JSON


def test_a_second_server_on_the_same_state_does_not_start(
    crashing: LocalServer, tmp_path: Path
) -> None:
    """It would end what the first one runs: it says where that one is, and leaves all as it is."""
    with closing(crashing.client()) as client:
        box = client.create_sandbox(name="first", persistent=False)
        second = LocalServer(crashing.base, python=crashing.python)
        second.arguments = ("--runtime-dir", str(tmp_path / "elsewhere"))
        process = second.spawn()
        code = process.wait(LIMIT_S)
        said = crashing.log.splitlines()[-1]
        is_alive = box.run_process("echo", ["on"], capture_output=True).stdout == "on\n"

    assert code == 1
    assert "another local server" in said
    assert str(crashing.runtime_dir) in said
    assert is_alive
