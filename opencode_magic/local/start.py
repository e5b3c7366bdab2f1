"""Start a keeper's process: two levels of bubblewrap for a user, three for root.

Root first binds what the keeper needs from folders that only root may enter, then drops to a
spare user id, so that no process of a sandbox is the kernel's user 0.
"""

from __future__ import annotations

import os
import pwd
import queue
import secrets
import shutil
import subprocess
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opencode_magic.errors import HomeUnavailableError
from opencode_magic.local import image, isolation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opencode_magic.local.cgroups import Cgroups

_BARE_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"}
_HIGH_UIDS = range(1_900_000_000, 1_900_065_536)
_LOW_UIDS = range(62_000, 64_000)
_CAP_SYS_ADMIN = 21


@dataclass(frozen=True, slots=True)
class KeeperPlace:
    """What a keeper needs to know before there is a sandbox for it."""

    sandboxes: Path
    """Every sandbox's folder stands under this one. Made where it is missing."""
    opencode: Path | None = None
    """The binary that sandboxes may be given."""
    cgroups: Cgroups | None = None
    """Who makes a control group for each; None leaves memory to the watchdog alone."""


def program(name: str) -> str:
    """Give the absolute path of a program of the host.

    Raises:
        HomeUnavailableError: It is not installed.
    """
    found = shutil.which(name, path=_BARE_ENVIRONMENT["PATH"])
    if found is None:
        package = {"bwrap": "bubblewrap", "setpriv": "util-linux"}.get(name, name)
        raise HomeUnavailableError(
            f"{name!r} is not installed", next_step=f"install the package {package!r}"
        )
    return found


def as_owner_of_all() -> list[str]:
    """Give the start of a command line that may read and change all files of this user.

    They are the user's own: it is root of a user namespace in which nobody else has any.

    Raises:
        HomeUnavailableError: bubblewrap is not installed.
    """
    rights = ("CAP_DAC_OVERRIDE", "CAP_FOWNER")
    words = ["--unshare-user", "--uid", "0", "--gid", "0", "--die-with-parent", "--bind", "/", "/"]
    for right in rights:
        words += ["--cap-add", right]
    return [program("bwrap"), *words, "--"]


def all_reading() -> list[str]:
    """Give the start of a command line that reads what this user's own files forbid even to it.

    Root needs none.

    Raises:
        HomeUnavailableError: Bubblewrap is not installed.
    """
    if os.geteuid() == 0:
        return []
    user = ["--unshare-user", "--uid", "0", "--gid", "0", "--cap-drop", "ALL"]
    user += ["--cap-add", "CAP_DAC_READ_SEARCH", "--die-with-parent"]
    return [program("bwrap"), *user, "--dev-bind", "/", "/", "--"]


def spare_uid() -> int | None:
    """Give a user id that nobody has, where this process is root; else None.

    A root that only a user namespace calls so, with no other user id in it, counts as the
    ordinary user that it is to the kernel.

    Raises:
        HomeUnavailableError: This process is the kernel's own root and there is no other user.
    """
    if os.geteuid() != 0:
        return None
    extents = _uid_map()
    for uids in (_HIGH_UIDS, _LOW_UIDS):
        if any(first <= uids.start and uids.stop <= first + count for first, _, count in extents):
            return _unused(uids)
    if any(first == 0 and outside != 0 for first, outside, _ in extents):
        return None
    raise HomeUnavailableError(
        "this is root, in a user namespace that has no other user for the agent to be",
        next_step="start the notebook as an ordinary user",
    )


def _unused(uids: range) -> int:
    while True:
        uid = uids[secrets.randbelow(len(uids))]
        try:
            pwd.getpwuid(uid)
        except KeyError:
            return uid


def _uid_map() -> list[tuple[int, int, int]]:
    """Give the extents of this process's user namespace: first id here, outside, how many."""
    lines = Path("/proc/self/uid_map").read_text().splitlines()
    return [
        (first, outside, count) for first, outside, count in (map(int, x.split()) for x in lines)
    ]


def can_mount() -> bool:
    """Whether this process has CAP_SYS_ADMIN, which root in a container often lacks."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False


def command(place: KeeperPlace, uid: int | None, control_fd: int) -> list[str]:
    """Give the whole command line that ends in the keeper's program."""
    package = Path(__file__).resolve().parents[1]
    python = image.base_python()
    start = (
        f"import sys; sys.path.append({str(package.parent)!r}); "
        f"from opencode_magic.local.keeper_inside import main; sys.exit(main({control_fd}))"
    )
    keeper = [program("bwrap"), *isolation.keeper_arguments(), "--"]
    keeper += [str(python), "-I", "-S", "-B", "-c", start]
    if uid is None:
        return keeper
    drop = [program("setpriv"), f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    drop += ["--inh-caps=-all", "--bounding-set=-all", "--"]
    binds = _needed(place, package, python)
    _check_readable([Path(__file__), *(path for path, how in binds if how == "--ro-bind")])
    closed = {path: folder for path, _ in binds if (folder := image.closed_ancestor(path))}
    if not closed:
        return [*drop, *keeper]
    if not can_mount():
        path, folder = next(iter(closed.items()))
        raise HomeUnavailableError(
            f"the agent, who is not root, could not reach {str(path)!r}",
            next_step=f"chmod o+x {folder}, or start the notebook as an ordinary user",
        )
    reach = reach_arguments([bind for bind in binds if bind[0] in closed], closed)
    return [program("bwrap"), "--die-with-parent", *reach, "--", *drop, *keeper]


def _needed(place: KeeperPlace, package: Path, python: Path) -> list[tuple[Path, str]]:
    """Give every path that a keeper must reach, and how it is bound."""
    prefix = Path(sys.base_prefix).resolve()
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    libraries = [Path(source) for source, _ in image.own_python().binds]
    read_only = [package, python, prefix / "lib" / version, *libraries]
    read_only += [place.opencode] if place.opencode else []
    binds = [(path, "--ro-bind") for path in dict.fromkeys(read_only) if path.exists()]
    return [*binds, (place.sandboxes, "--bind")]


def _check_readable(paths: Sequence[Path]) -> None:
    """Refuse where the spare user could not read what it needs, as after an install under 077."""
    for path in paths:
        if not path.stat().st_mode & 0o004:
            raise HomeUnavailableError(
                f"the sandbox's keeper, who is not root, may not read {str(path)!r}",
                next_step=f"chmod -R o+rX {path.parent if path.is_file() else path}",
            )


def reach_arguments(binds: Sequence[tuple[Path, str]], closed: Mapping[Path, Path]) -> list[str]:
    """Give bubblewrap's options that let a spare user reach what lies in root's own folders.

    Each closed folder is covered by an open, empty one, and what is needed is bound into that.
    """
    words = ["--dev-bind", "/", "/"]
    made: set[Path] = set()
    for folder in dict.fromkeys(closed.values()):
        words += ["--perms", "0755", "--tmpfs", str(folder)]
        made.add(folder)
    for path, how in sorted(binds):
        for parent in reversed(path.parents):
            if parent not in made and any(top in parent.parents for top in made):
                words += ["--perms", "0755", "--dir", str(parent)]
                made.add(parent)
        words += [how, str(path), str(path)]
    return words


def popen(argv: Sequence[str], *, fds: Sequence[int], stderr: int) -> subprocess.Popen[bytes]:
    """Start a process from the one thread that lives as long as this process does.

    A process that dies with its parent dies with the *thread* that started it. Its own process
    session keeps a notebook's Interrupt away from it.
    """
    return _starter().run(
        lambda: subprocess.Popen(
            argv,
            env=_BARE_ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=fds,
            start_new_session=True,
        )
    )


class _Starter:
    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[
            tuple[Future[subprocess.Popen[bytes]], Callable[[], subprocess.Popen[bytes]]]
        ] = queue.SimpleQueue()
        self.pid = os.getpid()
        threading.Thread(target=self._serve, name="keeper-starter", daemon=True).start()

    def run(self, call: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        future: Future[subprocess.Popen[bytes]] = Future()
        self._calls.put((future, call))
        return future.result()

    def _serve(self) -> None:
        while True:
            future, call = self._calls.get()
            try:
                future.set_result(call())
            except OSError as exc:
                future.set_exception(exc)


_starter_lock = threading.Lock()
_starters: list[_Starter] = []


def _starter() -> _Starter:
    with _starter_lock:
        if not _starters or _starters[-1].pid != os.getpid():
            _starters[:] = [_Starter()]
        return _starters[0]


def unavailable(errors: bytes) -> HomeUnavailableError:
    """Give the error for walls that were not built, with what was said about it."""
    said = errors.decode(errors="replace").strip() or "it ended without a word"
    return HomeUnavailableError(
        f"the sandbox's walls cannot be built here: {said}",
        next_step="python -m opencode_magic.local doctor says what is missing",
    )
