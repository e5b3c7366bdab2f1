"""The server's state on disk: what stands, what was saved, and what was kept of ended sandboxes.

Under the state folder: ``sandboxes/NAME.json``, ``boxes/ID/`` with a sandbox's files,
``snapshots/ID.json`` and ``ID/``, and ``kept/NAME/`` with the agent's files of a removed sandbox.
Every file is written beside its place and moved there, so a crash leaves the old or the new one.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from opencode_magic.errors import PolicyError, SandboxError
from opencode_magic.local import image, start
from opencode_magic.local.deep_copy import copy_deep
from opencode_magic.local.state import (
    Sandbox,
    Session,
    Snapshot,
    known,
    sandbox_from_json,
    sandbox_to_json,
    session_from_json,
    session_to_json,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEPT_MS = 7 * 24 * 3_600_000
SETTLED_MS = 120_000
_TOO_LONG = ": File name too long"
CACHE_NAMES = (".cache", ".npm", ".bun")
"""Folders of a home that hold nothing of the agent's work."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """The agent's files of a removed sandbox."""

    name: str
    path: str
    files: int
    size_bytes: int
    kept_ms: int
    until_ms: int

    def to_json(self) -> dict[str, object]:
        """Give the wire and disk form."""
        return asdict(self)


class Store:
    """Reads and writes the state folder. Not safe for two servers: the lock file sees to that."""

    def __init__(self, state_dir: Path) -> None:
        self.boxes = state_dir / "boxes"
        self._sandboxes = state_dir / "sandboxes"
        self._snapshots = state_dir / "snapshots"
        self._kept = state_dir / "kept"
        for folder in (self.boxes, self._sandboxes, self._snapshots, self._kept):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def save(self, sandbox: Sandbox, sessions: list[Session]) -> None:
        """Write a sandbox with its sessions, oldest first."""
        body = {
            "sandbox": sandbox_to_json(sandbox),
            "sessions": [session_to_json(session) for session in sessions],
        }
        write_json(self._sandboxes / f"{sandbox.name}.json", body)

    def forget(self, name: str) -> None:
        """Remove a sandbox's record."""
        (self._sandboxes / f"{name}.json").unlink(missing_ok=True)

    def load(self) -> Iterator[tuple[Sandbox, list[Session]]]:
        """Read every sandbox. A record that cannot be read is put aside, never deleted."""
        for path in sorted(self._sandboxes.glob("*.json")):
            try:
                body = json.loads(path.read_bytes())
                sandbox = sandbox_from_json(body["sandbox"])
                sessions = [session_from_json(item) for item in body["sessions"]]
            except (OSError, ValueError, TypeError, KeyError, PolicyError):
                with suppress(OSError):
                    path.rename(path.with_suffix(".unreadable"))
                continue
            if sessions:
                yield sandbox, sessions

    def save_snapshot(self, snapshot: Snapshot) -> None:
        """Write a snapshot's record."""
        write_json(self._snapshots / f"{snapshot.snapshot_id}.json", asdict(snapshot))

    def load_snapshots(self) -> Iterator[Snapshot]:
        """Read every snapshot whose files stand."""
        for path in sorted(self._snapshots.glob("*.json")):
            with suppress(OSError, ValueError, TypeError):
                fields = known(Snapshot, json.loads(path.read_bytes()))
                # The file is our own, in a folder that only the user can write.
                snapshot = Snapshot(**fields)  # type: ignore[arg-type] # see above
                if self.snapshot_folder(snapshot.snapshot_id).is_dir():
                    yield snapshot

    def snapshot_folder(self, snapshot_id: str) -> Path:
        """Give where a snapshot's files stand."""
        return self._snapshots / snapshot_id

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot's record and files."""
        (self._snapshots / f"{snapshot_id}.json").unlink(missing_ok=True)
        remove_tree(self.snapshot_folder(snapshot_id))

    def keep(self, name: str, home: Path, now_ms: int) -> Kept | None:
        """Move the agent's files to the kept ones.

        Returns:
            None where there is no file but caches; the folder is then left as it is.
        """
        if not home.is_dir():
            return None
        for cache in CACHE_NAMES:
            remove_tree(home / cache)
        files, size_bytes = measure(home)
        if not files:
            return None
        folder = self._free_kept_folder(name)
        folder.mkdir(mode=0o700)
        kept = Kept(name, str(folder / "files"), files, size_bytes, now_ms, now_ms + KEPT_MS)
        # Written first: what a crash leaves between the two is swept when its time is over.
        write_json(folder / "kept.json", kept.to_json())
        home.rename(folder / "files")
        return kept

    def kept(self) -> list[Kept]:
        """Give what is kept and still there, oldest first."""
        found = []
        for path in self._kept.glob("*/kept.json"):
            with suppress(OSError, ValueError, TypeError):
                # Our own file, as for snapshots.
                kept = Kept(**known(Kept, json.loads(path.read_bytes())))  # type: ignore[arg-type]
                if os.path.isdir(kept.path):  # noqa: PTH112 - text
                    found.append(kept)
        return sorted(found, key=lambda kept: kept.kept_ms)

    def recover(self) -> None:
        """Remove what a server that was killed left half done. Before anything else is done.

        That is folders of snapshots without a record, records that were not in their place yet,
        and places for kept files that were not moved there. Folders of sandboxes: see `sweep`.
        """
        for half in (*self._sandboxes.glob("*.tmp"), *self._snapshots.glob("*.tmp")):
            half.unlink(missing_ok=True)
        for folder in self._snapshots.iterdir():
            if folder.is_dir() and not folder.with_suffix(".json").exists():
                remove_tree(folder)
        for folder in self._kept.iterdir():
            if not (folder / "files").is_dir():
                remove_tree(folder)

    def sweep(self, box_ids: set[str], now_ms: int, *, started_ms: int = 0) -> None:
        """Remove what nothing refers to: boxes beside the given ones, and kept files past due.

        A folder that was made a moment ago may belong to a sandbox that is being created, unless
        it is older than this server; one that a record names which cannot be read is left to
        whoever can.
        """
        settled_ms = max(started_ms, now_ms - SETTLED_MS)
        aside = [_text_of(path) for path in self._sandboxes.glob("*.unreadable")]
        for folder in self.boxes.iterdir():
            is_settled = folder.lstat().st_mtime * 1000 < settled_ms
            is_named = any(folder.name in text for text in aside)
            if folder.name not in box_ids and is_settled and not is_named:
                remove_tree(folder)
        for kept in self.kept():
            if kept.until_ms <= now_ms:
                remove_tree(self._kept / os.path.basename(os.path.dirname(kept.path)))  # noqa: PTH119, PTH120 - text, not a path to follow

    def _free_kept_folder(self, name: str) -> Path:
        folder, number = self._kept / name, 1
        while folder.exists():
            number += 1
            folder = self._kept / f"{name}-{number}"
        return folder


def _text_of(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder with modes, owners, links and times; shares blocks where the disk can.

    Where the target stands already, what is in it stays, unless it has the same name.

    Raises:
        SandboxError: The disk is full, or a file cannot be read.
    """
    copy = ["cp", "-a", "--reflink=auto", "-T", "--", str(source), str(target)]
    done = _run(copy)
    if done.returncode and b"Permission denied" in done.stderr and os.geteuid():
        # A file may be closed even to its owner: as root of a namespace of its own he reads it.
        done = _run([*start.as_owner_of_all(), *copy])
    if not done.returncode:
        return
    lines = done.stderr.decode(errors="replace").strip().splitlines() or ["cp: cp failed"]
    trouble = next((line for line in lines if not line.endswith(_TOO_LONG)), "")
    if not trouble:
        # What `cp` could reach stands there by now, and is copied once more.
        try:
            copy_deep(source, target)
        except OSError as exc:
            remove_tree(target)
            place = _short(str(exc.filename or ""))
            raise SandboxError(f"the files could not be copied: {place!r}: {exc.strerror}") from exc
        return
    remove_tree(target)
    raise SandboxError(f"the files could not be copied: {_trouble(trouble, source, target)}")


def _trouble(line: str, *ours: Path) -> str:
    """Give what `cp` said without our own folders, and no more of a path than can be read."""
    for folder in ours:
        line = line.replace(f"{folder}/", "").replace(str(folder), folder.name)
    return re.sub(r"'([^']+)'", lambda found: repr(_short(found[1])), line.removeprefix("cp: "))


def _short(path: str) -> str:
    most = 60
    return path if len(path) <= 2 * most else f"{path[:most]}...{path[-most:]}"


def _run(argv: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )


def remove_tree(folder: Path) -> None:
    """Remove a folder, also where its owner took away the right to. Links are not followed."""
    if folder.is_symlink() or not folder.is_dir():
        with suppress(OSError):
            folder.unlink(missing_ok=True)
        return
    try:
        image.remove(folder)
    except (OSError, subprocess.SubprocessError) as exc:
        log.warning("a folder could not be removed: %s", exc)


def measure(folder: Path) -> tuple[int, int]:
    """Count the regular files below a folder and their bytes. Links are not followed.

    By `find`: a tree may be deeper than a walk in Python gets, and its paths longer than a path
    may be. Where there is none, or a lesser one, what a walk finds is better than nothing.
    """
    sizes = _find_sizes(folder) or list(_walk_sizes(folder))
    return len(sizes), sum(sizes)


def _find_sizes(folder: Path) -> list[int]:
    argv = ["find", str(folder), "-type", "f", "-printf", "%s\n"]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except FileNotFoundError:
        return []
    return [int(line) for line in done.stdout.splitlines()]


def _walk_sizes(folder: Path) -> Iterator[int]:
    with suppress(RecursionError):
        for root, _, names in os.walk(folder):
            for name in names:
                with suppress(OSError):
                    status = os.lstat(os.path.join(root, name))  # noqa: PTH118 - many files; text is faster
                    if stat.S_ISREG(status.st_mode):
                        yield status.st_size


def write_json(path: Path, body: object) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(body, file)
    beside.replace(path)
