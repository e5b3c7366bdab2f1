"""Keeps a sandbox within the limits that no rlimit can hold: memory, disk, files of all together.

It looks more often the nearer a limit is, and ends the process that took most. Each such end is
a ``Breach``, which the command it belonged to shows as its last line.
"""

from __future__ import annotations

import logging
import math
import os
import subprocess
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from opencode_magic.errors import OpencodeMagicError
from opencode_magic.local.gauge import Breach, Process, over
from opencode_magic.local.growth import MAPPING_BYTES, Growth, mappings_limit
from opencode_magic.local.start import all_reading

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from opencode_magic.local.gauge import Counted, Gauge, Kind
    from opencode_magic.local.growth import Hidden
    from opencode_magic.local.isolation import Limits

FASTEST_BYTES_S = 2 * 1024**3
"""A sandbox is not expected to take memory faster than so many bytes a second."""
LONGEST_WAIT_S, SHORTEST_WAIT_S = 1.0, 0.05
COUNT_STEP_BYTES = 64 * 1024**2
COUNT_STEP_FILES = 20_000
SLOWEST_COUNT_S = 60.0
COUNT_EVERY_S = 5.0
"""How often what epoll watches and the mappings are counted, though nothing seems to have grown."""
GROWTH_BYTES, GROWTH_FILES = 16 * 1024**2, 5_000
"""Growth beyond the limit that is one more breach; less of it is let be."""
KERNEL_KILL_S = 2.0
"""Who is killed so soon after the kernel ended a process for the memory was ended by it too."""
_DU_TIMEOUT_S = 120.0
_logger = logging.getLogger(__name__)


class Watchdog:
    """One thread that watches one sandbox until ``stop``."""

    def __init__(
        self, gauge: Gauge, folder: Path, limits: Limits, note: Callable[[Breach], None]
    ) -> None:
        self._gauge = gauge
        self._folders = (folder / "home", folder / "tmp")
        self._limits = limits
        self._note = note
        self._stopped = threading.Event()
        self._free_bytes, self._free_files = self._free()
        self._seen_before = self._free_bytes, 0
        self._used_bytes = 0
        self._counted_at = time.monotonic()
        self._next_count_s = 0.0
        self._is_disk_over = False
        self._worst: tuple[int, int] = (0, 0)
        self._is_unexplained = False
        self._written: dict[int, int] = {}
        self._growth = Growth()
        self._counted_all_at = 0.0
        self._kernel_lock = threading.Lock()
        self._kernel_kills, self._kernel_killed_at = 0, -math.inf

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._watch, name="sandbox-watchdog", daemon=True).start()

    def limit_memory(self, memory_bytes: int) -> None:
        """Let the sandbox have so much memory from now on."""
        self._limits = replace(self._limits, memory_bytes=memory_bytes)

    def stop(self) -> None:
        """Watch no more. Twice is harmless."""
        self._stopped.set()

    def _watch(self) -> None:
        wait_s = SHORTEST_WAIT_S
        while not self._stopped.wait(wait_s):
            try:
                wait_s = self.look()
            except (OSError, ValueError, OpencodeMagicError, subprocess.SubprocessError):
                wait_s = LONGEST_WAIT_S  # the sandbox is ending, or busy: looked at again
            except Exception as exc:  # noqa: BLE001 - a thread's outer edge: the limits must go on
                _logger.error("a look at a sandbox's limits failed: %s", type(exc).__name__)  # noqa: TRY400 - no traceback: it repeats each second
                wait_s = LONGEST_WAIT_S

    def look(self) -> float:
        """Look once, act on it, and give how long to wait for the next look."""
        self.kernel_line()
        processes = self._gauge.processes()
        used = sum(process.memory_bytes for process in processes)
        limit = self._limits.memory_bytes
        if used > limit:
            used = self._used_with_shared_once(processes)
        if used > limit:
            self._end(Breach("memory", used, limit, processes[0]))
            return SHORTEST_WAIT_S
        grown = self._growth.now()
        most = self._gauge.waiting_bytes()
        connected = min(grown.tcp_bytes, most["tcp"])
        # Others of the machine may give back meanwhile what sockets here take: never all of it.
        waiting = max(min(grown.kernel_bytes, most["other"] + connected), most["other"] // 4)
        tables = min(
            max(0, grown.kernel_bytes - waiting), len(processes) * mappings_limit() * MAPPING_BYTES
        )
        hidden = grown.shared_bytes + waiting + tables
        is_due = time.monotonic() - self._counted_all_at > COUNT_EVERY_S
        if is_due:
            self._counted_all_at = time.monotonic()
        may_hide = is_due or used + hidden > limit
        if (
            self._end_who_connects(processes, connected)
            or (may_hide and self._end_who_hides(processes, grown, waiting))
            or self._end_who_opens(processes, grown.open_files, is_due=is_due)
        ):
            return SHORTEST_WAIT_S
        self._look_at_disk(processes)
        self._written = {process.pid: process.written_bytes for process in processes}
        if self._is_disk_over:
            return SHORTEST_WAIT_S
        # Others of the machine may have taken what it has grown by: that alone is no hurry.
        shortest_s = 5 * SHORTEST_WAIT_S if used + hidden > limit else SHORTEST_WAIT_S
        return min(LONGEST_WAIT_S, max(shortest_s, (limit - used - hidden) / FASTEST_BYTES_S))

    def kernel_line(self) -> str:
        """Give the line about the kernel's ending a process for the memory just now, if it did."""
        with self._kernel_lock:
            kills, now = self._gauge.kernel_kills(), time.monotonic()
            if kills > self._kernel_kills:
                limit = self._limits.memory_bytes
                unknown = Process(0, 0, 0, 0, 0, "a program")
                self._kernel_kills, self._kernel_killed_at = kills, now
                self._note(Breach("memory", limit, limit, unknown))
            if now - self._kernel_killed_at > KERNEL_KILL_S:
                return ""
            return f"ended by the kernel: {over(self._limits.memory_bytes, 'memory')}"

    def _end_who_hides(self, processes: Sequence[Process], grown: Hidden, waiting: int) -> bool:
        """End who holds most memory that its tables do not show, where that is too much.

        Pages of a shared mapping stay when a process drops them from its tables; what waits in a
        socket is in nobody's, and so are the kernel's notes about each mapping.
        """
        limit = self._limits.memory_bytes
        pids = [process.pid for process in processes]
        hidden = self._gauge.hidden_bytes(pids) if grown.shared_bytes > GROWTH_BYTES else {}
        shared = min(grown.shared_bytes, sum(hidden.values()))
        used = sum(process.memory_bytes for process in processes)
        mapped = self._mapped(processes, limit - shared - waiting)
        tables = sum(mapped.values())
        if used + shared + waiting + tables <= limit:
            return False
        total = self._used_with_shared_once(processes) + shared + waiting + tables
        if total <= limit:
            return False
        if tables > max(shared, waiting):
            held: Mapping[int, int] = mapped
        else:
            held = hidden if shared > waiting else self._held("sockets", processes)
        is_ended = self._end_most("memory", total, limit, processes, held)
        if is_ended and held is mapped:
            # A fork has as many as its parent: one after the other would take too long.
            many = max(mapped.values()) // 2
            self._gauge.kill([pid for pid, size in mapped.items() if size > many])
        return is_ended

    def _mapped(self, processes: Sequence[Process], enough: int) -> dict[int, int]:
        """Give the bytes of the kernel's notes about the mappings of each process.

        One process after the other, since counting is slow, and until there is enough to act on.
        """
        mapped: dict[int, int] = {}
        for process in processes:
            if sum(mapped.values()) > max(0, enough):
                break
            for pid, count in self._held("mappings", [process]).items():
                mapped[pid] = min(count, mappings_limit()) * MAPPING_BYTES
        return mapped

    def _end_who_connects(self, processes: Sequence[Process], waiting: int) -> bool:
        """End who has most sockets, where too much waits in TCP connections.

        The kernel has one limit for all of them on a machine.
        """
        limit = self._limits.connection_bytes
        if waiting <= limit:
            return False
        held = self._held("sockets", processes)
        return self._end_most("connections", waiting, limit, processes, held)

    def _end_who_opens(self, processes: Sequence[Process], grown: int, *, is_due: bool) -> bool:
        """End who has most files open, or watched by epoll, where the sandbox has too many.

        The machine has one limit for the one, and each of its users one for the other.
        """
        limits = self._limits
        found: tuple[tuple[Kind, Counted, bool, int], ...] = (
            ("open files", "files", grown > limits.all_open_files, limits.all_open_files),
            ("watches", "watches", is_due, limits.watches),
        )
        for kind, counted, is_counted, limit in found:
            held = self._held(counted, processes) if is_counted else {}
            total = sum(held.values())
            if total > limit:
                return self._end_most(kind, total, limit, processes, held)
        return False

    def _end_most(
        self,
        kind: Kind,
        used: int,
        limit: int,
        processes: Sequence[Process],
        held: Mapping[int, int],
    ) -> bool:
        most = max(processes, key=lambda process: held.get(process.pid, 0))
        if not held.get(most.pid):
            return False  # whoever took it has ended, and the kernel is giving it back
        self._end(Breach(kind, used, limit, most))
        return True

    def _held(self, kind: Counted, processes: Sequence[Process]) -> Mapping[int, int]:
        return self._gauge.count(kind, [process.pid for process in processes])

    def _used_with_shared_once(self, processes: Sequence[Process]) -> int:
        shares = self._gauge.shares([process.pid for process in processes])
        return sum(shares.get(process.pid, process.memory_bytes) for process in processes)

    def _look_at_disk(self, processes: Sequence[Process]) -> None:
        """Count what stands in the folders, where the disk has lost room or time went by.

        Counting is slow; how much room a disk has is known at once.
        """
        now = time.monotonic()
        waited_s = now - self._counted_at
        free_bytes, free_files = self._free()
        is_near = bool(self._worst[0])
        has_lost_room = self._free_bytes - free_bytes > (
            GROWTH_BYTES if is_near else COUNT_STEP_BYTES
        ) or self._free_files - free_files > (GROWTH_FILES if is_near else COUNT_STEP_FILES)
        is_due = has_lost_room or self._is_disk_over or waited_s > SLOWEST_COUNT_S
        left_bytes = max(COUNT_STEP_BYTES, self._limits.disk_bytes - self._used_bytes)
        is_urgent = self._free_bytes - free_bytes > left_bytes
        if not is_urgent and (waited_s < self._next_count_s or not is_due):
            return
        self._free_bytes, self._free_files = free_bytes, free_files
        used_bytes, used_files = self._count()
        pids = [process.pid for process in processes]
        used_bytes += self._gauge.deleted_bytes(pids)
        unseen = self._gauge.unseen_files(pids)
        unseen_bytes = self._unseen_bytes(used_bytes, sum(unseen.values()))
        self._counted_at = time.monotonic()
        self._next_count_s = min(SLOWEST_COUNT_S, 5 * (self._counted_at - now))
        if unseen_bytes:
            processes = [process for process in processes if process.pid in unseen]
        self._used_bytes = used_bytes + unseen_bytes
        self._judge_disk(processes, self._used_bytes, used_files)

    def _unseen_bytes(self, used_bytes: int, files: int) -> int:
        """Give the disk that files may take which nothing shows, where it could be too much.

        That is what the disk has lost beyond what is seen. Others of the machine may have taken
        it, but only a sandbox that holds so many such files is asked to account for it.
        """
        most_bytes = files * self._limits.file_bytes
        if used_bytes + most_bytes <= self._limits.disk_bytes:
            self._seen_before = self._free_bytes, used_bytes
        free_bytes, seen_bytes = self._seen_before
        lost_bytes = (free_bytes - self._free_bytes) - (used_bytes - seen_bytes)
        return max(0, min(most_bytes, lost_bytes))

    def _judge_disk(self, processes: Sequence[Process], used_bytes: int, used_files: int) -> None:
        """End who wrote most since the last look, where the disk is over its limit and still grows.

        What stands there stays: commands that take no more of the disk can run and make room.
        """
        limits = self._limits
        if used_bytes <= limits.disk_bytes and used_files <= limits.disk_files:
            self._is_disk_over, self._worst = False, (0, 0)
            return
        worst_bytes = max(self._worst[0], limits.disk_bytes)
        worst_files = max(self._worst[1], limits.disk_files)
        has_more_bytes = used_bytes > worst_bytes + (GROWTH_BYTES if self._worst[0] else 0)
        has_more_files = used_files > worst_files + (GROWTH_FILES if self._worst[1] else 0)
        self._is_disk_over = has_more_bytes or has_more_files
        if not self._is_disk_over:
            return
        self._worst = (max(worst_bytes, used_bytes), max(worst_files, used_files))
        if not processes:
            return
        writer = max(processes, key=self._written_lately)
        if self._written_lately(writer) <= 0 and not self._is_unexplained:
            # Who wrote it may be over already. Room that goes on to go is taken by somebody here.
            self._is_unexplained = True
            return
        self._is_unexplained = False
        if has_more_bytes:
            self._end(Breach("disk", used_bytes, limits.disk_bytes, writer))
        else:
            self._end(Breach("files", used_files, limits.disk_files, writer))

    def _written_lately(self, process: Process) -> int:
        return process.written_bytes - self._written.get(process.pid, 0)

    def _end(self, breach: Breach) -> None:
        self._note(breach)
        self._gauge.kill([breach.process.pid])

    def _free(self) -> tuple[int, int]:
        found = os.statvfs(self._folders[0])
        return found.f_bfree * found.f_frsize, found.f_ffree

    def _count(self) -> tuple[int, int]:
        """Give bytes and files; ``du`` goes down to any depth, which a walk in Python does not.

        It may also look into folders that the sandbox's programs, who own them, have closed.
        """
        used = []
        for option in ("--block-size=1", "--inodes"):
            argv = [*all_reading(), "du", "-sxc", option, "--", *map(str, self._folders)]
            said = subprocess.run(
                argv,
                capture_output=True,
                check=False,
                timeout=_DU_TIMEOUT_S,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            ).stdout
            used.append(int(said.splitlines()[-1].split()[0]))
        return used[0], used[1]
