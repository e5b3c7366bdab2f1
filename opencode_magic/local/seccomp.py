"""The system calls that a sandbox may not make, as the BPF program for ``bwrap --seccomp``.

Numbers: Linux, arch/x86/entry/syscalls/syscall_64.tbl and scripts/syscall.tbl (arm64).
"""

from __future__ import annotations

import errno
import platform
import socket

from opencode_magic.local.bpf import (
    GIVE,
    IF_ANY_BIT,
    IF_EQUAL,
    IF_GREATER_EQUAL,
    LOAD_WORD,
    Program,
)

_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_NR, _ARCH = 0, 4
_NAMESPACE_FLAGS = 0x7E020080
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET and NEWTIME."""
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_NETLINK_ROUTE = 0
_PERSONALITY_QUERY = 0xFFFFFFFF
_SOL_SOCKET = 1
_BUFFER_SIZES = (7, 8, 32, 33)
"""SO_SNDBUF, SO_RCVBUF, and both with FORCE: they are left as they are, as past the system's limit.

What waits in a socket is the kernel's memory, and no process's."""

FORBIDDEN = {
    # Other processes' memory and state.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # Kernel interfaces with a long record of holes.
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18),
    # Mounts, namespaces, and handles that walk around them.
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    # The machine.
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    # Memory that no limit of ours counts.
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "memfd_secret": (447, 447),
}
"""Name -> (x86-64 number, arm64 number); answered with EPERM."""

FORBIDDEN_X86 = {
    "iopl": 172,
    "ioperm": 173,
    "modify_ldt": 154,
    "uselib": 134,
    "ustat": 136,
    "sysfs": 139,
    "_sysctl": 156,
    "create_module": 174,
    "get_kernel_syms": 177,
    "query_module": 178,
    "nfsservctl": 180,
}

ABSENT = {
    # A filter cannot see the flags of clone3: without it, libc falls back to clone.
    "clone3": (435, 435),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # Its pages belong to no process and no size-limited folder: nothing would count them.
    "memfd_create": (319, 279),
}
"""Name -> numbers; answered with ENOSYS, as by a kernel that never had them."""

_CHECKED = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "clone": (56, 220),
    "unshare": (272, 97),
    "ioctl": (16, 29),
    "personality": (135, 92),
    "prlimit64": (302, 261),
    "setsockopt": (54, 208),
}
_PROTOCOLS = (
    0,
    socket.IPPROTO_TCP,
    socket.IPPROTO_UDP,
    socket.IPPROTO_ICMP,
    socket.IPPROTO_ICMPV6,
)
"""Those the firewall sees: the kernel would load a module for others."""


def supported_machine() -> str | None:
    """Give the machine's name where there is a filter for it."""
    machine = platform.machine()
    return machine if machine in _AUDIT_ARCH else None


def seccomp_filter(machine: str) -> bytes:
    """Give the program for one kind of machine.

    Raises:
        KeyError: There is none for it.
    """
    arch, column = _AUDIT_ARCH[machine], 0 if machine == "x86_64" else 1
    program = Program()
    put = program.put
    put(LOAD_WORD, _ARCH)
    put(IF_EQUAL, arch, "", "kill")
    put(LOAD_WORD, _NR)
    if machine == "x86_64":
        put(IF_GREATER_EQUAL, _X32_BIT, "absent")
    for name, numbers in _CHECKED.items():
        put(IF_EQUAL, numbers[column], name)
    for numbers in ABSENT.values():
        put(IF_EQUAL, numbers[column], "absent")
    forbidden = [numbers[column] for numbers in FORBIDDEN.values()]
    forbidden += FORBIDDEN_X86.values() if machine == "x86_64" else []
    for number in forbidden:
        put(IF_EQUAL, number, "forbidden")
    _end(program, _ALLOW)
    _check_arguments(program)
    for label, answer in (
        ("allow", _ALLOW),
        ("done", _ERRNO),
        ("absent", _ERRNO | errno.ENOSYS),
        ("forbidden", _ERRNO | errno.EPERM),
        ("no family", _ERRNO | errno.EAFNOSUPPORT),
        ("kill", _KILL),
    ):
        program.label(label)
        _end(program, answer)
    return program.assemble()


def _check_arguments(program: Program) -> None:
    put, label = program.put, program.label
    for name in ("socket", "socketpair"):
        label(name)
        put(LOAD_WORD, _argument(0))  # the low half: the kernel reads an int
        put(IF_EQUAL, socket.AF_UNIX, "allow")
        put(IF_EQUAL, socket.AF_INET, f"{name} internet")
        put(IF_EQUAL, socket.AF_INET6, f"{name} internet")
        put(IF_EQUAL, socket.AF_NETLINK, "", "no family")
        put(LOAD_WORD, _argument(2))
        put(IF_EQUAL, _NETLINK_ROUTE, "allow", "no family")
        label(f"{name} internet")
        put(LOAD_WORD, _argument(2))
        for protocol in _PROTOCOLS:
            put(IF_EQUAL, protocol, "allow")
        put(GIVE, _ERRNO | errno.EPROTONOSUPPORT)
    for name in ("clone", "unshare"):
        label(name)
        put(LOAD_WORD, _argument(0))
        put(IF_ANY_BIT, _NAMESPACE_FLAGS, "forbidden", "allow")
    label("ioctl")
    put(LOAD_WORD, _argument(1))
    put(IF_EQUAL, _TIOCSTI, "forbidden")
    put(IF_EQUAL, _TIOCLINUX, "forbidden", "allow")
    label("personality")
    put(LOAD_WORD, _argument(0))
    put(IF_EQUAL, 0, "allow")
    put(IF_EQUAL, _PERSONALITY_QUERY, "allow", "forbidden")
    label("setsockopt")
    put(LOAD_WORD, _argument(1))
    put(IF_EQUAL, _SOL_SOCKET, "", "allow")
    put(LOAD_WORD, _argument(2))
    for option in _BUFFER_SIZES:
        put(IF_EQUAL, option, "done")
    _end(program, _ALLOW)
    # Others' limits may be looked at: the first process, which has the same user, needs its own.
    label("prlimit64")
    put(LOAD_WORD, _argument(0))
    put(IF_EQUAL, 0, "allow")
    for half in (0, 4):
        put(LOAD_WORD, _argument(2) + half)
        put(IF_EQUAL, 0, "", "forbidden")
    _end(program, _ALLOW)


def _argument(index: int) -> int:
    """Give the offset of an argument's low half (both machines are little-endian)."""
    return 16 + 8 * index


def _end(program: Program, answer: int) -> None:
    program.put(GIVE, answer)
