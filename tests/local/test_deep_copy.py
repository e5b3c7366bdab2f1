"""Trees that are deeper than a path may be long, copied whole."""

from __future__ import annotations

import os
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest
from vercel.sandbox import sync as sdk

from opencode_magic.errors import SandboxError
from opencode_magic.local.deep_copy import copy_deep
from opencode_magic.local.store import copy_tree, measure, remove_tree

if TYPE_CHECKING:
    from pathlib import Path

NAME, DEPTH = "folder-with-a-long-name", 300
"""Together some 7,000 bytes, beyond PATH_MAX."""
MAKE = f"""
import os
for _ in range({DEPTH}):
    os.mkdir({NAME!r}); os.chdir({NAME!r})
open("deepest.txt", "w").write("kept")
os.chmod("deepest.txt", 0o640)
os.symlink("deepest.txt", "link")
"""
READ = f"""
import os
for _ in range({DEPTH}):
    os.chdir({NAME!r})
mode = os.stat("deepest.txt").st_mode & 0o777
print(open("link").read(), oct(mode), os.getuid() == os.stat(".").st_uid)
"""


def make_deep(top: Path) -> None:
    """Make a deep tree with one of each kind of file at its end."""
    top.mkdir()
    (top / "other").write_text("x")
    fd = os.open(top, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir(NAME, dir_fd=fd)
        fd = step(fd)
    write(fd, "plain", b"data" * 50_000, 0o751)
    write(fd, "sparse", b"end", 0o600, at=1 << 30)
    os.link("plain", "same", src_dir_fd=fd, dst_dir_fd=fd)
    os.symlink("nowhere", "link", dir_fd=fd)
    os.mkfifo("pipe", 0o600, dir_fd=fd)
    os.mkdir("closed", 0o500, dir_fd=fd)
    os.utime("plain", ns=(1, 2_000_000_003), dir_fd=fd)
    os.utime(fd, ns=(5, 6_000_000_007))
    os.close(fd)


def step(fd: int) -> int:
    """Go down by one folder."""
    below = os.open(NAME, os.O_RDONLY, dir_fd=fd)
    os.close(fd)
    return below


def write(folder: int, name: str, data: bytes, mode: int, *, at: int = 0) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=folder)
    os.pwrite(fd, data, at)
    os.fchmod(fd, mode)
    os.close(fd)


def look(top: Path) -> dict[str, tuple[object, ...]]:
    """Give what stands at the end of a deep tree."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(DEPTH):
        fd = step(fd)
    try:
        found: dict[str, tuple[object, ...]] = {}
        for name in sorted(os.listdir(fd)):  # noqa: PTH208 - an open folder
            status = os.lstat(name, dir_fd=fd)
            target = os.readlink(name, dir_fd=fd) if stat.S_ISLNK(status.st_mode) else ""
            size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
            links = 0 if stat.S_ISDIR(status.st_mode) else status.st_nlink
            found[name] = (status.st_mode, status.st_uid, size, links, status.st_mtime_ns, target)
        found["."] = (os.fstat(fd).st_mode, os.fstat(fd).st_mtime_ns)
        return found
    finally:
        os.close(fd)


def test_a_deep_tree_is_copied_whole(tmp_path: Path) -> None:
    """Modes, owners, times, links and pipes are there at any depth; a hole takes no disk."""
    source, target = tmp_path / "source", tmp_path / "target"
    make_deep(source)
    copy_tree(source, target)
    before, after = look(source), look(target)
    _, used = measure(target)
    blocks = subprocess.run(
        ["du", "-s", "--block-size=1", target], capture_output=True, check=True
    ).stdout.split()[0]
    remove_tree(target)
    remove_tree(source)

    assert after == before
    assert used > 1 << 30
    assert int(blocks) < 50_000_000
    assert not target.exists()


def test_two_names_of_one_file_stay_one_file(tmp_path: Path) -> None:
    """A file with names in several folders is one file in the copy too."""
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "a/b").mkdir(parents=True)
    (source / "c").mkdir()
    (source / "a/b/one").write_text("text")
    for name in ("two", "a/three", "c/four"):
        os.link(source / "a/b/one", source / name)
    copy_deep(source, target)
    inodes = {(target / name).stat().st_ino for name in ("a/b/one", "two", "a/three", "c/four")}

    assert len(inodes) == 1
    assert (target / "two").stat().st_nlink == 4


def test_what_stands_there_stays_unless_it_is_named_alike(tmp_path: Path) -> None:
    """The copy adds to a folder, and replaces what has the same name; links are not followed."""
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, target):
        folder.mkdir()
        (folder / "same").write_text(folder.name)
    (target / "own").write_text("own")
    (tmp_path / "outside").write_text("outside")
    (source / "through").write_text("in")
    (target / "through").symlink_to(tmp_path / "outside")
    copy_deep(source, target)

    assert {path.name: path.read_text() for path in target.iterdir()} == {
        "same": "source",
        "own": "own",
        "through": "in",
    }
    assert (tmp_path / "outside").read_text() == "outside"


def test_what_cannot_be_copied_is_named(tmp_path: Path) -> None:
    """The error names the file, as far as it can be read, and nothing of ours."""
    source, target = tmp_path / "source", tmp_path / "target"
    make_deep(source)
    target.mkdir()
    (target / NAME).write_text("a file in the place of a folder")
    with pytest.raises(SandboxError, match="could not be copied") as caught:
        copy_tree(source, target)
    remove_tree(source)

    assert NAME in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_our_own_folders_are_not_named(tmp_path: Path) -> None:
    """What is missing altogether is told by its last name."""
    with pytest.raises(SandboxError) as caught:
        copy_tree(tmp_path / "home", tmp_path / "target")

    assert str(caught.value) == (
        "the files could not be copied: cannot stat 'home': No such file or directory"
    )


def test_a_deep_tree_is_in_a_snapshot(client: sdk.SyncSandboxClient) -> None:
    """What an agent made deeper than a path can say is in the sandbox from its snapshot."""
    box = client.create_sandbox(name="deep", persistent=False)
    box.run_process("python3", ["-c", MAKE], check=True)
    snapshot = box.snapshot()
    copy = client.create_sandbox(
        name="copy", persistent=False, source=sdk.SnapshotSource(snapshot_id=snapshot.id)
    )
    text = copy.run_process("python3", ["-c", READ], capture_output=True).stdout
    copy.destroy()
    box.destroy(delete_orphan_snapshots=True)

    assert text == "kept 0o640 True\n"
