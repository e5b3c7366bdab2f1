"""Control groups: on the kernel's own ones, whichever controllers they have on this machine."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opencode_magic.local import cgroups
from opencode_magic.local.cgroups import Cgroup, Cgroups, find_parent, recover
from opencode_magic.local.isolation import MIB, Limits, SandboxSpec
from opencode_magic.local.keeper import Keeper, KeeperPlace
from opencode_magic.local.own_groups import place_in
from tests.local import keepers
from tests.local.servers import LocalServer, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

FILL_SOCKETS = """
import socket, time
kept = []
while len(kept) < 3000:
    one, two = socket.socketpair()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    one.setblocking(False)
    try:
        while True: one.send(bytes(30000))
    except BlockingIOError: pass
    kept += [one, two]
time.sleep(20)
"""
"""Takes some 400 MiB that belong to no process: the kernel's own, for it."""


def home() -> Path:
    """Give a group in which this user may make others, whatever the kernel counts in it.

    Raises:
        OSError: There is none.
    """
    place = place_in()
    parent = find_parent().parent or (place.own if place else None)
    if parent is None or not os.access(parent / "cgroup.procs", os.W_OK):
        raise PermissionError(errno.EACCES, "no control group belongs to this user")
    return parent


def has_home() -> bool:
    try:
        return bool(home())
    except OSError:
        return False


needs_leave = pytest.mark.xfail(
    not has_home(), reason="no control group belongs to this user", raises=OSError, strict=True
)


counts_memory = pytest.mark.xfail(
    find_parent().parent is None,
    reason=f"no control group counts memory here: {find_parent().reason}",
    raises=AssertionError,
    strict=True,
)


@pytest.fixture
def parent() -> Iterator[Path]:
    """A group of the test's own, and nothing left in it."""
    folder = home() / f"om-test-{os.getpid()}"
    folder.mkdir()
    for name in (folder.parent / "cgroup.subtree_control").read_text().split():
        (folder / "cgroup.subtree_control").write_text(f"+{name}")
    yield folder
    left = [path.name for path in folder.iterdir() if path.is_dir()]
    Cgroup(folder).close()
    assert left == []


@contextmanager
def sandbox(parent: Path, limits: Limits) -> Iterator[keepers.Sandbox]:
    """Give a sandbox in a control group."""
    with tempfile.TemporaryDirectory(prefix="om-group-", dir="/tmp") as base:
        Path(base).chmod(0o755)
        groups = Cgroups(parent, Path(base))
        spec = SandboxSpec("one", Path(base, "boxes/one"), limits=limits)
        keeper = Keeper.start(KeeperPlace(Path(base, "boxes"), cgroups=groups), spec)
        try:
            yield keepers.Sandbox(keeper, spec.folder)
        finally:
            keeper.close()


def members(group: Path) -> set[int]:
    return {int(line) for line in (group / "cgroup.procs").read_text().split()}


@needs_leave
def test_all_of_a_sandbox_is_in_its_group(parent: Path) -> None:
    """Every process of it is in the group, and the group is gone when it has ended."""
    with sandbox(parent, Limits()) as made:
        running = made.start("sleep", "60")
        (group,) = [path for path in parent.iterdir() if path.is_dir()]
        inside = members(group)
        everybody = keepers.descendants(made.keeper.pid)
        running.signal(9)

    assert inside == everybody
    assert len(inside) >= 4
    assert not group.exists()


def test_a_family_is_found_in_both_ways() -> None:
    """What the kernel tells of a process's children is what a look at all processes finds."""
    with keepers.sandbox() as made:
        running = made.start("sh", "-c", "sleep 60 & sleep 60 & wait")
        assert keepers.eventually(
            lambda: len(cgroups.family_of(made.keeper.pid)) >= 7, timeout_s=keepers.TIME_LIMIT_S
        )
        told = cgroups.family_of(made.keeper.pid)
        searched = cgroups._searched_family(made.keeper.pid)
        running.signal(9)

    assert sorted(told) == sorted(searched) == sorted(set(told))
    assert set(told) >= {made.keeper.pid}


@needs_leave
def test_what_runs_on_is_ended_with_the_group(parent: Path) -> None:
    """A group that is closed ends who is in it, also in groups below."""
    group = parent / "some"
    (group / "below").mkdir(parents=True)
    sleeper = subprocess.Popen(["sleep", "60"])
    Cgroup(group / "below").add([sleeper.pid])
    Cgroup(group).close()
    Cgroup(group).close()

    assert sleeper.wait(5) == -9
    assert not group.exists()


@needs_leave
def test_recovery_ends_what_an_earlier_server_left(parent: Path, tmp_path: Path) -> None:
    """Groups of the same state folder are ended and removed; those of another one are not."""
    other = tmp_path / "other"
    other.mkdir()
    mine, theirs = (Cgroups(parent, place).make() for place in (tmp_path, other))
    assert mine is not None
    assert theirs is not None
    sleeper = subprocess.Popen(["sleep", "60"])
    mine.add([sleeper.pid])
    recover(tmp_path)
    is_left = theirs.folder.exists()
    recover(tmp_path)
    recover(other)

    assert sleeper.wait(5) == -9
    assert (mine.folder.exists(), is_left, theirs.folder.exists()) == (False, True, False)


@needs_leave
def test_a_crashed_server_leaves_no_group(parent: Path) -> None:
    """The server that comes after a crash removes the groups of the one before it."""
    server = LocalServer.make(["--cgroup", str(parent)])
    try:
        server.start()
        client = server.client()
        client.create_sandbox(name="lost", persistent=False)
        before = {path.name for path in parent.iterdir() if path.is_dir()}
        server.kill()
        server.start()
        info = server.ask("GET", "/local/info").json()
        wait_for(lambda: not before & {path.name for path in parent.iterdir()}, 5)
        left = before & {path.name for path in parent.iterdir()}
        client.close()
    finally:
        server.close()

    assert before
    assert left == set()
    assert info["memory_guard"] == ("kernel" if find_parent().parent else "watchdog")


def test_a_place_without_groups_is_refused(tmp_path: Path) -> None:
    """A server that is told to make groups where none can be made says so and does not start."""
    server = LocalServer.make(["--cgroup", str(tmp_path)])
    try:
        process = server.spawn()
        code = process.wait(20)
        said = server.log
    finally:
        server.close()

    assert code == 1
    assert f"no control groups can be made below {str(tmp_path)!r}" in said


def test_a_sandbox_without_a_group_is_built_all_the_same(tmp_path: Path) -> None:
    """Where no group can be made the watchdog is alone, and nothing else is missing."""
    with sandbox(tmp_path / "no-such-folder", Limits(memory_bytes=200 * MIB)) as made:
        code, text = made.run("python3", "-c", "kept = bytearray(400 << 20); input()")

    assert code == 137
    assert "over its limit of 200 MiB of memory" in text


def test_a_group_or_a_reason_is_known() -> None:
    """Where there is no group in which the kernel counts memory, the doctor can say why."""
    found = find_parent()

    assert (found.parent is None) == bool(found.reason)


@counts_memory
def test_the_kernels_memory_for_a_sandbox_is_held() -> None:
    """With a group the kernel ends who takes its own memory, and the rest goes on."""
    found = find_parent()
    assert found.parent is not None, found.reason
    with sandbox(found.parent, Limits(memory_bytes=150 * MIB, open_files=8192)) as made:
        code, text = made.run("python3", "-c", FILL_SOCKETS)
        kills = made.keeper.kernel_kills()
        after = made.run("echo", "on")

    assert code == 137
    assert "ended by the kernel: the sandbox is over its limit of 150 MiB of memory" in text
    assert kills >= 1
    assert after == (0, "on\n")


def test_the_kernel_ends_programs_first() -> None:
    """Where memory is short programs go before the sandbox's first process, and that before us."""
    with keepers.sandbox() as made:
        program = made.start("sleep", "60")
        scores = {
            Path(f"/proc/{pid}/comm").read_text().strip(): int(
                Path(f"/proc/{pid}/oom_score_adj").read_text()
            )
            for pid in keepers.descendants(made.keeper.pid)
        }
        inside = made.run("cat", "/proc/self/oom_score_adj")
        first = made.run("cat", "/proc/1/oom_score_adj")
        program.signal(9)

    assert scores["sleep"] == 800
    assert scores["bwrap"] == 0
    assert (inside, first) == ((0, "800\n"), (0, "600\n"))


def test_an_end_by_the_kernel_is_told(tmp_path: Path) -> None:
    """When the kernel's count rises, who was killed then says why, once for all to see.

    The count stands in a plain file: that the kernel raises it is another test's.
    """
    events = tmp_path / "memory.events"
    events.write_text("low 0\nmax 7\noom 0\noom_kill 0\noom_group_kill 0\n")
    with keepers.sandbox(Limits(memory_bytes=300 * MIB)) as made:
        made.keeper._group = Cgroup(tmp_path)
        before = made.shell("kill -9 $$")
        events.write_text("low 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 0\n")
        after = made.shell("kill -9 $$")
        on = made.shell("echo on; exit 3")
        lines = [breach.line for breach in made.keeper.breaches]
        made.keeper._group = None

    over = "the sandbox is over its limit of 300 MiB of memory"
    assert (before, on) == ((137, ""), (3, "on\n"))
    assert after[0] == 137
    assert f"ended by the kernel: {over}" in after[1]
    assert lines == [f"'a program' was ended: {over}"]


def test_settings_are_those_of_the_sandbox(tmp_path: Path) -> None:
    """Memory, swap, processes and, where asked for, processors are written in the kernel's form.

    In plain files: that the kernel holds them is another test's.
    """
    names = ("memory.max", "memory.swap.max", "pids.max", "cpu.max")
    for name in names:
        (tmp_path / name).write_text("max")
    group = Cgroup(tmp_path)
    group.limit_memory(200 * MIB)
    first = [(tmp_path / name).read_text() for name in names]
    group.limit_memory(300 * MIB)
    group.limit_processors(2)
    group.hold(Limits(memory_bytes=300 * MIB, processes=1024))
    second = [(tmp_path / name).read_text() for name in names]

    assert first == [str(264 * MIB), "0", "max", "max"]
    assert second == [str(364 * MIB), "0", "1088", "200000 100000"]
