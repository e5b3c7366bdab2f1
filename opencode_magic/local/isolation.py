"""What a sandbox is made of: its spec, its limits, and bubblewrap's arguments for it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from opencode_magic.local import image
from opencode_magic.local.own_groups import memory_left_bytes, processes_left

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024 * 1024
GIB = 1024 * MIB
PROCESSES = 1024
CHANNEL_FD = 200
SECCOMP_FD = 201
ARGUMENTS_FD = 202
FIRST_PROGRAM = {
    203: Path(__file__).resolve().with_name("wire.py"),
    204: Path(__file__).resolve().with_name("pid1.py"),
}
"""What the first process is made of, by the descriptors that it is read from.

It is copied, not bound: a mount inside would name the folder where it stands on the host.
"""

_MASKED_IN_PROC = (
    "cmdline",
    "iomem",
    "ioports",
    "kcore",
    "keys",
    "key-users",
    "kallsyms",
    "kmsg",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "latency_stats",
    "modules",
    "mtrr",
    "pagetypeinfo",
    "sched_debug",
    "slabinfo",
    "sysrq-trigger",
    "timer_list",
    "vmallocinfo",
)
_HIDDEN = ("/usr/etc", "/usr/local/etc")
"""Configuration of the host's own programs, which may hold tokens (npm, Jupyter)."""
_READ_ONLY_IN_PROC = ("sys", "fs", "bus", "irq", "scsi", "acpi", "driver", "tty")


def default_memory_bytes() -> int:
    """Give half of the memory that there is here, at least 2 GiB where that leaves a quarter.

    In a container that is what the container may use: more would end the notebook with the agent.
    """
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    total = min(total, memory_left_bytes() or total)
    return max(min(2 * GIB, total * 3 // 4), total // 2)


def default_connection_bytes() -> int:
    """Give how much may wait in TCP connections: half of what the kernel lets all have at ease.

    On a small machine it is more: what the machine's other connections take must not end an agent
    that has a few dozen. Source: tcp(7), ``tcp_mem``, whose usual value is a share of the memory.
    """
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(128 * MIB, total // 43)


def default_watches() -> int:
    """Give how many files may be watched by epoll: half of what the user may have.

    The kernel counts them by user, and the sandbox's programs may be the same one to it. Source:
    epoll(7), ``max_user_watches``.
    """
    try:
        return int(Path("/proc/sys/fs/epoll/max_user_watches").read_text()) // 2
    except (OSError, ValueError):
        return 200_000


def default_processes() -> int:
    """Give how many processes and threads a sandbox may have: half of what there may be here.

    They count in the container's own limit, in which the notebook has its threads, too.
    """
    return min(PROCESSES, (processes_left() or 2 * PROCESSES) // 2)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one sandbox may use. The kernel counts all but the first six, the watchdog those."""

    memory_bytes: int = field(default_factory=default_memory_bytes)
    """Memory of all processes together; see `default_memory_bytes`."""
    watches: int = field(default_factory=default_watches)
    """Files watched by epoll, of all processes together; see `default_watches`."""
    connection_bytes: int = field(default_factory=default_connection_bytes)
    """What waits in TCP connections inside; see `default_connection_bytes`."""
    disk_bytes: int = 20 * GIB
    """Home and temporary folder together."""
    disk_files: int = 2_000_000
    """Files and folders in them."""
    all_open_files: int = 65_536
    """Of all processes together; the machine's own limit, some millions, is everybody's."""

    processes: int = field(default_factory=default_processes)
    """Processes and threads of the whole sandbox; by default 1,024 or half of a container's."""
    open_files: int = 8192
    """Per process."""
    file_bytes: int = 4 * GIB
    """The largest single file."""
    data_bytes: int = 6 * GIB
    """Private memory of one process."""
    tmp_bytes: int = 512 * MIB
    """``/tmp``, which is memory."""
    shm_bytes: int = 128 * MIB
    """``/dev/shm``, which is memory."""
    run_bytes: int = 16 * MIB
    """``/run``, which is memory."""
    cpu_s: int | None = None
    """Processor time of one process; no limit by default."""

    def rlimits(self) -> dict[str, int]:
        """Give what each process is limited to, by the name after ``RLIMIT_``."""
        processor = {} if self.cpu_s is None else {"CPU": self.cpu_s}
        return {
            **processor,
            "NPROC": self.processes,
            "NOFILE": self.open_files,
            "FSIZE": self.file_bytes,
            "DATA": self.data_bytes,
            # Not 0: a core file that goes to a program of the host's would be made all the same.
            "CORE": 1,
            "MEMLOCK": 64 * MIB,
            "MSGQUEUE": 0,
            "SIGPENDING": 4096,
        }


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """One sandbox as its keeper needs to know it."""

    name: str
    folder: Path
    """Its own folder on the host; ``home`` (``/vercel``) and ``tmp`` (``/var/tmp``) stand in it."""
    ca_bundle: bytes = b""
    """PEM certificates that the sandbox trusts; empty means the host's own bundle."""
    opencode: Path | None = None
    """Bound read-only at ``/opt/opencode/bin/opencode``."""
    limits: Limits = field(default_factory=Limits)


def keeper_arguments() -> list[str]:
    """Give bubblewrap's options for the keeper: namespaces of its own, the host's files."""
    # SYS_PTRACE: a process that keeps itself from being looked at is counted all the same.
    # SYS_RESOURCE: what the kernel counts by user can be limited for the sandbox alone.
    network = ("NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW")
    capabilities = (*network, "SETFCAP", "SYS_PTRACE", "SYS_RESOURCE")
    return [
        *("--unshare-user", "--uid", "0", "--gid", "0"),
        # As pid 1: bubblewrap's own first process is left behind as a zombie for the host's init.
        *("--unshare-net", "--unshare-pid", "--as-pid-1", "--die-with-parent"),
        *("--cap-drop", "ALL"),
        *(word for name in capabilities for word in ("--cap-add", f"CAP_{name}")),
        *("--dev-bind", "/", "/", "--proc", "/proc"),
    ]


def sandbox_arguments(spec: SandboxSpec) -> list[str]:
    """Give bubblewrap's options for the sandbox itself, in the order that they take effect."""
    return [
        *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts"),
        *("--unshare-cgroup-try", "--uid", str(image.USER_ID), "--gid", str(image.USER_ID)),
        *("--disable-userns", "--die-with-parent", "--new-session", "--as-pid-1"),
        *("--cap-drop", "ALL", "--clearenv", "--hostname", image.HOSTNAME),
        *_system(),
        *_own_folders(spec),
        *_kernel_views(spec.limits),
        *("--seccomp", str(SECCOMP_FD)),
        *("--remount-ro", "/", "--chdir", "/"),
    ]


def sandbox_command() -> list[str]:
    """Give the program that bubblewrap turns into, inside."""
    start = (
        f"import sys; sys.path.append({image.PROGRAM_FOLDER!r}); "
        f"from opencode_magic.local.pid1 import main; main({CHANNEL_FD})"
    )
    return [image.inside_python().program, "-I", "-S", "-B", "-c", start]


def _system() -> Iterator[str]:
    for folder in ("/opt", "/var", "/home", "/mnt", "/srv", "/root"):
        yield from ("--perms", "0755", "--dir", folder)
    yield from ("--ro-bind", "/usr", "/usr")
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        place = Path("/", name)
        if place.is_symlink():
            yield from ("--symlink", str(place.readlink()), str(place))
        elif place.is_dir():
            yield from ("--ro-bind", str(place), str(place))
    for folder in _HIDDEN:
        if Path(folder).is_dir():
            yield from ("--size", "4096", "--tmpfs", folder, "--remount-ro", folder)
    yield from _first_program()


def _first_program() -> Iterator[str]:
    """Bind what the sandbox's first process needs."""
    python = image.inside_python()
    for source, target in python.binds:
        yield from ("--ro-bind", source, target)
    for folder in python.hidden:
        yield from ("--size", "4096", "--tmpfs", folder, "--remount-ro", folder)
    for folder in ("", "/opencode_magic", "/opencode_magic/local"):
        yield from ("--perms", "0755", "--dir", f"{image.PROGRAM_FOLDER}{folder}")
    for number, path in FIRST_PROGRAM.items():
        target = f"{image.PROGRAM_FOLDER}/opencode_magic/local/{path.name}"
        yield from ("--perms", "0444", "--file", str(number), target)


def _own_folders(spec: SandboxSpec) -> Iterator[str]:
    folder = spec.folder
    yield from ("--ro-bind", str(folder / "etc"), "/etc")
    yield from ("--ro-bind-try", "/etc/alternatives", "/etc/alternatives")
    yield from ("--bind", str(folder / "home"), image.HOME)
    yield from ("--bind", str(folder / "tmp"), image.DISK_TMP)
    if spec.opencode is not None:
        yield from ("--perms", "0755", "--dir", "/opt/opencode")
        yield from ("--perms", "0755", "--dir", image.OPENCODE_FOLDER)
        yield from ("--ro-bind", str(spec.opencode), image.OPENCODE)


def _kernel_views(limits: Limits) -> Iterator[str]:
    yield from ("--proc", "/proc")
    for name in _READ_ONLY_IN_PROC:
        if Path("/proc", name).is_dir():
            yield from ("--ro-bind", f"/proc/{name}", f"/proc/{name}")
    for name in _MASKED_IN_PROC:
        if Path("/proc", name).exists():
            yield from ("--ro-bind", "/dev/null", f"/proc/{name}")
    yield from ("--dev", "/dev")
    yield from ("--perms", "1777", "--size", str(limits.shm_bytes), "--tmpfs", "/dev/shm")  # noqa: S108 - inside
    yield from ("--remount-ro", "/dev")
    yield from ("--perms", "1777", "--size", str(limits.tmp_bytes), "--tmpfs", "/tmp")  # noqa: S108 - inside
    yield from ("--perms", "0755", "--size", str(limits.run_bytes), "--tmpfs", "/run")
