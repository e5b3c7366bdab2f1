"""How many snapshots of a sandbox are kept, and for how long, through the SDK."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

import httpx2
import pytest
from vercel import sandbox as async_sdk
from vercel.sandbox import sync as sdk

from opencode_magic.local.bodies import parse_update
from opencode_magic.local.payloads import ApiError
from opencode_magic.local.snapshots import Snapshots
from opencode_magic.local.state import Sandbox
from opencode_magic.local.store import Store
from tests.local.servers import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.local.servers import LocalServer

DAY_MS = 24 * 3_600_000


@pytest.fixture
def life(client: sdk.SyncSandboxClient) -> Iterator[sdk.SyncSandboxClient]:
    """A client whose sandboxes and snapshots are gone after the test."""
    yield client
    for item in list(client.query_sandboxes()):
        client.get_sandbox(name=item.name).destroy(delete_orphan_snapshots=True)
    for snapshot in list(client.query_snapshots()):
        client.get_snapshot(snapshot_id=snapshot.id).delete()


def take(box: sdk.SyncSandbox, text: str) -> sdk.SyncSnapshot:
    """Write a file and snapshot it; the next use of the sandbox resumes it."""
    box.fs.write_text("work.txt", text)
    return box.snapshot()


def kept_of(client: sdk.SyncSandboxClient, name: str) -> list[str]:
    """Give the snapshots of a sandbox, oldest first."""
    return [item.id for item in client.query_snapshots(name=name, sort_order="asc")]


def text_in(client: sdk.SyncSandboxClient, snapshot_id: str) -> str:
    box = client.create_sandbox(
        name="reader", persistent=False, source=sdk.SnapshotSource(snapshot_id=snapshot_id)
    )
    try:
        return box.fs.read_text("work.txt")
    finally:
        box.destroy()


def folders(server: LocalServer) -> set[str]:
    """Give the snapshots whose files or records are on disk."""
    return {path.name.removesuffix(".json") for path in (server.state_dir / "snapshots").iterdir()}


def test_only_the_last_are_kept(life: sdk.SyncSandboxClient, server: LocalServer) -> None:
    """A snapshot beyond the count takes the oldest away, with its files; the others work."""
    box = life.create_sandbox(name="keeps", snapshot_retention=sdk.SnapshotRetention(count=2))
    made = [take(box, f"text {number}").id for number in range(4)]
    listed = kept_of(life, "keeps")
    with pytest.raises(sdk.SandboxApiError) as caught:
        life.get_snapshot(snapshot_id=made[0])

    assert listed == made[2:]
    assert folders(server) == set(made[2:])
    assert (caught.value.status_code, caught.value.code) == (404, "snapshot_not_found")
    assert [text_in(life, snapshot_id) for snapshot_id in listed] == ["text 2", "text 3"]
    assert box.fs.read_text("work.txt") == "text 3"


def test_only_the_last_are_kept_async(life: sdk.SyncSandboxClient, server: LocalServer) -> None:
    """The same through the asynchronous client."""

    async def credentials() -> async_sdk.SandboxCredentials:
        return async_sdk.SandboxCredentials(server.token, "local", "local")

    async def work() -> tuple[list[str], list[str]]:
        options = async_sdk.SandboxServiceOptions(
            base_url=str(server.state["url"]),
            credentials_factory=credentials,
        )
        client = async_sdk.SandboxClient.create(
            options=options,
            httpx_client_factory=lambda: httpx2.AsyncClient(
                transport=httpx2.AsyncHTTPTransport(uds=str(server.state["socket"])), timeout=60
            ),
        )
        box = await client.create_sandbox(
            name="keeps", snapshot_retention=async_sdk.SnapshotRetention(count=1)
        )
        made = []
        for number in range(3):
            await box.fs.write_text("work.txt", f"text {number}")
            made.append((await box.snapshot()).id)
        listed = [item.id async for item in client.query_snapshots(name="keeps")]
        await client.aclose()
        return made, listed

    made, listed = asyncio.run(work())

    assert listed == made[2:]
    assert text_in(life, listed[0]) == "text 2"


def test_no_count_keeps_all(life: sdk.SyncSandboxClient) -> None:
    """Without a retention nothing is taken away; one that is set later counts from then on."""
    box = life.create_sandbox(name="all")
    made = [take(box, str(number)).id for number in range(3)]
    before = kept_of(life, "all")
    box.update(snapshot_retention=sdk.SnapshotRetention(count=2))
    unchanged = kept_of(life, "all")
    made.append(take(box, "3").id)
    after = kept_of(life, "all")
    box.update(snapshot_retention=None)
    made.append(take(box, "4").id)

    assert (before, unchanged, after) == (made[:3], made[:3], made[2:4])
    assert kept_of(life, "all") == made[2:]


def test_what_another_sandbox_stands_on_is_kept(life: sdk.SyncSandboxClient) -> None:
    """A snapshot that a sandbox was made from stays until that sandbox is gone."""
    box = life.create_sandbox(name="base", snapshot_retention=sdk.SnapshotRetention(count=1))
    first = take(box, "first").id
    child = life.create_sandbox(
        name="child", persistent=False, source=sdk.SnapshotSource(snapshot_id=first)
    )
    second = take(box, "second").id
    with_child = kept_of(life, "base")
    grandchild = life.fork_sandbox(source_sandbox="child", name="grandchild")
    text = grandchild.fs.read_text("work.txt")
    grandchild.destroy()
    child.destroy()
    third = take(box, "third").id

    assert with_child == [first, second]
    assert text == "first"
    assert kept_of(life, "base") == [third]


def test_snapshots_of_others_are_left_alone(life: sdk.SyncSandboxClient) -> None:
    """Neither those of another sandbox nor those of an earlier one of the same name count."""
    earlier = life.create_sandbox(name="same")
    orphan = take(earlier, "orphan").id
    earlier.destroy()
    other = take(life.create_sandbox(name="other"), "other").id
    box = life.create_sandbox(name="same", snapshot_retention=sdk.SnapshotRetention(count=1))
    made = [take(box, str(number)).id for number in range(2)]

    assert kept_of(life, "same") == [orphan, made[1]]
    assert kept_of(life, "other") == [other]


def test_evicted_ones_may_fall_back_to_the_default_time(life: sdk.SyncSandboxClient) -> None:
    """Where evicted ones are not deleted, they live for the sandbox's default time from then."""
    retention = sdk.SnapshotRetention(count=1, expiration=0, delete_evicted=False)
    box = life.create_sandbox(
        name="falls", snapshot_expiration=timedelta(days=7), snapshot_retention=retention
    )
    first, second = take(box, "first"), take(box, "second")
    evicted = life.get_snapshot(snapshot_id=first.id)
    expires_ms, made_ms = evicted.expires_at, second.created_at
    state = box.snapshot_retention

    assert (first.expires_at, second.expires_at) == (None, None)
    assert expires_ms is not None
    assert 7 * DAY_MS <= expires_ms - made_ms < 7 * DAY_MS + 60_000
    assert state is not None
    assert (state.count, state.expiration, state.delete_evicted) == (1, timedelta(0), False)


def test_kept_ones_live_as_long_as_the_retention_says(life: sdk.SyncSandboxClient) -> None:
    """The retention's time goes before the sandbox's, and what a call asks for before both."""
    retention = sdk.SnapshotRetention(count=3, expiration=timedelta(days=2))
    box = life.create_sandbox(
        name="times", snapshot_expiration=timedelta(days=9), snapshot_retention=retention
    )
    by_retention = take(box, "one")
    box.fs.write_text("work.txt", "two")
    by_call = box.snapshot(expiration=timedelta(days=5))
    lives = [(item.expires_at or 0) - item.created_at for item in (by_retention, by_call)]

    assert lives == [2 * DAY_MS, 5 * DAY_MS]


def test_a_fork_keeps_like_its_source(life: sdk.SyncSandboxClient) -> None:
    """A fork has its source's retention, for its own snapshots."""
    box = life.create_sandbox(name="source", snapshot_retention=sdk.SnapshotRetention(count=1))
    base = take(box, "base").id
    fork = life.fork_sandbox(source_sandbox="source", name="fork")
    made = [take(fork, str(number)).id for number in range(2)]

    assert kept_of(life, "fork") == [made[1]]
    assert kept_of(life, "source") == [base]


def test_retention_outlives_the_server(
    fresh_server: LocalServer,
) -> None:
    """A server that starts again keeps as many as the one before it."""
    with closing(fresh_server.client()) as client:
        box = client.create_sandbox(
            name="lasting", snapshot_retention=sdk.SnapshotRetention(count=1)
        )
        take(box, "first")
    fresh_server.kill()
    fresh_server.start()
    with closing(fresh_server.client()) as client:
        again = client.get_sandbox(name="lasting")
        second = take(again, "second").id

        assert kept_of(client, "lasting") == [second]
    assert folders(fresh_server) == {second}


@pytest.mark.parametrize(
    "wanted",
    [
        {"count": 0},
        {"count": 101},
        {"count": True},
        {"count": 1, "expiration": -1},
        {"count": 1, "expiration": 1000},
        {"count": 1, "deleteEvicted": "yes"},
        {"count": 1, "more": 1},
        {},
        [],
    ],
)
def test_a_malformed_retention_is_refused(wanted: object) -> None:
    """Each field of a retention is checked before it is kept."""
    with pytest.raises(ApiError) as caught:
        parse_update({"keepLastSnapshots": wanted})

    assert (caught.value.status_code, caught.value.code) == (400, "bad_request")


@pytest.mark.parametrize("value", [-1, 1, DAY_MS - 1, 3651 * DAY_MS, "7d"])
def test_an_expiration_out_of_range_is_refused(value: object) -> None:
    """A lifetime is 0 or from one day to ten years."""
    with pytest.raises(ApiError, match="one day"):
        parse_update({"snapshotExpiration": value})


def test_use_renews_the_time(tmp_path: Path) -> None:
    """A snapshot lives so long after its last use; what is never used goes at its time."""
    store = Store(tmp_path)
    snapshots = Snapshots(store)
    box = Sandbox("one", "local", "sbx_1", 1000, 1, 1, 1)
    (store.boxes / "box_1" / "home").mkdir(parents=True)
    (store.boxes / "box_1" / "tmp").mkdir()
    used, unused = (
        snapshots.fold(box, "sbx_1", "box_1", moment_ms=0, expiration_ms=DAY_MS) for _ in range(2)
    )
    snapshots.unfold(used.snapshot_id, "box_2", owner=os.geteuid(), moment_ms=DAY_MS - 1)
    snapshots.expire(DAY_MS)
    record = json.loads((tmp_path / f"snapshots/{used.snapshot_id}.json").read_text())

    assert [item.snapshot_id for item in snapshots.all()] == [used.snapshot_id]
    assert record["expires_ms"] == 2 * DAY_MS - 1
    assert not store.snapshot_folder(unused.snapshot_id).exists()


def test_what_is_being_copied_is_not_taken_away(tmp_path: Path) -> None:
    """Neither time nor count removes a snapshot that a sandbox is being made from."""
    store = Store(tmp_path)
    snapshots = Snapshots(store)
    box = Sandbox("one", "local", "sbx_1", 1000, 1, 1, 1, keep_last_snapshots={"count": 1})
    (store.boxes / "box_1" / "home").mkdir(parents=True)
    (store.boxes / "box_1" / "tmp").mkdir()
    old, new = (
        snapshots.fold(box, "sbx_1", "box_1", moment_ms=moment, expiration_ms=DAY_MS)
        for moment in (1, 2)
    )
    with snapshots.held(old.snapshot_id):
        snapshots.retain(box, set(), 3)
        by_count = [item.snapshot_id for item in snapshots.all()]
        snapshots.expire(3 * DAY_MS)
        by_time = [item.snapshot_id for item in snapshots.all()]
    snapshots.expire(3 * DAY_MS)

    assert by_count == [old.snapshot_id, new.snapshot_id]
    assert by_time == [old.snapshot_id]
    assert snapshots.all() == []


def test_a_snapshot_is_not_deleted_while_it_is_copied(tmp_path: Path) -> None:
    """Who deletes what a sandbox is being made from is told; that sandbox has all files."""
    store = Store(tmp_path)
    snapshots = Snapshots(store)
    home = store.boxes / "box_1" / "home"
    home.mkdir(parents=True)
    (home / "large").write_bytes(os.urandom(150_000_000))
    (store.boxes / "box_1" / "tmp").mkdir()
    box = Sandbox("one", "local", "sbx_1", 1000, 1, 1, 1)
    made = snapshots.fold(box, "sbx_1", "box_1", moment_ms=1, expiration_ms=0)
    target = store.boxes / "box_2" / "home" / "large"
    copying = threading.Thread(
        target=snapshots.unfold,
        args=(made.snapshot_id, "box_2"),
        kwargs={"owner": os.geteuid(), "moment_ms": 2},
    )
    copying.start()
    wait_for(target.exists, 10, step_s=0.0001)
    with pytest.raises(ApiError, match="is being made from this snapshot") as caught:
        snapshots.delete(made.snapshot_id)
    copying.join()
    deleted = snapshots.delete(made.snapshot_id)

    assert (caught.value.status_code, deleted.status) == (409, "deleted")
    assert target.read_bytes() == (home / "large").read_bytes()
    assert list(Snapshots(store).all()) == []
