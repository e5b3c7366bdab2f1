"""The promises of the Sandbox API about lists and saved files at their edges, through the SDK."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from vercel.sandbox import sync as sdk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.local.servers import LocalServer

BY_NAME = sdk.SandboxQueryByName(name_prefix="of-", sort_order="asc")
ALL_NAMES = [f"of-{number}" for number in range(5)]


@pytest.fixture(autouse=True)
def removed(client: sdk.SyncSandboxClient) -> Iterator[None]:
    """Whatever a test made on the module's server is gone after it."""
    yield
    for box in client.query_sandboxes():
        box.destroy()
    for snapshot in client.query_snapshots():
        snapshot.delete()


@pytest.fixture
def five(client: sdk.SyncSandboxClient) -> list[sdk.SyncSandbox]:
    """Five sandboxes, the first named first."""
    return [client.create_sandbox(name=name, persistent=False) for name in ALL_NAMES]


def names_of(client: sdk.SyncSandboxClient, query: sdk.SandboxQuery, size: int) -> list[str]:
    return [box.name for box in client.query_sandboxes(query=query, page_size=size)]


def text_of(box: sdk.SyncSandbox) -> str:
    return box.fs.read_text("work.txt")


@pytest.mark.usefixtures("five")
def test_list_that_is_emptied_while_it_is_read_is_read_whole(
    client: sdk.SyncSandboxClient,
) -> None:
    """Who removes each sandbox that a list gives has removed them all in the end."""
    seen = []
    for box in client.query_sandboxes(query=BY_NAME, page_size=2):
        seen.append(box.name)
        box.destroy()

    assert seen == ALL_NAMES
    assert names_of(client, BY_NAME, 2) == []


@pytest.mark.usefixtures("five")
def test_list_that_grows_while_it_is_read_gives_nothing_twice(
    client: sdk.SyncSandboxClient,
) -> None:
    """A sandbox that is created meanwhile moves no other one into the list again."""
    seen = []
    for box in client.query_sandboxes(page_size=2):
        seen.append(box.name)
        client.create_sandbox(name=f"new-{len(seen)}", persistent=False)

    assert seen == ALL_NAMES[::-1]


@pytest.mark.usefixtures("five")
@pytest.mark.parametrize("size", [1, 4, 5, 6, 50])
def test_page_borders_lose_nothing(client: sdk.SyncSandboxClient, size: int) -> None:
    """Whether the last page is full, short or the only one, each sandbox comes once."""
    queries: list[sdk.SandboxQuery] = [
        BY_NAME,
        sdk.SandboxQueryByName(name_prefix="of-", sort_order="desc"),
        sdk.SandboxQueryByCreatedAt(sort_order="asc"),
        sdk.SandboxQueryByCreatedAt(sort_order="desc"),
        sdk.SandboxQueryByStatusUpdatedAt(sort_order="asc"),
        sdk.SandboxQueryByCurrentSnapshotId(sort_order="asc"),
    ]
    lists = [names_of(client, query, size) for query in queries]
    expected = [ALL_NAMES, ALL_NAMES[::-1], ALL_NAMES, ALL_NAMES[::-1], ALL_NAMES, ALL_NAMES]

    assert lists == expected


def test_sessions_and_snapshots_come_in_pages(client: sdk.SyncSandboxClient) -> None:
    """The lives and the snapshots of a sandbox are listed whole, either way, a page at a time."""
    box = client.create_sandbox(name="of-many", persistent=True)
    sessions, snapshots = [box.current_session_id], []
    for number in range(3):
        box.fs.write_text("work.txt", str(number))
        snapshots.append(box.snapshot().id)
        box.query_processes()
        sessions.append(box.current_session_id)

    def lists(order: str) -> tuple[list[str], list[str]]:
        more = {"name": "of-many", "page_size": 2, "sort_order": order}
        lives = [item.id for item in client.query_sessions(**more)]  # type: ignore[arg-type] # texts and a number
        saved = [item.id for item in client.query_snapshots(**more)]  # type: ignore[arg-type] # the same
        return lives, saved

    assert lists("asc") == (sessions, snapshots)
    assert lists("desc") == (sessions[::-1], snapshots[::-1])
    assert [item.id for item in box.list_sessions(page_size=2)] == sessions[:1:-1]
    assert [item.id for item in box.list_snapshots(page_size=2)] == snapshots[:0:-1]


def test_tag_may_have_a_colon(client: sdk.SyncSandboxClient) -> None:
    """A tag whose key or value has a colon is found like any other."""
    client.create_sandbox(name="of-colon", persistent=False, tags={"team:a": "b:c"})
    queries = [
        sdk.SandboxQueryByCreatedAt(tag=sdk.TagFilter(key=key, value=value))
        for key, value in (("team:a", "b:c"), ("team", "a"), ("team:a", "b"))
    ]

    assert [names_of(client, query, 50) for query in queries] == [["of-colon"], [], []]


@pytest.mark.parametrize("name", ["sessions", "snapshots", "drives"])
def test_name_that_the_api_uses_itself_is_refused(client: sdk.SyncSandboxClient, name: str) -> None:
    """A sandbox that no later call could reach is not created."""
    with pytest.raises(sdk.SandboxApiError) as caught:
        client.create_sandbox(name=name, persistent=False)

    assert (caught.value.status_code, caught.value.code) == (400, "bad_request")


def test_path_with_a_slash_too_many_is_not_found(server: LocalServer) -> None:
    """No call is sent elsewhere: the SDK follows no redirection."""
    answers = [
        server.ask("GET", "/v2/sandboxes/?projectId=local"),
        server.ask("GET", "/v2/sandboxes/sessions/"),
        server.ask("POST", "/v3/sandboxes/", {}),
    ]

    assert [(answer.status, answer.code) for answer in answers] == [(404, "not_found")] * 3


@pytest.mark.parametrize("duration", [0, -1, 0.5, timedelta(days=8)])
def test_extension_has_its_bounds(
    client: sdk.SyncSandboxClient, duration: float | timedelta
) -> None:
    """Less than a second, or more than a sandbox may live, is refused, and changes nothing."""
    box = client.create_sandbox(
        name="of-time", persistent=False, execution_time_limit=timedelta(minutes=5)
    )
    with pytest.raises(sdk.SandboxApiError) as caught:
        box.extend_execution_time_limit(duration)
    session = client.get_sandbox(name="of-time").current_session
    assert session is not None

    assert (caught.value.status_code, caught.value.code) == (400, "bad_request")
    assert session.execution_time_limit == timedelta(minutes=5)


def test_current_snapshot_is_what_is_resumed(client: sdk.SyncSandboxClient) -> None:
    """The snapshot that an update names is what the next life starts from, also after it."""
    box = client.create_sandbox(name="of-past", persistent=True)
    box.fs.write_text("work.txt", "first")
    first = box.snapshot()
    box.fs.write_text("work.txt", "second")
    box.stop()
    box.update(current_snapshot_id=first.id)
    resumed = text_of(box)
    box.fs.write_text("work.txt", "third")
    box.stop()

    assert (resumed, text_of(box)) == ("first", "third")


def test_files_before_a_return_to_a_snapshot_are_saved(client: sdk.SyncSandboxClient) -> None:
    """What a persistent sandbox had before it went back is in a snapshot of its own."""
    box = client.create_sandbox(name="of-past", persistent=True)
    first = box.snapshot()
    box.fs.write_text("work.txt", "unsaved")
    box.update(current_snapshot_id=first.id)
    box.stop()
    is_there = box.fs.exists("work.txt")
    saved = [item for item in client.query_snapshots(name="of-past") if item.id != first.id]
    source = sdk.SnapshotSource(snapshot_id=saved[0].id)
    again = client.create_sandbox(name="of-now", persistent=False, source=source)

    assert (is_there, len(saved), text_of(again)) == (False, 1, "unsaved")


def test_current_snapshot_that_is_gone_is_told(client: sdk.SyncSandboxClient) -> None:
    """A resume from a snapshot that was deleted is refused as on the cloud, and loses nothing."""
    box = client.create_sandbox(name="of-past", persistent=True)
    first = box.snapshot()
    box.fs.write_text("work.txt", "work")
    box.stop()
    box.update(current_snapshot_id=first.id)
    first.delete()
    with pytest.raises(sdk.SandboxApiError) as caught:
        text_of(box)
    other = client.create_sandbox(name="of-other", persistent=False).snapshot()
    box.update(current_snapshot_id=other.id)
    box.query_processes()
    texts = []
    for item in client.query_snapshots(name="of-past"):
        source = sdk.SnapshotSource(snapshot_id=item.id)
        copy = client.create_sandbox(name="of-copy", persistent=False, source=source)
        texts.append(text_of(copy))

    assert (caught.value.status_code, caught.value.code) == (410, "snapshot_not_found")
    assert texts == ["work"]


def test_snapshot_that_others_use_is_no_orphan(client: sdk.SyncSandboxClient) -> None:
    """A destroy that takes orphan snapshots along leaves those that another sandbox uses."""
    box = client.create_sandbox(name="of-base", persistent=True)
    used, unused = box.snapshot(), box.snapshot()
    source = sdk.SnapshotSource(snapshot_id=used.id)
    client.create_sandbox(name="of-child", persistent=False, source=source)
    box.destroy(delete_orphan_snapshots=True)
    left = [item.id for item in client.query_snapshots()]

    assert (left, unused.id in left) == ([used.id], False)


def test_fork_takes_no_other_image(client: sdk.SyncSandboxClient) -> None:
    """A fork on an image that is not here is refused, as a create is."""
    client.create_sandbox(name="of-base", persistent=False).snapshot()
    with pytest.raises(sdk.SandboxApiError) as caught:
        client.fork_sandbox(source_sandbox="of-base", name="of-fork", image="elsewhere/image:1")

    assert (caught.value.status_code, caught.value.code) == (400, "bad_request")


def test_fork_has_the_files_of_the_last_stop(client: sdk.SyncSandboxClient) -> None:
    """A stopped persistent sandbox is forked as it is, not as an older snapshot has it."""
    box = client.create_sandbox(name="of-base", persistent=True)
    box.fs.write_text("work.txt", "old")
    box.snapshot()
    box.fs.write_text("work.txt", "new")
    box.stop()
    forks = [client.fork_sandbox(source_sandbox="of-base", name=f"of-fork-{n}") for n in range(2)]

    assert [text_of(fork) for fork in forks] == ["new", "new"]
    assert len(list(client.query_snapshots(name="of-base"))) == 2


def test_resources_change_with_the_next_session(client: sdk.SyncSandboxClient) -> None:
    """An update of the resources shows on the sandbox at once, and on a session that has them."""
    box = client.create_sandbox(
        name="of-size", persistent=True, resources=sdk.SandboxResources(vcpus=1)
    )
    box.update(resources=sdk.SandboxResources(vcpus=2))
    running = box.current_session
    assert running is not None
    running.refresh()
    sizes = [(box.vcpus, box.memory), (running.vcpus, running.memory)]
    box.stop()
    box.query_processes()
    resumed = box.current_session
    assert resumed is not None

    assert sizes == [(2, 4096), (1, 2048)]
    assert (resumed.vcpus, resumed.memory) == (2, 4096)
