"""The workspace inside -> a copy of the agent's work in the user's state folder."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from opencode_magic.errors import SandboxConnectionError
from opencode_magic.sandbox.faults import as_connection_error
from opencode_magic.sandbox.output import SHELL, SYSTEM_FIRST, run_inside
from opencode_magic.settings import make_private_dir

if TYPE_CHECKING:
    from vercel.sandbox.sync import SyncSandboxRuntimeSession

    from opencode_magic.core.opencode import Place

WORK_LIMIT_BYTES = 256 * 1024 * 1024
KEPT_FOR_S = 7 * 24 * 3600.0
_CHUNK_BYTES = 1024 * 1024
_TOO_MUCH = 42

PREPARE = """\
set -e
work="$HOME/workspace"; own="$HOME/.opencode-magic"
mkdir -p "$work" "$own/tmp"; chmod 700 "$own"
cd "$work"
if [ ! -e .git ]; then
  git init -q -b main .
  git config user.name OpenCode
  git config user.email opencode@example.com
  git commit -q --allow-empty -m 'Start of the workspace'
fi
"""
"""Makes the workspace a git work tree with a first commit."""

_CHANGED = f"""\
{SYSTEM_FIRST}cd "$1" || exit 1
[ -n "$(git status --porcelain --ignored 2>/dev/null | head -n 1)" ] ||
  [ "$(git rev-list --all --count 2>/dev/null)" != 1 ]
"""
_PACK = f"""\
{SYSTEM_FIRST}cd "$1" || exit 1
[ "$(du -sk . | cut -f1)" -le {WORK_LIMIT_BYTES // 1024} ] || exit {_TOO_MUCH}
tar -czf "$2" -C "$1/.." workspace 2>"$2.said" || {{
  code=$?; tail -n 1 "$2.said" | cut -c 1-500 >&2; exit $code
}}
"""


def has_work(session: SyncSandboxRuntimeSession, place: Place) -> bool:
    """Whether anything in the workspace differs from how it began.

    Raises:
        SandboxConnectionError: The sandbox does not answer.
    """
    with as_connection_error():
        done = run_inside(session, SHELL, ["-c", _CHANGED, "sh", place.workspace], kill_after=10.0)
    return done.returncode == 0


def has_files(kept: str) -> bool:
    """Whether there is anything in a workspace that the local home keeps."""
    try:
        return any(path.name != ".git" for path in Path(kept, "workspace").iterdir())
    except OSError:
        return False


def keep(session: SyncSandboxRuntimeSession, place: Place, state_dir: Path, name: str) -> Path:
    """Copy the workspace out as ``kept/NAME/workspace.tar.gz``.

    Raises:
        SandboxConnectionError: The sandbox does not answer, or there is too much.
        SettingsError: The state folder cannot be made.
    """
    packed = f"{place.temporary}/.work.tar.gz"
    with as_connection_error():
        done = run_inside(
            session, SHELL, ["-c", _PACK, "sh", place.workspace, packed], kill_after=60.0
        )
        if done.returncode == _TOO_MUCH:
            raise _too_much()
        if done.returncode != 0:
            msg = f"the workspace could not be packed: {done.last_line or done.returncode}"
            raise SandboxConnectionError(msg)
        return _fetch(session, packed, state_dir, name)


def _too_much() -> SandboxConnectionError:
    msg = f"the workspace holds more than {WORK_LIMIT_BYTES // 1024**2} MB"
    return SandboxConnectionError(msg, next_step="fetch what you need first")


def forget_old(state_dir: Path) -> None:
    """Remove copies that are older than a week. Never raises."""
    for folder in (state_dir / "kept").glob("ocm-*"):
        path = folder / "workspace.tar.gz"
        try:
            if time.time() - path.stat().st_mtime > KEPT_FOR_S:
                path.unlink()
                folder.rmdir()
        except OSError:
            continue


def _fetch(session: SyncSandboxRuntimeSession, packed: str, state_dir: Path, name: str) -> Path:
    """Copy a file out piece by piece: what is inside decides neither memory nor disk here."""
    folder = make_private_dir(make_private_dir(state_dir / "kept") / name)
    path = folder / "workspace.tar.gz"
    left = WORK_LIMIT_BYTES
    with (
        session.fs.open(packed, "rb") as source,
        tempfile.NamedTemporaryFile(dir=folder, prefix=".new-", delete=False) as file,
    ):
        temporary = Path(file.name)
        try:
            while chunk := source.read(_CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    raise _too_much()
                file.write(chunk)
            file.close()  # Windows renames no open file
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return path
