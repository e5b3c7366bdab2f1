"""A control group for each sandbox, where one can be had: the kernel counts what it uses.

It counts what no look at processes finds, such as pipes, tables of files, and shared pages that
nobody maps. The watchdog stays in front of it: it knows whom to end, and says so.

Source: the Linux kernel's admin-guide/cgroup-v2.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opencode_magic.errors import SettingsError
from opencode_magic.local.own_groups import place_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opencode_magic.local.isolation import Limits

PREFIX = "opencode-magic"
OVERHEAD_BYTES = 64 * 1024**2
"""What the keeper's own processes and the kernel need beside the sandbox's memory."""
OVERHEAD_PROCESSES = 64
REMOVE_TIMEOUT_S = 3.0
_PLACE = "cgroup"
"""The file of a state folder that names the parent of its server's groups."""
_WANTED = ("memory", "pids", "cpu")
_PERIOD_US = 100_000
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """Where groups can be made; or why they cannot."""

    parent: Path | None = None
    reason: str = ""


def find_parent() -> Found:
    """Give the nearest group above this process in which the kernel counts memory for us.

    The nearest one: what already limits this process shall limit its sandboxes too.
    """
    place = place_in()
    if place is None:
        return Found(reason="this system has no control groups of version 2")
    try:
        if "memory" not in _words(place.mount / "cgroup.controllers"):
            return Found(reason="memory is not counted by control groups of version 2 here")
    except OSError as exc:
        return Found(reason=f"the control groups cannot be read: {exc.strerror}")
    for folder in place.upwards():
        if _can_hold(folder):
            return Found(folder)
    return Found(reason="no control group that counts memory belongs to this user")


def _can_hold(folder: Path) -> bool:
    """Whether groups can be made here whose memory is counted; switches the counting on."""
    try:
        if "memory" not in _words(folder / "cgroup.controllers"):
            return False
        if not all(os.access(path, os.W_OK) for path in (folder, folder / "cgroup.procs")):
            return False
        for name in _WANTED:
            if name not in _words(folder / "cgroup.subtree_control"):
                with suppress(OSError):  # it has processes of its own, or lacks this one
                    (folder / "cgroup.subtree_control").write_text(f"+{name}")
        return "memory" in _words(folder / "cgroup.subtree_control")
    except OSError:
        return False


def _words(path: Path) -> list[str]:
    return path.read_text().split()


def recover(state_dir: Path) -> None:
    """End and remove the groups that an earlier server on this state folder left."""
    place = state_dir / _PLACE
    with suppress(OSError):
        for folder in Path(place.read_text()).glob(f"{_prefix(state_dir)}*"):
            Cgroup(folder).close()
        place.unlink()


def _prefix(state_dir: Path) -> str:
    whose = hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:12]
    return f"{PREFIX}-{whose}-"


def open_cgroups(state_dir: Path, named: Path | None) -> Cgroups | None:
    """Give who makes the groups of a server; None where none can be had.

    Args:
        state_dir: Groups that an earlier server on it left are ended first.
        named: Below this group, instead of one that is found.

    Raises:
        SettingsError: No groups can be made there.
    """
    recover(state_dir)
    if named is not None and not os.access(named / "cgroup.procs", os.W_OK):
        raise SettingsError(
            f"no control groups can be made below {str(named)!r}",
            next_step="name a folder of a cgroup2 mount that this user may write to",
        )
    parent = named or find_parent().parent
    return None if parent is None else Cgroups(parent, state_dir)


class Cgroups:
    """Makes the groups of one server's sandboxes; the state folder says where they are."""

    def __init__(self, parent: Path, state_dir: Path) -> None:
        self.parent = parent
        self._prefix = _prefix(state_dir)
        self._numbers = itertools.count(1)
        (state_dir / _PLACE).write_text(str(parent))

    @property
    def counts_memory(self) -> bool:
        """Whether the kernel holds the groups to their memory."""
        with suppress(OSError):
            return "memory" in _words(self.parent / "cgroup.subtree_control")
        return False

    def make(self) -> Cgroup | None:
        """Give a group with nobody in it; None, and a line in the log, where none can be made."""
        folder = self.parent / f"{self._prefix}{os.getpid()}-{next(self._numbers)}"
        try:
            folder.mkdir()
        except OSError as exc:
            log.warning("no control group for a sandbox: %s", exc.strerror)
            return None
        return Cgroup(folder)


class Cgroup:
    """One sandbox's group."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def set(self, name: str, value: str) -> None:
        """Write one setting, where the kernel has it."""
        if (self.folder / name).exists():
            try:
                (self.folder / name).write_text(value)
            except OSError as exc:
                log.warning("%s of a control group cannot be set: %s", name, exc.strerror)

    def hold(self, limits: Limits) -> None:
        """Hold all of it together to a sandbox's limits."""
        self.limit_memory(limits.memory_bytes)
        self.set("pids.max", str(limits.processes + OVERHEAD_PROCESSES))

    def limit_memory(self, memory_bytes: int) -> None:
        """Let all of it together have so much memory, from now on.

        The kernel ends one process at a time, the largest, not all (``memory.oom.group``): the
        agent's server shall outlive a command that took too much.
        """
        self.set("memory.max", str(memory_bytes + OVERHEAD_BYTES))
        self.set("memory.swap.max", "0")

    def limit_processors(self, vcpus: int) -> None:
        """Let all of it together have so much processor time, from now on."""
        self.set("cpu.max", f"{vcpus * _PERIOD_US} {_PERIOD_US}")

    def add(self, pids: Iterable[int]) -> None:
        """Move processes here; what they start later is here by itself.

        Raises:
            OSError: One of them cannot be moved.
        """
        for pid in pids:
            with suppress(ProcessLookupError):  # it has ended
                (self.folder / "cgroup.procs").write_text(str(pid))

    def kernel_kills(self) -> int:
        """Give how many processes the kernel has ended here for want of memory."""
        with suppress(OSError, ValueError):
            for line in (self.folder / "memory.events").read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return 0

    def close(self) -> None:
        """End whoever is here and remove the group. Twice is harmless."""
        self.set("cgroup.kill", "1")
        deadline = time.monotonic() + REMOVE_TIMEOUT_S
        while self.folder.exists():
            with suppress(OSError):
                for inner in _inner(self.folder):
                    inner.rmdir()
                self.folder.rmdir()
                return
            if time.monotonic() > deadline:
                log.warning("a control group could not be removed: %s", self.folder.name)
                return
            time.sleep(0.01)


def _inner(folder: Path) -> Iterator[Path]:
    """Give the groups below one, the deepest first."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from _inner(path)
            yield path


def family_of(pid: int) -> list[int]:
    """Give a process and all below it."""
    found = [pid]
    try:
        for each in found:
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    except OSError:  # this kernel does not tell, or one of them has just ended
        return _searched_family(pid)
    return found


def _searched_family(pid: int) -> list[int]:
    """Give the same by a look at all processes of the machine, which may be many."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError, IndexError, ValueError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found
