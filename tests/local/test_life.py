"""The life of a sandbox through the SDK: names, lists, ends, saved files, a second life."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

import httpx2
import pytest
from vercel.sandbox import sync as sdk

from tests.local.servers import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.local.servers import LocalServer


@pytest.fixture(autouse=True)
def removed(client: sdk.SyncSandboxClient) -> Iterator[None]:
    """Whatever a test made on the module's server is gone after it."""
    yield
    for box in client.query_sandboxes():
        box.destroy(delete_orphan_snapshots=True)


def named(client: sdk.SyncSandboxClient, query: sdk.SandboxQuery, **more: int) -> list[str]:
    return [box.name for box in client.query_sandboxes(query=query, **more)]  # type: ignore[arg-type] # page_size alone


def session_of(box: sdk.SyncSandbox) -> sdk.SyncSandboxRuntimeSession:
    session = box.current_session
    assert session is not None
    return session


def test_name_that_is_taken_is_a_conflict(client: sdk.SyncSandboxClient) -> None:
    """A name belongs to one sandbox, also while that one is stopped."""
    client.create_sandbox(name="one", persistent=True).stop()
    with pytest.raises(sdk.SandboxApiError) as caught:
        client.create_sandbox(name="one")

    assert (caught.value.status_code, caught.value.code) == (409, "conflict")


def test_second_handle_shares_all_of_it(client: sdk.SyncSandboxClient, server: LocalServer) -> None:
    """Who finds a sandbox by its name sees its files, its processes and their output."""
    box = client.create_sandbox(name="one", persistent=False)
    process = box.create_process("sh", ["-c", "echo out; echo err >&2"])
    process.wait()
    other_client = server.client()
    other = other_client.get_sandbox(name="one")
    other.fs.write_text("by-other.txt", "text")
    found = other.get_process(process.id)
    assert found.stderr is not None
    said = found.stderr.read()
    other_client.close()

    assert (box.fs.read_text("by-other.txt"), said) == ("text", "err\n")


def test_get_or_create_makes_one(client: sdk.SyncSandboxClient) -> None:
    """The first call creates, the second one finds, and a stopped one is resumed."""
    first, is_first_new = client.get_or_create_sandbox(name="one", persistent=True)
    second, is_second_new = client.get_or_create_sandbox(name="one", persistent=True)
    first.stop()
    third, is_third_new = client.get_or_create_sandbox(name="one", persistent=True)

    assert (is_first_new, is_second_new, is_third_new) == (True, False, False)
    assert first.current_session_id == second.current_session_id != third.current_session_id
    assert third.status == sdk.SandboxStatus.RUNNING


def test_lists_are_sorted_as_asked(client: sdk.SyncSandboxClient) -> None:
    """By name or by time, up or down."""
    for name in ("b", "c", "a"):
        client.create_sandbox(name=name, persistent=False)
        time.sleep(0.002)

    assert named(client, sdk.SandboxQueryByName(sort_order="asc")) == ["a", "b", "c"]
    assert named(client, sdk.SandboxQueryByName(sort_order="desc")) == ["c", "b", "a"]
    assert named(client, sdk.SandboxQueryByCreatedAt(sort_order="asc")) == ["b", "c", "a"]
    assert named(client, sdk.SandboxQueryByCreatedAt(sort_order="desc")) == ["a", "c", "b"]


def test_lists_by_prefix_come_in_pages(client: sdk.SyncSandboxClient) -> None:
    """A prefix leaves out all other names, however small the pages are."""
    for name in ("in-1", "in-2", "in-3", "out-1"):
        client.create_sandbox(name=name, persistent=False)
    query = sdk.SandboxQueryByName(name_prefix="in-", sort_order="asc")
    pages = [named(client, query, page_size=size) for size in (1, 2, 3, 50)]

    assert pages == [["in-1", "in-2", "in-3"]] * 4


def test_update_changes_the_saved_part(client: sdk.SyncSandboxClient) -> None:
    """Tags, ports, environment and limit are changed in one call, and found by another handle."""
    box = client.create_sandbox(name="one", persistent=False, tags={"a": "b"})
    box.update(
        tags={"c": "d"},
        ports=[5000],
        execution_time_limit=timedelta(minutes=20),
        persistent=True,
    )
    found = client.get_sandbox(name="one")

    assert (found.tags, [route.port for route in found.routes]) == ({"c": "d"}, [5000])
    assert (found.execution_time_limit, found.persistent) == (timedelta(minutes=20), True)
    assert session_of(found).execution_time_limit == timedelta(minutes=20)


def test_extension_outlives_the_first_limit(client: sdk.SyncSandboxClient) -> None:
    """A sandbox that was extended in time is there after its first limit."""
    box = client.create_sandbox(
        name="one", persistent=False, execution_time_limit=timedelta(milliseconds=900)
    )
    box.extend_execution_time_limit(timedelta(minutes=1))
    done = box.run_process("sleep", ["1.2"])

    assert done.returncode == 0


def test_expiry_ends_what_runs(client: sdk.SyncSandboxClient) -> None:
    """Who waits for a command when the limit is reached is told, and so is who comes later."""
    box = client.create_sandbox(
        name="one", persistent=False, execution_time_limit=timedelta(milliseconds=600)
    )
    began = time.monotonic()
    done = box.run_process("sleep", ["60"])
    with pytest.raises(sdk.SandboxApiError) as caught:
        session_of(box).run_process("true")

    assert done.returncode == 137
    assert time.monotonic() - began < 5
    assert caught.value.status_code == 410
    assert caught.value.code in {"sandbox_stopping", "sandbox_stopped"}


def test_second_life_is_another_session(client: sdk.SyncSandboxClient) -> None:
    """A call on a stopped persistent sandbox is replayed on a new session, and both are listed."""
    box = client.create_sandbox(name="one", persistent=True, env={"HELD": "held"})
    box.fs.write_text("keep.txt", "kept")
    old = session_of(box)
    box.stop()
    done = box.run_process("sh", ["-c", "cat keep.txt; echo $HELD"], capture_output=True)
    sessions = [session.id for session in client.query_sessions(name="one", sort_order="asc")]

    assert done.stdout == "keptheld\n"
    assert sessions == [old.id, box.current_session_id]


def test_session_is_pinned(client: sdk.SyncSandboxClient) -> None:
    """A call on a session that has ended does not resume its sandbox."""
    box = client.create_sandbox(name="one", persistent=True)
    session = session_of(box)
    box.stop()
    with pytest.raises(sdk.SandboxApiError) as caught:
        session.run_process("true")

    assert (caught.value.status_code, caught.value.code) == (410, "sandbox_stopped")
    assert client.get_sandbox(name="one").status == sdk.SandboxStatus.STOPPED


def test_process_does_not_outlive_a_stop(client: sdk.SyncSandboxClient) -> None:
    """What ran before a stop does not run after a resume, and its id is not found."""
    box = client.create_sandbox(name="one", persistent=True)
    process = box.create_process("sleep", ["98"])
    box.stop()
    left = box.run_process("pgrep", ["-f", "sleep 98"], capture_output=True)
    with pytest.raises(sdk.SandboxApiError) as caught:
        box.get_process(process.id)

    assert (left.stdout, caught.value.status_code) == ("", 404)


def test_snapshots_are_found_and_removed(client: sdk.SyncSandboxClient) -> None:
    """A snapshot is found by its id and by its sandbox, and is gone when it is deleted."""
    box = client.create_sandbox(name="one", persistent=False)
    box.fs.write_bytes("work.bin", bytes(5000))
    made = box.snapshot(expiration=timedelta(days=1))
    found = client.get_snapshot(snapshot_id=made.id)
    listed = [item.id for item in client.query_snapshots(name="one")]
    found.delete()
    with pytest.raises(sdk.SandboxApiError) as caught:
        client.create_sandbox(name="two", source=sdk.SnapshotSource(snapshot_id=made.id))

    assert (found.size_bytes, listed) == (5000, [made.id])
    assert (caught.value.code, named(client, sdk.SandboxQueryByName())) == (
        "snapshot_not_found",
        ["one"],
    )


def test_snapshot_is_taken_of_a_moment(client: sdk.SyncSandboxClient) -> None:
    """Two sandboxes of one snapshot change neither it nor each other; links and modes are there."""
    box = client.create_sandbox(name="one", persistent=False)
    box.fs.write_text("run.sh", "#!/bin/sh\necho ran\n", mode=0o755)
    box.run_process("ln", ["-s", "run.sh", "link"])
    source = sdk.SnapshotSource(snapshot_id=box.snapshot().id)
    copies = [client.create_sandbox(name=f"copy-{n}", source=source) for n in range(2)]
    copies[0].fs.write_text("run.sh", "#!/bin/sh\necho changed\n", mode=0o755)
    said = [copy.run_process("./link", capture_output=True).stdout for copy in copies]

    assert said == ["changed\n", "ran\n"]


def test_fork_starts_from_a_snapshot(client: sdk.SyncSandboxClient) -> None:
    """A fork has the saved files and the settings of its source, and leaves it as it is."""
    box = client.create_sandbox(name="one", persistent=False, env={"HELD": "held"}, tags={"a": "b"})
    box.fs.write_text("work.txt", "work")
    box.snapshot()
    copy = client.fork_sandbox(source_sandbox="one", name="two")
    done = copy.run_process("sh", ["-c", "cat work.txt; echo $HELD"], capture_output=True)

    assert (done.stdout, copy.tags) == ("workheld\n", {"a": "b"})
    assert client.get_sandbox(name="one").status == sdk.SandboxStatus.STOPPED


def test_port_of_an_ended_sandbox_is_closed(client: sdk.SyncSandboxClient) -> None:
    """After the end nobody answers at the address that was published."""
    box = client.create_sandbox(name="one", persistent=False, ports=[4096])
    url = box.routes[0].url
    status = httpx2.get(url, trust_env=False).status_code
    box.stop()
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(url, trust_env=False)

    assert status == 502


def test_ended_sandbox_frees_its_name(client: sdk.SyncSandboxClient) -> None:
    """After a destroy the name is free, and nothing of the first one is in the second."""
    first = client.create_sandbox(name="one", persistent=True)
    first.fs.write_text("work.txt", "work")
    first.destroy()
    second = client.create_sandbox(name="one", persistent=True)

    assert not second.fs.exists("work.txt")


def test_keeper_that_ends_is_noticed_by_waiters(client: sdk.SyncSandboxClient) -> None:
    """A command that ends its whole sandbox leaves nobody waiting."""
    box = client.create_sandbox(name="one", persistent=False)
    process = box.create_process("sleep", ["60"])
    session_of(box).stop()
    wait_for(lambda: client.get_sandbox(name="one").status == sdk.SandboxStatus.STOPPED, 5)
    with pytest.raises(sdk.SandboxApiError) as caught:
        process.wait()

    assert caught.value.code in {"sandbox_stopped", "snapshot_not_found"}


def test_persistent_sandbox_survives_a_crash(fresh_server: LocalServer) -> None:
    """A persistent sandbox is resumed after a crash, once it has its lost secrets again."""
    rule = sdk.NetworkPolicyRule(
        transform=[sdk.NetworkPolicyTransform(headers={"authorization": "Bearer planted-value"})]
    )
    policy = sdk.NetworkPolicy.custom(allow={"api.example.com": [rule]})
    client = fresh_server.client()
    box = client.create_sandbox(
        name="lasting", persistent=True, network_policy=policy, env={"HELD": "held"}
    )
    box.fs.write_text("work.txt", "work")
    client.close()
    fresh_server.kill()
    fresh_server.start()
    client = fresh_server.client()
    again = client.get_sandbox(name="lasting")
    with pytest.raises(sdk.SandboxApiError, match="update env and networkPolicy first") as caught:
        again.fs.read_text("work.txt")
    again.update(network_policy=policy, env={"HELD": "again"})
    text = again.fs.read_text("work.txt")
    held = again.run_process("sh", ["-c", "echo $HELD"], capture_output=True).stdout
    readback = again.network_policy
    client.close()

    assert (caught.value.status_code, caught.value.code) == (409, "sandbox_secrets_lost")
    assert (text, held) == ("work", "again\n")
    assert (readback.allowed_domains if readback else ()) == ("api.example.com",)


def test_persistent_sandbox_without_secrets_just_resumes(fresh_server: LocalServer) -> None:
    """Who gave a sandbox no secret need not give it again, however often the server crashes."""
    client = fresh_server.client()
    box = client.create_sandbox(
        name="plain", persistent=True, network_policy=sdk.NetworkPolicy.deny_all()
    )
    box.fs.write_text("work.txt", "work")
    client.close()
    texts = []
    for _ in range(2):
        fresh_server.kill()
        fresh_server.start()
        client = fresh_server.client()
        texts.append(client.get_sandbox(name="plain").fs.read_text("work.txt"))
        client.close()

    assert texts == ["work", "work"]
