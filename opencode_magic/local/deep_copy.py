"""Copies a tree whose paths are longer than a path may be, folder by folder.

`cp` names every file by its whole path, so it stops at PATH_MAX (4,096 bytes); programs can make
deeper trees all the same. Here each file is named within its folder, which is open.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK_BYTES = 1 << 30


def copy_deep(source: Path, target: Path) -> None:
    """Copy a folder's content with modes, owners, links, holes and times.

    What stands in the target already stays, unless it has the same name. Nobody may change either
    tree meanwhile.

    Raises:
        OSError: A file cannot be read, or the disk is full; names the file.
    """
    target.mkdir(mode=0o700, exist_ok=True)
    walk = _Walk(os.open(source, _FOLDER), os.open(target, _FOLDER))
    try:
        walk.run()
    except OSError as exc:
        raise OSError(exc.errno, os.strerror(exc.errno or 0), walk.place) from exc
    finally:
        walk.close()


@dataclass(slots=True)
class _Level:
    """A folder on the way down."""

    name: str
    rest: list[str]
    """Of its entries, those that are still to be copied."""


class _Walk:
    """Two open folders that go down and up together; so two descriptors do for any depth."""

    def __init__(self, source: int, target: int) -> None:
        self._source, self._target = source, target
        self._levels = [_Level("", os.listdir(source))]
        self._name = ""
        self._linked: dict[tuple[int, int], tuple[str, ...]] = {}
        """Where the first name of each file with several stands."""
        self._top = os.open(".", _FOLDER, dir_fd=target)

    @property
    def place(self) -> str:
        """Where it is, from the top."""
        names = [level.name for level in self._levels if level.name]
        return "/".join([*names, self._name] if self._name else names)

    def run(self) -> None:
        """Copy everything."""
        while True:
            level = self._levels[-1]
            if level.rest:
                self._name = level.rest.pop()
                self._copy(self._name)
                continue
            self._name = ""
            _finish(self._source, self._target)
            if len(self._levels) == 1:
                return
            self._move("..", "..")
            self._levels.pop()

    def close(self) -> None:
        """Close the folders."""
        for fd in (self._source, self._target, self._top):
            os.close(fd)

    def _copy(self, name: str) -> None:
        found = os.lstat(name, dir_fd=self._source)
        if stat.S_ISDIR(found.st_mode):
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=self._target)
            self._move(name, name)
            self._levels.append(_Level(name, os.listdir(self._source)))  # noqa: PTH208 - an open folder
            return
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._target)
        if found.st_nlink > 1 and not self._is_first(name, found):
            return
        self._make(name, found)

    def _make(self, name: str, found: os.stat_result) -> None:
        if stat.S_ISREG(found.st_mode):
            _copy_file(name, self._source, self._target)
            return
        if stat.S_ISLNK(found.st_mode):
            os.symlink(os.readlink(name, dir_fd=self._source), name, dir_fd=self._target)
        else:
            os.mknod(name, found.st_mode, dir_fd=self._target)
        with suppress(PermissionError):
            os.chown(name, found.st_uid, found.st_gid, dir_fd=self._target, follow_symlinks=False)
        times = (found.st_atime_ns, found.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=self._target, follow_symlinks=False)

    def _is_first(self, name: str, found: os.stat_result) -> bool:
        """Whether a file with several names is met first; else it gets one more name here."""
        key = (found.st_dev, found.st_ino)
        here = (*(level.name for level in self._levels if level.name), name)
        first = self._linked.setdefault(key, here)
        if first is here:
            return True
        fd = os.dup(self._top)
        try:
            for folder in first[:-1]:
                fd = _instead(fd, os.open(folder, _FOLDER, dir_fd=fd))
            os.link(first[-1], name, src_dir_fd=fd, dst_dir_fd=self._target, follow_symlinks=False)
        finally:
            os.close(fd)
        return False

    def _move(self, source: str, target: str) -> None:
        self._source = _instead(self._source, os.open(source, _FOLDER, dir_fd=self._source))
        self._target = _instead(self._target, os.open(target, _FOLDER, dir_fd=self._target))


def _instead(old: int, new: int) -> int:
    os.close(old)
    return new


def _copy_file(name: str, source_dir: int, target_dir: int) -> None:
    flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    source = os.open(name, os.O_RDONLY | flags, dir_fd=source_dir)
    try:
        made = os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags
        target = os.open(name, made, 0o600, dir_fd=target_dir)
        try:
            _copy_bytes(source, target)
            _finish(source, target)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _copy_bytes(source: int, target: int) -> None:
    """Copy what is written in a file, and leave its holes."""
    size, at = os.fstat(source).st_size, 0
    os.ftruncate(target, size)
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
            end = os.lseek(source, at, os.SEEK_HOLE)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # nothing but a hole to the end
                return
            raise
        os.lseek(source, at, os.SEEK_SET)
        os.lseek(target, at, os.SEEK_SET)
        while at < end:
            count = _give(source, target, min(end - at, _CHUNK_BYTES))
            if not count:
                return
            at += count


def _give(source: int, target: int, count: int) -> int:
    try:
        return os.copy_file_range(source, target, count)
    except OSError as exc:
        if exc.errno not in {errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
        return os.sendfile(target, source, None, count)


def _finish(source: int, target: int) -> None:
    """Give an open file or folder the owner, mode, attributes and times of another."""
    found = os.fstat(source)
    with suppress(PermissionError):
        os.fchown(target, found.st_uid, found.st_gid)
    with suppress(OSError):
        for name in os.listxattr(source):
            with suppress(OSError):
                os.setxattr(target, name, os.getxattr(source, name))
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
