"""The package is upgraded while its server runs: a second installation, of another version."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from vercel.sandbox import sync as sdk

from opencode_magic.errors import SandboxConnectionError
from opencode_magic.sandbox import connect as connecting
from opencode_magic.sandbox.connect import (
    connect_local,
    ensure_server,
    find_server,
    package_version,
    server_environment,
)
from opencode_magic.sandbox.local_api import LocalApi
from opencode_magic.settings import load_settings, make_private_dir
from tests.local.readable import ROOT
from tests.local.servers import LocalServer, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from opencode_magic.sandbox.local_api import ServerFile
    from opencode_magic.settings import Settings

OLD = "0.0.9"


@dataclass(frozen=True, slots=True)
class Installation:
    """A copy of this package, under another version."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Installation:
        """Install it, as pip would."""
        package = ROOT / "opencode_magic"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(package, folder / "opencode_magic", ignore=ignored)
        (folder / "opencode_magic-0.dist-info").mkdir()
        made = cls(folder)
        made.name_version(OLD)
        return made

    def name_version(self, version: str) -> None:
        """Replace it with another version."""
        text = f"Metadata-Version: 2.1\nName: opencode-magic\nVersion: {version}\n"
        (self.folder / "opencode_magic-0.dist-info" / "METADATA").write_text(text)

    def speak(self, protocol: int) -> None:
        """Let its server speak another protocol."""
        path = self.folder / "opencode_magic" / "local" / "server.py"
        text = path.read_text()
        path.write_text(text.replace("PROTOCOL = 1\n", f"PROTOCOL = {protocol}\n"))
        assert f"PROTOCOL = {protocol}\n" in path.read_text()


@pytest.fixture
def settings() -> Iterator[Settings]:
    """Settings with folders of the test's own; a server that runs there is ended."""
    found = load_settings()
    yield found
    server = find_server(found)
    if server is not None:
        LocalApi(server.socket, server.token).shutdown()
        wait_for(lambda: find_server(found) is None, 10)
    connecting.reap()


@dataclass(slots=True)
class OldServer:
    """The server of the old version."""

    process: subprocess.Popen[bytes]
    file: ServerFile

    @property
    def is_over(self) -> bool:
        """Whether its process has ended."""
        wait_for(lambda: self.process.poll() is not None, 5)
        return self.process.poll() is not None


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    """The old version, not started yet."""
    base = LocalServer.make().base
    yield Installation.make(base / "old")
    shutil.rmtree(base)


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Servers that a test started, which are waited for."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.terminate()
        process.wait(20)


@pytest.fixture
def start(
    settings: Settings, installation: Installation, processes: list[subprocess.Popen[bytes]]
) -> Callable[[], OldServer]:
    """Give what starts the old version's server as the old version would."""
    path = os.pathsep.join([str(installation.folder), sysconfig.get_path("purelib")])

    def run() -> OldServer:
        command = [sys.executable, "-P", "-m", "opencode_magic.local", "serve"]
        command += ["--runtime-dir", str(make_private_dir(settings.runtime_dir))]
        command += ["--state-dir", str(make_private_dir(settings.state_dir) / "local")]
        environment = {**server_environment(), "PYTHONPATH": path}
        processes.append(
            subprocess.Popen(
                command,
                env=environment,
                cwd="/",
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        )
        wait_for(lambda: find_server(settings) is not None, 20)
        server = find_server(settings)
        assert server is not None
        assert server.version == OLD
        return OldServer(processes[-1], server)

    return run


def create(server: ServerFile, name: str) -> str:
    """Create a persistent sandbox with a file; gives what that file says."""
    connection = connect_local(server)
    box = connection.client.create_sandbox(
        name=name, persistent=True, network_policy=sdk.NetworkPolicy.deny_all()
    )
    box.fs.write_text("work.txt", name)
    connection.close()
    return name


def read(server: ServerFile, name: str) -> str:
    connection = connect_local(server)
    text = connection.client.get_sandbox(name=name).fs.read_text("work.txt")
    connection.close()
    return text


def stop(server: ServerFile, name: str) -> None:
    connection = connect_local(server)
    connection.client.get_sandbox(name=name).stop()
    connection.close()


def test_idle_server_of_the_old_version_makes_room(
    settings: Settings, start: Callable[[], OldServer]
) -> None:
    """The new version ends an old server that runs nothing, and reads what it left."""
    old = start()
    create(old.file, "work")
    stop(old.file, "work")
    new = ensure_server(settings)

    assert (new.version, old.is_over) == (package_version(), True)
    assert read(new, "work") == "work"


def test_old_server_with_a_sandbox_is_used_until_that_ends(
    settings: Settings, start: Callable[[], OldServer]
) -> None:
    """A sandbox that runs is not ended for an upgrade; the next launch after it has the new one."""
    old = start().file
    create(old, "work")
    meanwhile = ensure_server(settings)
    text = read(meanwhile, "work")
    stop(meanwhile, "work")
    new = ensure_server(settings)

    assert (meanwhile.pid, text) == (old.pid, "work")
    assert (new.version, read(new, "work")) == (package_version(), "work")


def test_server_of_another_protocol_with_a_sandbox_is_named(
    settings: Settings, installation: Installation, start: Callable[[], OldServer]
) -> None:
    """Where the two cannot talk, the user is told how to end the old one, and nothing is lost."""
    installation.speak(2)
    old = start().file
    create(old, "work")
    with pytest.raises(SandboxConnectionError, match=f"version {OLD} still runs sandboxes"):
        ensure_server(settings)
    stop(old, "work")
    new = ensure_server(settings)

    assert (new.version, read(new, "work")) == (package_version(), "work")


def test_server_starts_nothing_from_another_versions_files(
    installation: Installation, start: Callable[[], OldServer]
) -> None:
    """After an upgrade in place what runs goes on, and what would be half of each is refused."""
    old = start().file
    create(old, "work")
    installation.name_version("0.0.10")
    with pytest.raises(sdk.SandboxApiError, match=r"version 0\.0\.10 is installed") as caught:
        create_many(old)

    assert (caught.value.status_code, caught.value.code) == (503, "server_outdated")
    assert read(old, "work") == "work"


def create_many(server: ServerFile) -> None:
    """Create more than the spare that may be ready, which is of the old version still."""
    connection = connect_local(server)
    try:
        for number in range(3):
            connection.client.create_sandbox(name=f"late-{number}", persistent=False)
    finally:
        connection.close()
