from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opencode_magic.local import image, seccomp, walls
from tests.local import keepers, readable
from tests.local.servers import processes_with

if TYPE_CHECKING:
    from collections.abc import Iterator


REACHED = {0, errno.EFAULT, errno.EINVAL, errno.EBADF, errno.ESRCH, errno.ENODEV}
"""It worked, or the kernel got as far as looking at the (empty) arguments."""
SHOWN_BARE = {
    *("unshare user", "unshare mount", "unshare net", "clone user", "clone pid"),
    *("no address randomisation", "packet socket", "raw socket", "a low port"),
    *("the firewall's port", "netfilter by netlink", "audit by netlink", "generic netlink"),
    *("another address", "ip_forward", "boot arguments", "sysfs", "another user"),
    *("the memory of process 1", "the files of process 1", "the environment of process 1"),
    *("a core file", "the machine's name", "a file of this machine", "a socket of this machine"),
    *("the proxy's port", "raising a capability", "capabilities on a file"),
    *("the keyring of this machine", "kernel symbols", "kernel keys"),
    *(
        f"call {name}"
        for name in (
            *("ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "bpf"),
            *("add_key", "request_key", "keyctl", "mount", "umount2", "pivot_root", "chroot"),
            *("move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "setns", "fspick"),
            *("open_by_handle_at", "name_to_handle_at", "sethostname", "setdomainname"),
            *("shmget", "msgget", "semget", "clone3", "memfd_create", "mount_setattr"),
            *("process_madvise", "migrate_pages", "clock_settime", "clock_adjtime", "adjtimex"),
            *("quotactl", "reboot"),
        )
    ),
}
"""What succeeds in a bare namespace of an ordinary user."""
SHOWN_WITHOUT_NAMESPACE = {
    *("a process of this machine", "the environment of this machine"),
    *("an abstract socket of this machine", "new privileges by a setuid program"),
}
"""What any namespace stops already, and succeeds where there is none."""
SHOWN_FURNISHED = {
    *("the administrator's files", "the users' files", "the users' sockets", "the passwords"),
    *("the system's bus", "the containers' socket", "a device", "kvm", "writing /"),
    *("writing /usr", "writing /etc", "writing /dev", "writing /opt", "changing our program"),
    *("the folder of our program", "the names of the folders behind its own"),
}
"""What succeeds in a namespace that has such things."""
SHOWN_TO_ROOT = {
    *("core_pattern", "page counts", "timers", "making a device", "another group"),
    *("a higher priority", "real time"),
    *(f"call {name}" for name in ("move_pages", "userfaultfd", "fanotify_init")),
    *(f"call {name}" for name in ("swapon", "swapoff", "settimeofday", "syslog")),
}
"""What only the machine's own root can do, and the tests may do to it."""
NOT_SHOWN = {
    *("higher limits", "better for the OOM killer"),
    *("sysrq", "physical memory", "the clock", "remapping the user", "immutable files"),
    *("typing into a terminal", "pasting into a console", "the 32-bit entry", "the x32 entry"),
    *("vsock", "vsock with high bits", "bluetooth", "alg", "sctp", "mptcp", "udp-lite", "dccp"),
    *("key management", "xdp", "tipc", "can", "rds", "qrtr"),
    *(
        f"call {name}"
        for name in (
            *("process_mrelease", "perf_event_open", "lookup_dcookie", "open_tree_attr"),
            *("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module"),
            *("acct", "quotactl_fd", "vhangup", "memfd_secret", "io_uring_setup"),
            *("io_uring_enter", "io_uring_register", *seccomp.FORBIDDEN_X86),
        )
    ),
}
"""What needs a kernel that has it, a right that root often lacks in a container, or a terminal, or
would harm the machine that runs the tests."""


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, int]]:
    with keepers.sandbox() as made:
        yield walls.try_all(made.keeper)


@pytest.fixture(scope="module")
def ordinary_outcomes() -> dict[str, int]:
    """The same in a sandbox that an ordinary user made."""
    seen: dict[str, int] = json.loads(
        keepers.run_as_ordinary_user(
            "import json, os, pathlib\n"
            "from opencode_magic.local import walls\n"
            "from opencode_magic.local.isolation import SandboxSpec\n"
            "from opencode_magic.local.keeper import Keeper, KeeperPlace\n"
            "boxes = pathlib.Path(os.environ['BASE'], 'boxes')\n"
            "keeper = Keeper.start(KeeperPlace(boxes), SandboxSpec('w', boxes / 'w'))\n"
            "print(json.dumps(walls.try_all(keeper)))\n"
            "keeper.close()\n"
        )
    )
    return seen


REFUSED = [name for name in walls.attempts() if name not in walls.STATED]


@pytest.mark.parametrize("attempt", REFUSED)
def test_an_attempt_to_get_out_is_refused(outcomes: dict[str, int], attempt: str) -> None:
    """Nothing on the list works from inside."""
    assert outcomes[attempt] not in {0, walls.BROKEN}


@pytest.mark.parametrize("attempt", REFUSED)
def test_an_ordinary_users_wall_is_the_same(
    ordinary_outcomes: dict[str, int], attempt: str
) -> None:
    """Nothing on the list works in the sandbox of a user without rights either."""
    assert ordinary_outcomes[attempt] not in {0, walls.BROKEN}


def control(chosen: dict[str, str], within: list[str], told: dict[str, str]) -> dict[str, int]:
    """Make attempts as an ordinary user, without our walls."""
    argv = [*within, readable.open_python(), "-I", "-c", walls.PROGRAM]
    user = readable.drop() if os.geteuid() == 0 else []
    return run_attempts([*user, *argv, *walls.arguments(chosen, told)])


def run_attempts(argv: list[str]) -> dict[str, int]:
    """Run the attempts' program by this command line; gives each outcome."""
    said = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert said.returncode == 0, said.stderr
    outcomes: dict[str, int] = json.loads(said.stdout)
    return outcomes


def test_every_attempt_has_its_control() -> None:
    """What succeeds somewhere is known of each attempt, and of those that are not shown why."""
    kinds = [SHOWN_BARE, SHOWN_WITHOUT_NAMESPACE, SHOWN_FURNISHED, SHOWN_TO_ROOT, NOT_SHOWN]
    foreign = set() if os.uname().machine == "x86_64" else seccomp.FORBIDDEN_X86.keys()
    listed = [name for kind in kinds for name in kind if name.removeprefix("call ") not in foreign]

    assert sorted(listed) == sorted(walls.attempts())


def test_attempts_succeed_in_a_bare_namespace() -> None:
    """The control: in a bare namespace of an ordinary user the same program gets through."""
    bare = ["unshare", "--user", "--map-root-user", "--mount", "--net", "--pid", "--fork"]
    bare += ["--ipc", "--uts", "--mount-proc", "--kill-child", "--"]
    with walls.canaries() as told:
        seen = control(walls.attempts(), bare, told)

    assert {name for name in SHOWN_BARE if seen[name] not in REACHED} == set()
    assert seen.keys() == walls.attempts().keys()


def test_attempts_succeed_where_there_are_such_things() -> None:
    """The control: in a namespace with users, secrets, sockets and devices they are reached."""
    chosen = {name: walls.attempts()[name] for name in SHOWN_FURNISHED}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, walls.canaries() as told:
        Path(folder).chmod(0o777)
        seen = control(chosen, furnished(Path(folder), told), told)

    assert seen == dict.fromkeys(chosen, 0)


def furnished(folder: Path, told: dict[str, str]) -> list[str]:
    """Give bubblewrap's words for a namespace without walls, and with things to be found."""
    words = ["bwrap", "--unshare-all", "--uid", "0", "--gid", "0", "--cap-add", "ALL"]
    words += ["--dir", "/usr", "--proc", "/proc", "--dev", "/dev"]
    for place in [*Path("/usr").iterdir(), *map(Path, ("/bin", "/lib", "/lib64", "/sbin"))]:
        if place.is_symlink():
            words += ["--symlink", str(place.readlink()), str(place)]
        elif place.exists():
            words += ["--ro-bind", str(place), str(place)]
    if readable.open_python() == str(image.base_python()):
        for source, target in image.own_python().binds:
            words += ["--ro-bind", source, target]
    for name in ("/etc", "/root/a", "/home/a", "/run/user/a", "/tmp", "/var/run"):
        words += ["--dir", name]
    for name in ("/etc/shadow", "/dev/sda", "/dev/kvm"):
        words += ["--dev-bind", "/dev/null", name]
    for name in ("/run/dbus/system_bus_socket", "/var/run/docker.sock"):
        words += ["--bind", told["socket"], name]
    program = folder / "pid1.py"
    program.touch()
    program.chmod(0o666)
    words += ["--bind", str(program), "/opt/opencode-magic/opencode_magic/local/pid1.py"]
    return [*words, "--ro-bind", told["program"], "/mnt", "--bind", str(folder), "/vercel", "--"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only the machine's own root can do it")
def test_attempts_succeed_for_the_machines_root() -> None:
    """The control of what an ordinary user can do nowhere: for root it works."""
    chosen = {name: walls.attempts()[name] for name in SHOWN_TO_ROOT}
    script = 'mount -t tmpfs tmpfs /var/tmp && exec "$@"'
    argv = ["unshare", "--mount", "--propagation", "private", "--uts", "--", "sh", "-c", script]
    argv += ["sh", sys.executable, "-I", "-c", walls.PROGRAM]
    with walls.canaries() as told:
        seen = run_attempts([*argv, *walls.arguments(chosen, told)])

    assert {name for name, outcome in seen.items() if outcome not in REACHED} == set()


def test_what_any_namespace_stops_succeeds_outside() -> None:
    """The control of what is not there in a bare namespace either: the machine itself."""
    chosen = {name: walls.attempts()[name] for name in SHOWN_WITHOUT_NAMESPACE}
    with walls.canaries(readable.drop() if os.geteuid() == 0 else []) as told:
        seen = control(chosen, [], told)

    assert seen == dict.fromkeys(chosen, 0)


def test_the_canaries_are_there_outside() -> None:
    """What must not be seen inside can be reached on this machine, until it is over."""
    with walls.canaries() as told:
        mode = Path(told["file"]).stat().st_mode & 0o777
        running = processes_with(told["name"])
        for address in ("\0" + told["name"], told["socket"]):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(address)

    assert (mode, len(running)) == (0o644, 1)
    assert not Path(told["file"]).exists()
    assert processes_with(told["name"]) == []
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(ConnectionRefusedError):
        sock.connect("\0" + told["name"])


def test_outcomes_become_checks() -> None:
    """What was refused is ok with the wall's answer; what worked is told plainly."""
    refused, worked, broken, killed = walls.judge(
        {"a": errno.EPERM, "b": 0, "c": walls.BROKEN, "d": 128 + 31}
    )

    [stated] = walls.judge(dict.fromkeys(walls.STATED, 0))
    assert (stated.state, "mountinfo" in stated.detail) == ("warning", True)
    assert killed.detail == "refused: ended by SIGSYS"
    assert (refused.state, refused.detail) == ("ok", "refused: Operation not permitted (EPERM)")
    assert (worked.state, worked.detail) == ("blocked", "it worked")
    assert (broken.state, broken.detail) == ("blocked", "it could not be tried")
