"""What a sandbox starts with: a git repository or a tarball, fetched inside, under its policy."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opencode_magic.errors import OpencodeMagicError
from opencode_magic.local import commands, image
from opencode_magic.local.payloads import CWD, ApiError, bad_request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opencode_magic.local.box import Box

FETCH_TIMEOUT_S = 240.0
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,200}")
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}")
_GIT_SCRIPT = """\
set -e
helper='!f() { echo "username=$SOURCE_USERNAME"; echo "password=$SOURCE_PASSWORD"; }; f'
git init -q "$1"
cd "$1"
git remote add origin "$2"
[ -n "$SOURCE_PASSWORD" ] || helper=
git -c "credential.helper=$helper" fetch -q ${4:+--depth "$4"} origin "${3:-HEAD}"
git checkout -q -B "${3:-main}" FETCH_HEAD
"""
_TARBALL_SCRIPT = """\
set -e
"$2" -I -c '
import shutil, sys, urllib.request
with urllib.request.urlopen(sys.argv[1], timeout=30) as answer, open(sys.argv[2], "wb") as file:
    shutil.copyfileobj(answer, file)
' "$1" /var/tmp/source.tar.gz
tar --extract --gzip --no-same-owner -C "$3" --file /var/tmp/source.tar.gz
rm /var/tmp/source.tar.gz
"""


@dataclass(frozen=True, slots=True)
class GitSource:
    """A repository, fetched into a folder of its name below the home."""

    url: str
    depth: int | None = None
    revision: str = ""
    username: str = ""
    password: str = field(default="", repr=False)

    @property
    def folder(self) -> str:
        """The last part of the address, as git itself would name the folder."""
        name = urlsplit(self.url).path.rstrip("/").rpartition("/")[2].removesuffix(".git")
        return name if _FOLDER.fullmatch(name) else "source"


@dataclass(frozen=True, slots=True)
class TarballSource:
    """A gzip'd tar, unpacked into the home."""

    url: str


Source = GitSource | TarballSource
"""What is fetched when a sandbox starts. A snapshot is not: its files are there before."""


def parse_source(body: Mapping[str, object]) -> Source:
    """Parse a create body's git or tarball source.

    Raises:
        ApiError: It is malformed, or its address is no http address.
    """
    texts = {name: body.get(name) or "" for name in ("url", "revision", "username", "password")}
    if not all(isinstance(item, str) and "\0" not in item for item in texts.values()):
        raise bad_request("a source's fields must be text")
    url, revision, username, password = (str(item) for item in texts.values())
    if not url.startswith(("https://", "http://")):
        raise bad_request("source.url must be an http address")
    if body.get("type") == "tarball":
        return TarballSource(url)
    if revision and not _REVISION.fullmatch(revision):
        raise bad_request("source.revision is not a branch, a tag or a commit")
    depth = body.get("depth")
    if depth is not None and (not isinstance(depth, int) or isinstance(depth, bool) or depth < 1):
        raise bad_request("source.depth must be a positive number")
    return GitSource(url, depth, revision, username, password)


def fetch(box: Box, source: Source) -> None:
    """Fetch a source inside a sandbox that has just started.

    Raises:
        ApiError: It cannot be fetched, for example because the policy does not allow its host.
    """
    try:
        command = commands.run(box.keeper, _command(source), box.base_env)
    except OpencodeMagicError as exc:
        raise ApiError(400, "source_failed", f"the source cannot be fetched: {exc}") from exc
    code = command.wait(FETCH_TIMEOUT_S)
    if code is None:
        command.signal(9)
    if code != 0:
        text = b"".join(output.data for output in command.outputs()).decode(errors="replace")
        lines = text.strip().splitlines() or [f"exit code {code}" if code else "it took too long"]
        raise ApiError(400, "source_failed", f"the source cannot be fetched: {lines[-1]}")


def _command(source: Source) -> commands.CommandSpec:
    match source:
        case GitSource():
            depth = "" if source.depth is None else str(source.depth)
            argv = ("sh", "-c", _GIT_SCRIPT, "git-source", source.folder, source.url)
            return commands.CommandSpec(
                argv=(*argv, source.revision, depth),
                env={
                    "GIT_TERMINAL_PROMPT": "0",
                    "SOURCE_USERNAME": source.username,
                    "SOURCE_PASSWORD": source.password,
                },
                is_group_ended=True,
            )
        case TarballSource():
            python = image.inside_python().program
            script = ("sh", "-c", _TARBALL_SCRIPT, "tarball-source")
            return commands.CommandSpec(
                argv=(*script, source.url, python, CWD), is_group_ended=True
            )
