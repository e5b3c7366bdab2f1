"""``/proc/self`` -> the control groups that this process is in, and what they leave it.

Sources: the Linux kernel's admin-guide/cgroup-v2 and cgroup-v1/memory; proc_pid_mountinfo(5).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SELF = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a tree of groups."""

    mount: Path
    """The topmost group that can be seen."""
    own: Path
    """The group of this process."""

    def upwards(self) -> Iterator[Path]:
        """Give its own group and those above it, as far as they can be seen."""
        for folder in (self.own, *self.own.parents):
            if self.mount not in (folder, *folder.parents):
                return
            yield folder


def place_in(controller: str = "", proc: Path = _SELF) -> Place | None:
    """Give where this process is in the tree of a controller.

    Args:
        controller: Of version 1, such as ``memory``; empty is the one tree of version 2.
        proc: The process.

    Returns:
        None where this system has no such tree, or shows it from elsewhere.
    """
    with suppress(OSError, IndexError):
        for line in (proc / "mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            kind, _, options = after.split(" ", 2)
            is_wanted = kind == "cgroup2" if not controller else kind == "cgroup"
            if is_wanted and (not controller or controller in options.split(",")):
                root, mount = before.split()[3:5]
                return _place(proc, controller, root, Path(mount))
    return None


def _place(proc: Path, controller: str, root: str, mount: Path) -> Place | None:
    for line in (proc / "cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(",") and "/.." not in path:
            # In a container the tree may be mounted from the container's own group on.
            inside = path.removeprefix(root) if root != "/" else path
            return Place(mount, mount / inside.lstrip("/"))
    return None


def memory_left_bytes(proc: Path = _SELF) -> int | None:
    """Give how much memory the groups of this process let it have; None where they set no limit.

    A container's limit is one of them, which the machine's own size does not show.
    """
    return _least(proc, {"": "memory.max", "memory": "memory.limit_in_bytes"})


def processes_left(proc: Path = _SELF) -> int | None:
    """Give how many processes and threads these groups may have; None where there is no limit."""
    return _least(proc, {"": "pids.max", "pids": "pids.max"})


def _least(proc: Path, names: Mapping[str, str]) -> int | None:
    found = []
    for controller, name in names.items():
        place = place_in(controller, proc)
        for folder in () if place is None else place.upwards():
            with suppress(OSError, ValueError):  # there is none, or it says "max"
                found.append(int((folder / name).read_text()))
    return min(found, default=None)
