"""The pinned release -> a verified OpenCode binary in the user's cache."""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import hashlib
import json
import os
import platform
import shutil
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from opencode_magic.core.opencode import BINARY_IN_TARBALL, VERSION, PlatformPackage, package_for
from opencode_magic.errors import BinaryError
from opencode_magic.sandbox import npm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opencode_magic.settings import Settings

NEEDED_BYTES = 320 * 1024 * 1024
"""The tarball (60 MB), the binary (185 MB), and room to breathe."""

_CHUNK_BYTES = 1024 * 1024
_NAME_FILE_STEP = "name a file in OPENCODE_MAGIC_BINARY"


@dataclass(frozen=True, slots=True)
class Binary:
    """A binary on this machine that may be given to a sandbox."""

    path: Path
    tarball: Path | None
    """Its package, smaller to upload; None for a file that the user named."""
    detail: str
    """How it is known to be the right one, for the launch step."""


def host_package() -> PlatformPackage:
    """Give the package for this Linux machine.

    Raises:
        BinaryError: No hash is known for it.
    """
    return package_for(
        platform.machine(),
        is_musl=platform.libc_ver()[0] not in {"glibc", ""},
        has_avx2=_has_avx2(),
    )


def ensure_binary(settings: Settings, package: PlatformPackage | None = None) -> Binary:
    """Give the verified binary, from the cache or fetched by npm; safe with two kernels at once.

    A file that the user named is taken as it is: it is never run outside a sandbox, and its
    version is checked by the health of the server inside.

    Args:
        settings: Where the cache stands, and the named file.
        package: By default the one for this machine.

    Raises:
        BinaryError: It cannot be had, or is not the pinned one; carries the next step.
    """
    if settings.binary is not None:
        return _named(settings.binary)
    package = package or host_package()
    folder = cache_folder(settings.cache_dir, package)
    tarball = folder / tarball_name(package)
    if _is_verified(folder, package):
        return Binary(folder / "opencode", tarball if tarball.is_file() else None, _FROM_CACHE)
    with _as_binary_error(settings.cache_dir):
        _make_room(folder)
        if _is_intact(tarball, package):
            _unpack(tarball, folder, package)
            return Binary(folder / "opencode", tarball, _FROM_CACHE)
        _fetch(folder, package)
        _unpack(tarball, folder, package)
    return Binary(folder / "opencode", tarball, "fetched and verified")


def ensure_tarball(settings: Settings, package: PlatformPackage) -> Path | None:
    """Give the verified tarball, for an upload; None where the user named a binary.

    Raises:
        BinaryError: As for :func:`ensure_binary`.
    """
    if settings.binary is not None:
        return None
    folder = cache_folder(settings.cache_dir, package)
    tarball = folder / tarball_name(package)
    if not _is_intact(tarball, package):
        with _as_binary_error(settings.cache_dir):
            _make_room(folder)
            _fetch(folder, package)
    return tarball


def install_tarball(cache_dir: Path, package: PlatformPackage, source: Path) -> Path:
    """Fill the cache from a tarball that is at hand, such as on a machine without a network.

    Raises:
        BinaryError: It is not the pinned one, or the disk is full.
    """
    if not _is_intact(source, package):
        msg = f"{str(source)!r} is not {package.name} {VERSION}: its hash is wrong"
        raise BinaryError(msg, next_step=f"fetch it with: npm pack {package.name}@{VERSION}")
    folder = cache_folder(cache_dir, package)
    with _as_binary_error(cache_dir):
        _make_room(folder)
        with _temporary_file(folder) as (temporary, path):
            with source.open("rb") as original:
                shutil.copyfileobj(original, temporary, _CHUNK_BYTES)
            temporary.close()  # Windows renames no open file
            path.replace(folder / tarball_name(package))
        _unpack(folder / tarball_name(package), folder, package)
    return folder / "opencode"


def cache_folder(cache_dir: Path, package: PlatformPackage) -> Path:
    """Give the folder of one package of the pinned version."""
    return cache_dir / "opencode" / VERSION / package.name


def tarball_name(package: PlatformPackage) -> str:
    """Give the tarball's name, as ``npm pack`` writes it."""
    return f"{package.name}-{VERSION}.tgz"


_FROM_CACHE = "verified, from cache"


def _named(path: Path) -> Binary:
    if not path.is_file():
        msg = f"OPENCODE_MAGIC_BINARY names {str(path)!r}, which is no file"
        raise BinaryError(msg, next_step="correct it, or unset it to use the pinned release")
    try:
        found = path.stat()
        digest = _sha256_of_named(path, found.st_size, found.st_mtime_ns)
    except OSError as exc:
        msg = f"the binary {str(path)!r} cannot be read: {exc.strerror}"
        raise BinaryError(
            msg, next_step="make it readable, or unset OPENCODE_MAGIC_BINARY"
        ) from exc
    return Binary(path, None, f"named by you, sha256 {digest[:12]}")


@functools.lru_cache(maxsize=4)
def _sha256_of_named(path: Path, _size: int, _mtime_ns: int) -> str:
    return _digest(path, "sha256").hex()


def _is_verified(folder: Path, package: PlatformPackage) -> bool:
    """Whether the binary is the one that was unpacked from the verified tarball.

    Size and time as noted beside it suffice; where they differ its whole hash decides. One whose
    hash is wrong is put aside.
    """
    path, note = folder / "opencode", folder / "verified.json"
    try:
        found = path.stat()
        noted = json.loads(note.read_text(encoding="ascii"))
        sha256, integrity = noted["sha256"], noted["integrity"]
        stamp = [noted["size"], noted["mtime_ns"]]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if integrity != package.integrity or not os.access(path, os.X_OK):
        return False
    if stamp == [found.st_size, found.st_mtime_ns]:
        return True
    if _digest(path, "sha256").hex() == sha256:
        _write_note(folder, package, sha256)
        return True
    path.replace(folder / "opencode.bad")
    return False


def _is_intact(tarball: Path, package: PlatformPackage) -> bool:
    try:
        digest = _digest(tarball, "sha512")
    except OSError:
        return False
    return f"sha512-{base64.b64encode(digest).decode('ascii')}" == package.integrity


def _fetch(folder: Path, package: PlatformPackage) -> None:
    """Fetch the tarball; one with a wrong hash is put aside and fetched once more."""
    tarball = folder / tarball_name(package)
    for _attempt in range(2):
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
            fetched = npm.pack(f"{package.name}@{VERSION}", Path(temporary))
            if _is_intact(fetched, package):
                fetched.replace(tarball)
                return
            fetched.replace(tarball.with_suffix(".bad"))
    msg = f"what npm gave for {package.name} {VERSION} is not the pinned release: its hash is wrong"
    raise BinaryError(msg, next_step=f"check npm's registry setting, or {_NAME_FILE_STEP}")


def _unpack(tarball: Path, folder: Path, package: PlatformPackage) -> None:
    hashed = hashlib.sha256()
    with tarfile.open(tarball, "r:gz") as archive, _temporary_file(folder) as (target, path):
        source = archive.extractfile(BINARY_IN_TARBALL)
        if source is None:
            msg = f"{tarball.name} holds no {BINARY_IN_TARBALL}"
            raise BinaryError(msg)
        while chunk := source.read(_CHUNK_BYTES):
            hashed.update(chunk)
            target.write(chunk)
        target.flush()
        os.fsync(target.fileno())
        target.close()
        path.chmod(0o755)
        path.replace(folder / "opencode")
    _write_note(folder, package, hashed.hexdigest())


def _write_note(folder: Path, package: PlatformPackage, sha256: str) -> None:
    found = (folder / "opencode").stat()
    noted = {
        "integrity": package.integrity,
        "sha256": sha256,
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
    }
    with _temporary_file(folder) as (target, path):
        target.write(json.dumps(noted).encode("ascii"))
        target.close()
        path.replace(folder / "verified.json")


@contextlib.contextmanager
def _temporary_file(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Give a file in the folder that is gone afterwards unless it was given its name."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".new-", delete=False) as file:
        path = Path(file.name)
        try:
            # NamedTemporaryFile's wrapper is a binary file in all but its nominal type.
            yield file, path  # type: ignore[misc]
        finally:
            path.unlink(missing_ok=True)


def _make_room(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".new-*"):
        _remove_old(leftover)
    if shutil.disk_usage(folder).free < NEEDED_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _remove_old(path: Path) -> None:
    """Remove what a killed kernel left; another kernel's file of right now stays."""
    an_hour_s = 3600
    with contextlib.suppress(OSError):
        now_s = path.parent.stat().st_mtime
        if now_s - path.stat().st_mtime > an_hour_s:
            path.unlink()


@contextlib.contextmanager
def _as_binary_error(cache_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
            msg = f"the disk is too full for OpenCode in {str(cache_dir)!r}"
            step = f"free {NEEDED_BYTES // 1024**2} MB, or set OPENCODE_MAGIC_CACHE_DIR"
            raise BinaryError(msg, next_step=step) from exc
        msg = f"OpenCode cannot be kept in {str(cache_dir)!r}: {exc.strerror or exc}"
        raise BinaryError(
            msg, next_step="set OPENCODE_MAGIC_CACHE_DIR to a folder of yours"
        ) from exc
    except (tarfile.TarError, EOFError, zlib.error, KeyError) as exc:
        msg = f"OpenCode's package cannot be unpacked: {exc}"
        raise BinaryError(msg, next_step=f"remove {str(cache_dir)!r} and try again") from exc


def _digest(path: Path, algorithm: str) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).digest()


@functools.cache
def _has_avx2() -> bool:
    try:
        return " avx2" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return True
