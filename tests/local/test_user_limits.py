"""What the kernel counts by user is not used up for the user that the sandbox shares."""

from __future__ import annotations

import json
from pathlib import Path

from opencode_magic.local import image
from tests.local import keepers

QUARTER = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text()) // 4
WATCHERS = r"""
import ctypes, errno, sys
libc, count = ctypes.CDLL(None, use_errno=True), 0
while count < 1000 and libc.inotify_init1(0o2000000) >= 0:
    count += 1
sys.stdout.write(f"{count} {errno.errorcode.get(ctypes.get_errno())}\n")
"""
PROGRAM = """
import ctypes, json, os, time
from pathlib import Path
from opencode_magic.local import image
from opencode_magic.local.commands import CommandSpec, run
from opencode_magic.local.isolation import SandboxSpec
from opencode_magic.local.keeper import Keeper, KeeperPlace
boxes = Path(os.environ["BASE"]) / "boxes"
keeper = Keeper.start(KeeperPlace(boxes), SandboxSpec("one", boxes / "one"))
source = {source!r} + "sys.stdout.flush(); input()"
argv = (image.inside_python().program, "-I", "-S", "-c", source)
holder = run(keeper, CommandSpec(argv, has_stdin=True), image.environment(has_opencode=False))
said = next(holder.follow()).data.decode()
mine = ctypes.CDLL(None).inotify_init1(0o2000000) >= 0
keeper.close()
print(json.dumps([said, mine]))
"""


def test_watchers_of_files_are_limited() -> None:
    """A program gets some, and an error beyond them."""
    with keepers.sandbox() as made:
        code, said = made.run(image.inside_python().program, "-I", "-S", "-c", WATCHERS)

    assert (code, said) == (0, f"{QUARTER} EMFILE\n")


def test_an_ordinary_user_keeps_some_watchers() -> None:
    """However many a sandbox takes, the user's own programs can still watch files."""
    program = PROGRAM.replace("{source!r}", repr(WATCHERS))
    said, is_left = json.loads(keepers.run_as_ordinary_user(program))

    assert said == f"{QUARTER} EMFILE\n"
    assert is_left


CLOSED = """
import json, os, sys
from pathlib import Path
from opencode_magic.local import image
from opencode_magic.local.commands import CommandSpec, run
from opencode_magic.local.isolation import Limits, SandboxSpec
from opencode_magic.local.keeper import Keeper, KeeperPlace
boxes = Path(os.environ["BASE"]) / "boxes"
spec = SandboxSpec("one", boxes / "one", limits=Limits(disk_bytes=100 << 20))
keeper = Keeper.start(KeeperPlace(boxes), spec)
script = (
    "for i in $(seq 60); do mkdir /vercel/d$i; head -c 20000000 /dev/zero > /vercel/d$i/f;"
    " chmod 0 /vercel/d$i; sleep 0.1; done"
)
filler = run(keeper, CommandSpec(("sh", "-c", script)), image.environment(has_opencode=False))
code = filler.wait(20)
keeper.close()
print(json.dumps([code, [breach.kind for breach in keeper.breaches][:1]]))
"""


def test_closed_folders_of_an_ordinary_user_are_counted() -> None:
    """A folder that its owner has closed, even to itself, takes as much of the disk."""
    assert json.loads(keepers.run_as_ordinary_user(CLOSED)) == [137, ["disk"]]
