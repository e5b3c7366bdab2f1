from __future__ import annotations

import os
from typing import TYPE_CHECKING

from opencode_magic.local import image
from opencode_magic.local.isolation import SandboxSpec
from opencode_magic.local.keeper import Keeper, KeeperPlace
from tests.local import keepers
from tests.local.keepers import Sandbox

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = """
import os
os.makedirs('/vercel/closed/in')
open('/vercel/closed/in/f', 'w').close()
os.symlink('/', '/vercel/root')
os.symlink('/etc/passwd', '/vercel/closed/passwd')
open(b'/vercel/odd \\xff\\n name', 'w').close()
open('/vercel/-rf', 'w').close()
os.mkfifo('/vercel/fifo')
os.chdir('/vercel')
for _ in range(3000):
    os.mkdir('deep'); os.chdir('deep')
os.chmod('/vercel/closed', 0)
"""


def test_a_hostile_tree_is_removed_whole(tmp_path: Path) -> None:
    """Trees deeper than Python's recursion, closed folders, links and odd names all go."""
    tmp_path.chmod(0o755)
    kept = tmp_path / "kept"
    kept.write_text("kept")
    with keepers.sandbox() as made:
        assert made.python(HOSTILE) == (0, "")
        (made.folder / "out").symlink_to(kept)
        made.keeper.close()
        image.remove(made.folder)

        assert not made.folder.exists()
    assert kept.read_text() == "kept"
    image.remove(made.folder)


def test_an_ordinary_user_removes_it_too() -> None:
    """The owner of closed folders opens them first."""
    program = """
import os, pathlib
from opencode_magic.local import image
top = pathlib.Path(os.environ["BASE"], "top")
(top / "closed/in").mkdir(parents=True)
(top / "closed").chmod(0)
image.remove(top)
print(top.exists())
"""

    assert keepers.run_as_ordinary_user(program) == "False\n"


def test_a_hostile_tree_can_be_entered_again(tmp_path: Path) -> None:
    """A kept folder changes its owner without following links, however deep it is."""
    tmp_path.chmod(0o755)
    boxes = tmp_path / "boxes"
    outside = tmp_path / "outside"
    outside.touch()
    for program, said in ((HOSTILE, ""), ("import os; print(len(os.listdir('/vercel')))", "6\n")):
        keeper = Keeper.start(KeeperPlace(boxes), SandboxSpec("h", boxes / "h"))
        assert Sandbox(keeper, boxes / "h").python(program) == (0, said)
        keeper.close()
        if said == "":
            (boxes / "h/home/closed").chmod(0o755)
            (boxes / "h/home/closed/out").symlink_to(outside)

    assert outside.stat().st_uid == os.geteuid()
    image.remove(boxes)


def test_the_environment_names_no_proxy_and_trusts_our_bundle() -> None:
    """Variables point every program at the bundle; OpenCode is on PATH where it is given."""
    plain, full = image.environment(has_opencode=False), image.environment(has_opencode=True)

    assert not [name for name in full if "proxy" in name.lower()]
    assert {full[name] for name in full if name.endswith(("CERTS", "BUNDLE", "CAINFO"))} == {
        image.CA_BUNDLE
    }
    assert image.OPENCODE_FOLDER in full["PATH"].split(":")
    assert image.OPENCODE_FOLDER not in plain["PATH"].split(":")
