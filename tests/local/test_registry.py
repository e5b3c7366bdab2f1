"""The tables and the disk behind them: values in, the same values out, and no secret between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from opencode_magic.core.policy_wire import parse_policy
from opencode_magic.local.ledger import Ledger, require_secrets
from opencode_magic.local.leftovers import end_leftover, start_ticks
from opencode_magic.local.payloads import ApiError
from opencode_magic.local.snapshots import Snapshots
from opencode_magic.local.state import Sandbox, Session, Status
from opencode_magic.local.store import KEPT_MS, SETTLED_MS, Store, copy_tree, measure, remove_tree

if TYPE_CHECKING:
    from pathlib import Path

SENT = {
    "allow": {
        "api.example.com": [
            {
                "match": {
                    "path": {"startsWith": "/v1"},
                    "method": ["POST"],
                    "queryString": [{"key": {"exact": "a"}, "value": {"regex": "b+"}}],
                    "headers": [{"key": {"exact": "x-one"}}],
                },
                "transform": [{"headers": {"authorization": "Bearer planted-value"}}],
            },
            {"response": {"statusCode": 403, "body": "no", "contentType": "text/plain"}},
        ],
        "*.example.org": [],
        "model.internal": [{"forwardURL": "http://127.0.0.1:9"}],
    },
    "subnets": {"allow": ["203.0.113.0/24"], "deny": ["10.0.0.0/8"]},
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store on an empty folder."""
    return Store(tmp_path)


def sandbox(name: str = "one", **more: object) -> Sandbox:
    fields = {
        "name": name, "project_id": "local", "session_id": f"sbx_{name}", "timeout_ms": 1000,
        "created_ms": 1, "updated_ms": 1, "status_updated_ms": 1, "tags": {"a": "b"},
        "ports": (4096,), "policy": parse_policy(SENT), "env": {"SECRET": "planted-variable"},
    }  # fmt: skip
    return Sandbox(**{**fields, **more})  # type: ignore[arg-type] # a test's shorthand


def session(name: str = "one", status: Status = "running", **more: object) -> Session:
    fields = {
        "session_id": f"sbx_{name}", "sandbox_name": name, "box_id": f"box_{name}",
        "status": status, "timeout_ms": 1000, "requested_ms": 1, "updated_ms": 1,
        "policy": parse_policy(SENT),
    }  # fmt: skip
    return Session(**{**fields, **more})  # type: ignore[arg-type] # a test's shorthand


def fill(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def test_policy_on_disk_reads_back_the_same(store: Store) -> None:
    """A policy from disk shows the same as before, for every kind of rule."""
    store.save(sandbox(), [session()])
    found, sessions = next(store.load())

    assert found.policy.to_readback() == parse_policy(SENT).to_readback()
    assert sessions[0].policy.to_readback() == parse_policy(SENT).to_readback()


def test_no_secret_is_on_disk(store: Store, tmp_path: Path) -> None:
    """Neither an injected value nor a variable is in the record."""
    store.save(sandbox(), [session()])
    text = (tmp_path / "sandboxes/one.json").read_text()

    assert "authorization" in text
    assert "planted" not in text


def test_lost_secrets_are_known_until_they_are_given_again(store: Store) -> None:
    """A record says which secrets it does not hold, also after it was read and written again."""
    store.save(sandbox(), [session()])
    found, sessions = next(store.load())
    store.save(replace(found, lost=found.lost - {"env"}), sessions)
    again, _ = next(store.load())
    with pytest.raises(ApiError, match="update networkPolicy first") as caught:
        require_secrets(again)
    require_secrets(again, {"policy"})

    assert [sorted(found.lost), sorted(again.lost)] == [["env", "policy"], ["policy"]]
    assert caught.value.code == "sandbox_secrets_lost"


def test_record_is_the_users_alone(store: Store, tmp_path: Path) -> None:
    """A record can be read by its owner only, and no half of it is left behind."""
    store.save(sandbox(), [session()])
    files = list((tmp_path / "sandboxes").iterdir())

    assert [(path.name, path.stat().st_mode & 0o777) for path in files] == [("one.json", 0o600)]


def test_unreadable_record_is_put_aside(store: Store, tmp_path: Path) -> None:
    """A broken record stops nothing, and is not deleted."""
    store.save(sandbox("good"), [session("good")])
    (tmp_path / "sandboxes/bad.json").write_text("{")

    assert [found.name for found, _ in store.load()] == ["good"]
    assert (tmp_path / "sandboxes/bad.unreadable").exists()


def test_what_a_crashed_server_left_is_aborted(store: Store) -> None:
    """A session that ran when its server ended is listed as ended."""
    store.save(sandbox(), [session(status="stopped"), session(session_id="sbx_two")])
    ledger = Ledger(store)
    ledger.load()

    assert [item.status for _, item in ledger.sessions()] == ["stopped", "aborted"]
    assert ledger.live_count == 0


def test_leftover_process_is_ended_only_if_it_is_the_same(store: Store) -> None:
    """A process is known by its start, so a stranger with the same pid is left alone."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    ticks = start_ticks(child.pid)
    is_stranger_ended = end_leftover(child.pid, ticks + 1)
    was_running = child.poll() is None
    is_ended = end_leftover(child.pid, ticks)
    child.wait(10)

    assert (is_stranger_ended, was_running, is_ended) == (False, True, True)
    assert not end_leftover(child.pid, ticks)
    assert not end_leftover(1, start_ticks(1))


def test_full_disk_refuses_what_is_new_and_ends_what_runs(store: Store, tmp_path: Path) -> None:
    """Where nothing can be saved, a sandbox is not created, and one that runs can still end."""
    ledger = Ledger(store)
    ledger.add(sandbox("old"), session("old"))
    (tmp_path / "sandboxes").rename(tmp_path / "away")
    ended = ledger.set_status("sbx_old", "stopped", "it was stopped")
    with pytest.raises(ApiError) as caught:
        ledger.add(sandbox("new"), session("new"))

    assert (ended.status, ledger.live_count) == ("stopped", 0)
    assert (caught.value.code, ledger.has("new")) == ("disk_full", False)


def test_many_sessions_are_forgotten_from_the_oldest(store: Store) -> None:
    """A sandbox remembers its last sessions only."""
    ledger = Ledger(store)
    for number in range(25):
        ledger.add(
            sandbox(session_id=f"sbx_{number}"),
            session(status="stopped", session_id=f"sbx_{number}", requested_ms=number),
        )

    assert [item.requested_ms for _, item in ledger.sessions("one")] == list(range(5, 25))


def test_kept_files_move_and_are_swept(store: Store, tmp_path: Path) -> None:
    """Files are kept without caches, listed, and removed when their time is over."""
    fill(tmp_path / "home", work="work")
    fill(tmp_path / "home/.cache", junk="junk")
    kept = store.keep("one", tmp_path / "home", 1000)
    again = store.kept()
    store.sweep(set(), 1000 + KEPT_MS - 1)
    is_there = (tmp_path / "kept/one/files/work").exists()
    store.sweep(set(), 1000 + KEPT_MS)

    assert kept is not None
    assert (kept.files, kept.size_bytes, again, is_there) == (1, 4, [kept], True)
    assert list((tmp_path / "kept").iterdir()) == []


def test_same_name_is_kept_twice(store: Store, tmp_path: Path) -> None:
    """What is kept already is not overwritten."""
    for text in ("first", "second"):
        fill(tmp_path / "home", work=text)
        store.keep("one", tmp_path / "home", 1000)

    assert sorted(path.read_text() for path in tmp_path.glob("kept/*/files/work")) == [
        "first",
        "second",
    ]


def test_empty_home_is_not_kept(store: Store, tmp_path: Path) -> None:
    """Where there is no file, there is nothing to keep."""
    (tmp_path / "home/.cache").mkdir(parents=True)

    assert store.keep("one", tmp_path / "home", 1000) is None
    assert store.keep("two", tmp_path / "missing", 1000) is None


def test_lost_folders_are_swept_and_fresh_ones_are_not(store: Store) -> None:
    """A folder that no sandbox has goes, unless it may be one that is just being made."""
    fill(store.boxes / "box_used")
    fill(store.boxes / "box_lost")
    now_ms = int((store.boxes / "box_lost").stat().st_mtime * 1000)
    store.sweep({"box_used"}, now_ms)
    fresh = sorted(path.name for path in store.boxes.iterdir())
    store.sweep({"box_used"}, now_ms + SETTLED_MS + 1000)

    assert fresh == ["box_lost", "box_used"]
    assert [path.name for path in store.boxes.iterdir()] == ["box_used"]


def test_folders_older_than_the_server_are_swept(store: Store) -> None:
    """What another server was just making when it was killed is nobody's."""
    fill(store.boxes / "box_lost")
    made_ms = int((store.boxes / "box_lost").stat().st_mtime * 1000)
    store.sweep(set(), made_ms, started_ms=made_ms - 1000)
    fresh = [path.name for path in store.boxes.iterdir()]
    store.sweep(set(), made_ms + 2000, started_ms=made_ms + 1000)

    assert fresh == ["box_lost"]
    assert list(store.boxes.iterdir()) == []


def test_folder_of_an_unreadable_record_is_left(store: Store, tmp_path: Path) -> None:
    """Files whose record cannot be read, as after a downgrade, are not taken for lost."""
    fill(store.boxes / "box_bad", work="work")
    (tmp_path / "sandboxes/bad.json").write_text('{"sessions": [{"box_id": "box_bad"}]}')
    loaded = list(store.load())
    now_ms = int((store.boxes / "box_bad").stat().st_mtime * 1000)
    store.sweep(set(), now_ms + SETTLED_MS + 1000)

    assert (loaded, (store.boxes / "box_bad/work").read_text()) == ([], "work")


def test_record_of_another_version_is_read(store: Store, tmp_path: Path) -> None:
    """Fields that this version does not know are passed over, and missing ones have defaults."""
    store.save(sandbox(), [session()])
    path = tmp_path / "sandboxes/one.json"
    body = json.loads(path.read_bytes())
    del body["sandbox"]["resources"], body["sandbox"]["lost"], body["sessions"][0]["stop_reason"]
    body["sandbox"]["later"] = body["sessions"][0]["later"] = 1
    path.write_text(json.dumps(body))
    found, sessions = next(store.load())

    assert (found.name, found.resources.vcpus, sessions[0].box_id) == ("one", 2, "box_one")


def test_snapshot_survives_a_restart_and_expires(store: Store) -> None:
    """A snapshot is found again, and removed with its files when its time is over."""
    fill(store.boxes / "box_one/home", work="work")
    (store.boxes / "box_one/tmp").mkdir()
    snapshots = Snapshots(store)
    made = snapshots.fold(sandbox(), "sbx_one", "box_one", moment_ms=1000, expiration_ms=500)
    found = Snapshots(store)
    found.unfold(made.snapshot_id, "box_two", owner=os.geteuid(), moment_ms=1200)
    found.expire(1699)
    is_there = bool(found.all())
    found.expire(1700)

    assert (store.boxes / "box_two/home/work").read_text() == "work"
    assert (made.size_bytes, is_there, found.all()) == (4, True, [])
    assert not store.snapshot_folder(made.snapshot_id).exists()


def test_missing_snapshot_is_404(store: Store) -> None:
    """A snapshot that does not exist has its code."""
    with pytest.raises(ApiError) as caught:
        Snapshots(store).get("snap_none")

    assert (caught.value.status_code, caught.value.code) == (404, "snapshot_not_found")


def test_copy_keeps_links_and_modes(tmp_path: Path) -> None:
    """A copy has the links as they are and the modes; it follows no link."""
    fill(tmp_path / "source", work="work")
    (tmp_path / "source/work").chmod(0o640)
    (tmp_path / "source/out").symlink_to("/usr")
    copy_tree(tmp_path / "source", tmp_path / "target")

    assert (tmp_path / "target/out").readlink().as_posix() == "/usr"
    assert (tmp_path / "target/work").stat().st_mode & 0o777 == 0o640


def test_remove_follows_no_link_and_opens_closed_folders(tmp_path: Path) -> None:
    """Removing a tree leaves what its links lead to, and folders without rights are no obstacle."""
    fill(tmp_path / "outside", work="work")
    fill(tmp_path / "tree/closed", work="x")
    (tmp_path / "tree/out").symlink_to(tmp_path / "outside")
    (tmp_path / "tree/closed").chmod(0)
    remove_tree(tmp_path / "tree")

    assert not (tmp_path / "tree").exists()
    assert (tmp_path / "outside/work").read_text() == "work"


def test_deep_trees_are_measured_and_removed(tmp_path: Path) -> None:
    """A tree deeper than Python's recursion, with paths beyond a path's limit, is no obstacle."""
    descend = "import os\nfor _ in range(3000):\n    os.mkdir('d'); os.chdir('d')\n"
    (tmp_path / "tree").mkdir()
    script = f"{descend}open('work', 'w').write('work')"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path / "tree", check=True)
    measured = measure(tmp_path / "tree")
    remove_tree(tmp_path / "tree")

    assert (measured, (tmp_path / "tree").exists()) == ((1, 4), False)


def test_trees_are_measured_without_find_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a system without `find` a tree is measured all the same; links do not count."""
    fill(tmp_path / "tree/in", work="work", more="x")
    (tmp_path / "tree/out").symlink_to("/usr")
    found = measure(tmp_path / "tree")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert measure(tmp_path / "tree") == found == (2, 5)


def test_record_has_every_field(store: Store, tmp_path: Path) -> None:
    """Every field of a sandbox is on disk but its variables and its user's, which are secret."""
    way_out = {"HTTPS_PROXY": "http://me:PLANTED@proxy.example:8080"}
    store.save(sandbox(surroundings=way_out), [session()])
    text = (tmp_path / "sandboxes/one.json").read_text()
    body = json.loads(text)
    fields = set(Sandbox.__dataclass_fields__) - {"env", "surroundings"}

    assert set(body["sandbox"]) == fields
    assert "PLANTED" not in text + repr(sandbox(surroundings=way_out))
    assert set(body["sessions"][0]) == set(Session.__dataclass_fields__)
    assert os.listdir(tmp_path / "sandboxes") == ["one.json"]  # noqa: PTH208 - the names alone
