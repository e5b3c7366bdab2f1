"""What ``/proc`` says of a process's groups, told of trees as containers and systemd have them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from opencode_magic.local import isolation
from opencode_magic.local.isolation import (
    GIB,
    MIB,
    PROCESSES,
    default_memory_bytes,
    default_processes,
)
from opencode_magic.local.own_groups import memory_left_bytes, place_in, processes_left

if TYPE_CHECKING:
    from pathlib import Path

UNIFIED = "29 23 0:26 {root} {top} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
MEMORY = "33 23 0:29 {root} {top} rw,nosuid - cgroup cgroup rw,memory\n"
PIDS = "36 23 0:31 {root} {top} rw,nosuid - cgroup cgroup rw,pids\n"
OTHER = "22 28 0:21 / /proc rw - proc proc rw\n35 23 0:30 / /elsewhere rw - cgroup cgroup rw,cpu\n"


def fill(folder: Path, mounts: str, groups: str, *, root: str = "/") -> Path:
    """Write what a process's folder says; its trees are mounted at ``tree`` beside it."""
    proc = folder / "proc"
    proc.mkdir()
    (proc / "mountinfo").write_text(OTHER + mounts.format(root=root, top=folder / "tree"))
    (proc / "cgroup").write_text(groups)
    return proc


def put(place: Path, name: str, value: str) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_text(value)


@pytest.mark.parametrize(
    ("mounts", "groups", "root", "own"),
    [
        (UNIFIED, "0::/user.slice/a.scope\n", "/", "tree/user.slice/a.scope"),
        (UNIFIED, "0::/\n", "/", "tree"),
        (UNIFIED, "0::/docker/abc/leaf\n", "/docker/abc", "tree/leaf"),
        (UNIFIED, "0::/../other\n", "/", None),
        (MEMORY, "0::/\n", "/", None),
        ("", "0::/\n", "/", None),
    ],
)
def test_own_group_is_found(
    tmp_path: Path, mounts: str, groups: str, root: str, own: str | None
) -> None:
    """The group is where the mount and the process's own line say together, or not to be seen."""
    place = place_in("", fill(tmp_path, mounts, groups, root=root))

    assert (None if place is None else place.own) == (None if own is None else tmp_path / own)


def test_the_least_limit_above_counts(tmp_path: Path) -> None:
    """A limit of any group above holds this process, and none above the topmost is looked at."""
    proc = fill(tmp_path, UNIFIED, "0::/a/b/c\n")
    put(tmp_path, "memory.max", "1\n")
    put(tmp_path / "tree/a", "memory.max", f"{GIB}\n")
    put(tmp_path / "tree/a/b", "memory.max", f"{3 * GIB}\n")
    put(tmp_path / "tree/a/b/c", "memory.max", "max\n")

    assert memory_left_bytes(proc) == GIB


def test_limits_of_version_1_count(tmp_path: Path) -> None:
    """In a container of version 1 the tree begins at the container's group."""
    groups = "4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n0::/\n"
    proc = fill(tmp_path, MEMORY, groups, root="/docker/abc")
    put(tmp_path / "tree", "memory.limit_in_bytes", f"{2 * GIB}\n")

    assert memory_left_bytes(proc) == 2 * GIB


def test_no_limit_is_none(tmp_path: Path) -> None:
    """Where no group says a number there is nothing to hold to."""
    proc = fill(tmp_path, UNIFIED, "0::/a\n")
    put(tmp_path / "tree/a", "memory.max", "max\n")

    assert memory_left_bytes(proc) is None
    assert memory_left_bytes(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("left", "expected"),
    [(16 * GIB, 8 * GIB), (4 * GIB, 2 * GIB), (3 * GIB, 2 * GIB), (2 * GIB, 1536 * MIB)],
)
def test_a_sandbox_leaves_its_container_a_quarter(
    monkeypatch: pytest.MonkeyPatch, left: int, expected: int
) -> None:
    """A sandbox may use half, or 2 GiB where three quarters are more than that."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(isolation, "memory_left_bytes", lambda: min(left, total))
    known = {16 * GIB: max(2 * GIB, total // 2)} if total < left else {}

    assert default_memory_bytes() == known.get(left, expected)


@pytest.mark.parametrize(
    ("mounts", "groups"), [(UNIFIED, "0::/a/b\n"), (PIDS, "8:pids:/a/b\n0::/\n")]
)
def test_the_least_number_of_processes_counts(tmp_path: Path, mounts: str, groups: str) -> None:
    """In either version, of the process's own group and those above it."""
    proc = fill(tmp_path, mounts, groups)
    put(tmp_path / "tree/a", "pids.max", "600\n")
    put(tmp_path / "tree/a/b", "pids.max", "max\n")

    assert processes_left(proc) == 600
    assert processes_left(tmp_path / "nowhere") is None


@pytest.mark.parametrize(("left", "expected"), [(None, PROCESSES), (600, 300), (9000, PROCESSES)])
def test_a_fork_bomb_leaves_the_container_half(
    monkeypatch: pytest.MonkeyPatch, left: int | None, expected: int
) -> None:
    """The notebook and the server go on to have threads, however many the sandbox begins."""
    monkeypatch.setattr(isolation, "processes_left", lambda: left)

    assert default_processes() == expected
