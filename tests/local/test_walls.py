from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opencode_magic.local import walls
from tests.local import keepers, readable
from tests.local.servers import processes_with

if TYPE_CHECKING:
    from collections.abc import Iterator


REACHED = {0, errno.EFAULT, errno.EINVAL, errno.EBADF, errno.ESRCH, errno.ENODEV}
"""It worked, or the kernel got as far as looking at the (empty) arguments."""
SHOWN_BY_CONTROL = {
    *("unshare user", "unshare mount", "unshare net", "clone user", "clone pid"),
    *("no address randomisation", "packet socket", "raw socket", "a low port"),
    *("the firewall's port", "netfilter by netlink", "audit by netlink", "generic netlink"),
    *("another address", "ip_forward", "boot arguments", "sysfs", "another user"),
    *("the memory of process 1", "the files of process 1", "the environment of process 1"),
    *("a core file", "the machine's name", "a file of this machine", "a socket of this machine"),
    *("the proxy's port", "raising a capability", "capabilities on a file"),
    "the keyring of this machine",
    *(
        f"call {name}"
        for name in (
            *("ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "bpf"),
            *("add_key", "request_key", "keyctl", "mount", "umount2", "pivot_root", "chroot"),
            *("move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "setns"),
            *("open_by_handle_at", "sethostname", "shmget", "msgget", "semget", "clone3"),
            "memfd_create",
        )
    ),
}
"""What succeeds in a bare namespace; the rest needs root, or a machine that has such a thing."""
SHOWN_WITHOUT_NAMESPACE = {
    *("a process of this machine", "the environment of this machine"),
    *("an abstract socket of this machine", "new privileges by a setuid program"),
}
"""What a bare namespace already stops, and succeeds where there is none."""


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
    said = subprocess.run(
        [*user, *argv, *walls.arguments(chosen, told)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    outcomes: dict[str, int] = json.loads(said.stdout)
    return outcomes


def test_most_attempts_succeed_where_there_is_no_wall() -> None:
    """The control: in a bare namespace of an ordinary user the same program gets through."""
    bare = ["unshare", "--user", "--map-root-user", "--mount", "--net", "--pid", "--fork"]
    bare += ["--ipc", "--uts", "--mount-proc", "--kill-child", "--"]
    with walls.canaries() as told:
        seen = control(walls.attempts(), bare, told)

    assert {name for name in SHOWN_BY_CONTROL if seen[name] not in REACHED} == set()
    assert seen.keys() == walls.attempts().keys()


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
