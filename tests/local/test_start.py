from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from opencode_magic.errors import HomeUnavailableError
from opencode_magic.local import start
from opencode_magic.local.start import KeeperPlace
from tests.local import keepers

if TYPE_CHECKING:
    from pathlib import Path

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="it is about what root can do")
WITHOUT_MOUNT = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all", "--"]
MAPPED_ROOT = ["unshare", "--user", "--map-root-user", "--"]
ONE_COMMAND = """
import json, os, pathlib
from opencode_magic.local import start
from opencode_magic.local.commands import CommandSpec, run
from opencode_magic.local.isolation import SandboxSpec
from opencode_magic.local.keeper import Keeper, KeeperPlace
boxes = pathlib.Path(os.environ["BASE"], "boxes")
keeper = Keeper.start(KeeperPlace(boxes), SandboxSpec("s", boxes / "s"))
command = run(keeper, CommandSpec(["id", "-u"]), {"PATH": "/usr/bin:/bin"})
command.wait(20)
print(json.dumps([command.outputs()[0].data.decode(), keeper.uid, start.can_mount()]))
keeper.close()
"""


def test_root_of_a_user_namespace_is_the_user_that_it_is() -> None:
    """Where only a namespace calls us root, and has no other user, no other user is needed."""
    said = json.loads(keepers.run_as_ordinary_user(ONE_COMMAND, within=MAPPED_ROOT))

    assert said == ["1000\n", 0, True]


@only_root
def test_the_kernels_root_without_another_user_is_refused() -> None:
    """Where the kernel's root has no other user to be, nothing is launched: never as root."""
    program = (
        "from opencode_magic.local import start\n"
        "try: start.spare_uid()\n"
        "except Exception as exc: print(type(exc).__name__, exc.next_step)"
    )
    said = keepers.run_with_a_copy(MAPPED_ROOT, program)

    assert said == "HomeUnavailableError start the notebook as an ordinary user\n"


@only_root
def test_root_without_the_right_to_mount_can_launch() -> None:
    """Root in a container that may not mount still drops to a spare user, and works."""
    output, uid, can_mount = json.loads(keepers.run_with_a_copy(WITHOUT_MOUNT, ONE_COMMAND))

    assert (output, can_mount) == ("1000\n", False)
    assert uid not in {0, 1000}


@only_root
def test_root_without_the_right_to_mount_needs_open_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where folders are closed and nothing can be mounted, the error names the folder."""
    tmp_path.chmod(0o700)
    monkeypatch.setattr(start, "can_mount", lambda: False)

    with pytest.raises(HomeUnavailableError, match=r"could not reach .* chmod o\+x "):
        start.command(KeeperPlace(tmp_path / "boxes"), 62_001, 3)


@only_root
def test_what_only_root_may_read_is_named(tmp_path: Path) -> None:
    """A binary that the spare user may not read is refused with the command that opens it."""
    tmp_path.chmod(0o755)
    binary = tmp_path / "opencode"
    binary.touch(mode=0o700)

    with pytest.raises(HomeUnavailableError, match=f"may not read .*chmod -R o\\+rX {tmp_path}"):
        start.command(KeeperPlace(tmp_path / "boxes", binary), 62_001, 3)


@only_root
def test_a_spare_user_is_nobodys() -> None:
    """The spare user id is in no table of users, and is another one each time."""
    uids = {start.spare_uid() for _ in range(20)}

    assert len(uids) > 15
    assert None not in uids


def test_the_doctor_tells_switched_off_namespaces() -> None:
    """On a machine whose user namespaces are switched off, launch refuses and doctor says why."""
    program = """
import json, os, pathlib
pathlib.Path("/proc/sys/user/max_user_namespaces").write_text("0")
from opencode_magic.errors import HomeUnavailableError
from opencode_magic.local.doctor import checks
from opencode_magic.local.keeper import Keeper, KeeperPlace
(check,) = [check for check in checks() if check.name == "User namespaces"]
try: Keeper.prepare(KeeperPlace(pathlib.Path(os.environ["BASE"], "boxes")))
except HomeUnavailableError as exc: refused = exc.message
print(json.dumps([check.state, check.next_step, refused]))
"""
    state, step, refused = json.loads(keepers.run_as_ordinary_user(program, within=MAPPED_ROOT))

    assert (state, step) == ("blocked", "sudo sysctl -w user.max_user_namespaces=15000")
    assert "bwrap" in refused
