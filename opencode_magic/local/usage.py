"""``/proc`` of a keeper's process namespace -> what the sandbox's processes use.

Runs in the keeper, which sees the sandbox's processes and no others. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_KIB = 1024
_NEVER_SHARED = ("VmPTE", "HugetlbPages")
"""Among it the tables of pages, of which a terabyte of nothing takes many."""
_MEMORY = ("RssAnon", "RssShmem", "VmSwap", *_NEVER_SHARED)
_BLOCK_BYTES = 512
_PIDFD_GETFD = 438
"""The number of the system call, on every kind of machine (Linux 5.6)."""
_KCMP = {"x86_64": 312, "aarch64": 272}
_KCMP_FILES = 2
"""``kcmp`` tells whether two threads share their open files. Source: kcmp(2)."""
_IN_MEMORY = (b"/dev/zero ", b"/dev/shm/", b"/tmp/", b"/run/", b"/memfd:", b"/SYSV")
"""How the mappings of files that stand on no disk begin."""
_ANY_NUMBER = 1 << 20
_WMEM_DEFAULT = 212_992
_HIDDEN = 1 << 62
"""What a process is taken to have written that hides how much it was."""


def usage() -> dict[str, object]:
    """Give a row for each of the sandbox's processes but its first, the largest first.

    A row is: pid here (of a thread, where the first one has ended), pid inside, session inside,
    memory in bytes, bytes written, name.
    """
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]  # noqa: PTH208 - light imports
    rows = [row for row in map(_row, pids) if row is not None]
    return {"rows": sorted(rows, key=lambda row: row[3], reverse=True)}


def _row(pid: int) -> tuple[int, int, int, int, int, str] | None:
    fields = _status(pid)
    here_and_inside = fields.get("NSpid", "0").split()
    if len(here_and_inside) < 2 or here_and_inside[1] == "1":  # noqa: PLR2004 - both namespaces
        return None
    if not _is_alive(fields):
        pid, fields = _living_thread(pid)
        if not pid:
            return None
    session = fields.get("NSsid", "0").split()[-1]
    memory = sum(_bytes(fields.get(name, "0")) for name in _MEMORY)
    name = fields.get("Name", "")
    return pid, int(here_and_inside[1]), int(session), memory, _written(pid), name


def _status(pid: int) -> dict[str, str]:
    """Give the fields of a process or a thread; none where it has ended."""
    try:
        with open(f"/proc/{pid}/status", "rb") as status:  # noqa: PTH123 - light imports
            text = status.read().decode(errors="replace")
    except OSError:
        return {}
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def _is_alive(fields: dict[str, str]) -> bool:
    return not fields.get("State", "Z").startswith(("Z", "X"))


def _living_thread(pid: int) -> tuple[int, dict[str, str]]:
    """Give a thread that runs on after its process's first one has ended; 0 where there is none.

    It shows what the process uses, which the first one does no more.
    """
    threads: list[str] = []
    with contextlib.suppress(OSError):
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - light imports
    for thread in map(int, threads):
        if thread != pid and _is_alive(fields := _status(thread)):
            return thread, fields
    return 0, {}


def _bytes(text: str) -> int:
    words = text.split()
    return int(words[0]) * _KIB if words and words[0].isdigit() else 0


def _written(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/io", "rb") as io:  # noqa: PTH123 - light imports
            for line in io:
                if line.startswith(b"write_bytes:"):
                    return int(line.split()[1])
    except OSError:
        return _HIDDEN
    return 0


def proportional_bytes(pid: int) -> int | None:
    """Give a process's share of memory, shared pages divided; None where it cannot be known."""
    fields = _status(pid)
    total = sum(_bytes(fields.get(name, "0")) for name in _NEVER_SHARED)
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:  # noqa: PTH123 - light imports
            for line in rollup:
                if line.startswith((b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")):
                    total += int(line.split()[1]) * _KIB
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it has ended
    except OSError:
        return None
    return total


def hidden_bytes(pids: list[int]) -> dict[int, int]:
    """Give the shared memory without a file that each process may hold beyond its tables.

    That is the size of its mappings less the pages that are in tables; who first is seen with a
    mapping has it. A process that cannot be looked at may hold any amount.
    """
    sizes: dict[str, int] = {}
    shares: dict[str, int] = {}
    residents: dict[str, int] = {}
    holders: dict[str, int] = {}
    unknown = {}
    for pid in pids:
        try:
            for key, size, share, resident in _shared_mappings(pid):
                sizes[key] = max(sizes.get(key, 0), size)
                shares[key] = shares.get(key, 0) + share
                residents[key] = max(residents.get(key, 0), resident)
                holders.setdefault(key, pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:
            unknown[pid] = _HIDDEN
    hidden: dict[int, int] = {}
    for key, pid in holders.items():
        # Shares alone would miss what a fork divides while they are being read.
        seen = max(shares[key], residents[key])
        hidden[pid] = hidden.get(pid, 0) + max(0, sizes[key] - seen)
    return {**hidden, **unknown}


def _shared_mappings(pid: int) -> Iterator[tuple[str, int, int, int]]:
    """Give each shared mapping without a file: which, its bytes to here, its share, in tables."""
    key, end, resident = "", 0, 0
    with open(f"/proc/{pid}/maps", "rb") as maps:  # noqa: PTH123 - light imports
        if b"/dev/zero (deleted)" not in maps.read():
            return  # what few have is not worth counting every page of all
    with open(f"/proc/{pid}/smaps", "rb") as smaps:  # noqa: PTH123 - light imports
        for line in smaps:
            words = line.split()
            if not words[0].endswith(b":"):
                is_shared = words[1][3:4] == b"s" and words[5:] == [b"/dev/zero", b"(deleted)"]
                key = f"{words[3].decode()} {words[4].decode()}" if is_shared else ""
                first, last = (int(place, 16) for place in words[0].split(b"-"))
                end = int(words[2], 16) + last - first
            elif key and words[0] == b"Rss:":
                resident = int(words[1]) * _KIB
            elif key and words[0] == b"Pss:":
                yield key, end, int(words[1]) * _KIB, resident


def waiting_bytes(idle_tcp: int) -> dict[str, int]:
    """Give the most that may wait in the sockets of this network namespace: ``tcp`` and ``other``.

    Also in those that no process has open: on their way, not accepted, or closed with their data
    still in another's queue. Half as much again as a socket may send, since it takes the last
    message whole. Source: proc(5), socket(7) and tcp(7); what a program inside may not change.

    Args:
        idle_tcp: How many of the TCP sockets are known to hold nothing.
    """
    all_sockets, tcp_sockets = 0, 0
    for name in ("sockstat", "sockstat6"):
        for line in _lines(f"/proc/self/net/{name}"):
            match line.split():
                case ["sockets:", "used", count]:
                    all_sockets = int(count)
                case ["TCP:" | "TCP6:", "inuse", count, *_]:
                    tcp_sockets += int(count)
    most = {"core/wmem_default": _WMEM_DEFAULT, "ipv4/tcp_rmem": 0, "ipv4/tcp_wmem": 0}
    for name in most:
        for line in _lines(f"/proc/sys/net/{name}"):
            most[name] = int(line.split()[-1])
    tcp = max(0, tcp_sockets - idle_tcp) * (most["ipv4/tcp_rmem"] + most["ipv4/tcp_wmem"])
    other = max(0, all_sockets - tcp_sockets) * most["core/wmem_default"]
    return {"tcp": tcp * 3 // 2, "other": other * 3 // 2}


def _lines(place: str) -> list[str]:
    with contextlib.suppress(OSError), open(place) as file:  # noqa: PTH123 - light imports
        return file.read().splitlines()
    return []


def count(kind: str, pids: list[int]) -> dict[int, int]:
    """Give how many ``files``, ``sockets``, ``mappings`` or ``watches`` (epoll) each process has.

    A process that cannot be looked at may have any number.
    """
    counters = {
        "files": _count_files,
        "sockets": _count_sockets,
        "mappings": _count_mappings,
        "watches": _count_watches,
    }
    counts = {}
    for pid in pids:
        try:
            counts[pid] = counters[kind](pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:
            counts[pid] = _ANY_NUMBER
    return counts


def _count_files(pid: int) -> int:
    return sum(1 for _ in _open_files(pid))


def _count_sockets(pid: int) -> int:
    return sum(stat.S_ISSOCK(found.st_mode) for found in _open_files(pid))


def _count_mappings(pid: int) -> int:
    count = 0
    with open(f"/proc/{pid}/maps", "rb") as maps:  # noqa: PTH123 - light imports
        while some := maps.read(1 << 20):
            count += some.count(b"\n")
    return count


def _count_watches(pid: int) -> int:
    try:
        places = _opened_as(pid, "anon_inode:[eventpoll]")
    except PermissionError:
        return (_table_size(pid) // 2) ** 2  # half of what may be open watches the other half
    return sum(_info(place).count(b"\ntfd:") for place in places)


def deleted_bytes(pids: list[int]) -> int:
    """Give how much disk is held by open files that have no name any more."""
    seen: dict[tuple[int, int], int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for found in _open_files(pid):
                if found.st_nlink == 0:
                    seen[(found.st_dev, found.st_ino)] = found.st_blocks * _BLOCK_BYTES
    return sum(seen.values())


def unseen_files(pids: list[int]) -> dict[int, int]:
    """Give how many files without a name each process may hold that no list of open files shows.

    Those are mapped and closed ones, and those on their way through a socket.
    """
    known: set[bytes] = set()
    counts = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            mapped = _mapped_and_removed(pid) - known
            known |= mapped
            counts[pid] = len(mapped) + _on_their_way(pid)
    return {pid: count for pid, count in counts.items() if count}


def _mapped_and_removed(pid: int) -> set[bytes]:
    """Give the mapped files of disks that have no name any more, by device and inode."""
    found = set()
    with open(f"/proc/{pid}/maps", "rb") as maps:  # noqa: PTH123 - light imports
        for line in maps:
            if line.endswith(b" (deleted)\n"):
                words = line.split(maxsplit=5)
                if not words[5].startswith(_IN_MEMORY):
                    found.add(b" ".join(words[3:5]))
    return found


def _on_their_way(pid: int) -> int:
    """Give how many open files wait in a process's sockets; one that is closed may hold any."""
    try:
        places = _opened_as(pid, "socket:")
    except PermissionError:
        is_socket = any(stat.S_ISSOCK(found.st_mode) for found in _hidden_files(pid))
        return _ANY_NUMBER if is_socket else 0
    return sum(_waiting_files(_info(place)) for place in places)


def _waiting_files(info: bytes) -> int:
    _, mark, rest = info.partition(b"\nscm_fds:")
    return int(rest.split(maxsplit=1)[0]) if mark else 0


def _opened_as(pid: int, start: str) -> list[str]:
    """Give the notes (``fdinfo``) of a process's open files whose names begin so."""
    places = []
    for folder in _tables(pid):
        for name in os.listdir(f"{folder}/fd"):  # noqa: PTH208 - light imports
            with contextlib.suppress(OSError):
                if os.readlink(f"{folder}/fd/{name}").startswith(start):  # noqa: PTH115 - light imports
                    places.append(f"{folder}/fdinfo/{name}")
    return places


def _info(place: str) -> bytes:
    with contextlib.suppress(OSError), open(place, "rb") as info:  # noqa: PTH123 - light imports
        return info.read()
    return b""


def _tables(pid: int) -> list[str]:
    """Give the folders of the threads that have open files of their own, the first one among them.

    Threads usually share them. Where the kernel does not tell, each is taken to have its own.
    """
    threads = sorted(map(int, os.listdir(f"/proc/{pid}/task")))  # noqa: PTH208 - light imports
    first = threads[0] if pid not in threads else pid
    own = [first, *(thread for thread in threads if not _is_shared(first, thread))]
    return [f"/proc/{pid}/task/{thread}" for thread in own]


def _is_shared(one: int, other: int) -> bool:
    if one == other:
        return True
    import ctypes  # noqa: PLC0415 - rarely needed

    number = _KCMP.get(os.uname().machine)
    call = ctypes.CDLL(None).syscall
    return number is not None and call(number, one, other, _KCMP_FILES, 0, 0) == 0


def _open_files(pid: int) -> Iterator[os.stat_result]:
    for folder in _tables(pid):
        try:
            names = os.listdir(f"{folder}/fd")  # noqa: PTH208 - light imports
        except PermissionError:
            yield from _hidden_files(pid)
            return
        for name in names:
            with contextlib.suppress(OSError):
                yield os.stat(f"{folder}/fd/{name}")  # noqa: PTH116 - light imports
    with contextlib.suppress(OSError):
        yield os.stat(f"/proc/{pid}/exe")  # noqa: PTH116 - light imports


def _hidden_files(pid: int) -> Iterator[os.stat_result]:
    """Give the open files of a process whose list of them is closed to its own user.

    One by one, through a copy: the list says how many there may be, the right to trace does it.
    """
    import ctypes  # noqa: PLC0415 - rarely needed

    call = ctypes.CDLL(None, use_errno=True).syscall
    pidfd = os.pidfd_open(pid)
    try:
        for number in range(_table_size(pid)):
            copy = call(_PIDFD_GETFD, pidfd, number, 0)
            if copy >= 0:
                try:
                    yield os.fstat(copy)
                finally:
                    os.close(copy)
    finally:
        os.close(pidfd)


def _table_size(pid: int) -> int:
    with open(f"/proc/{pid}/status", "rb") as status:  # noqa: PTH123 - light imports
        for line in status:
            if line.startswith(b"FDSize:"):
                return int(line.split()[1])
    return 0
