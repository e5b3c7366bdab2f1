"""Both homes for tests: the local one, and a stand-in for the cloud on loopback."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from opencode_magic.agent.server import OpenCodeServer, new_password
from opencode_magic.core.opencode import VERSION, SandboxFile
from opencode_magic.core.providers import choose_model, demo_choice
from opencode_magic.core.status import Status, reduce
from opencode_magic.errors import SandboxConnectionError
from opencode_magic.sandbox import connect as connecting
from opencode_magic.sandbox.home import HomeChoice
from opencode_magic.sandbox.launch import LaunchRequest
from opencode_magic.sandbox.local_api import LocalApi, load_server_file
from opencode_magic.sandbox.prove import ProofTarget
from opencode_magic.settings import load_settings
from tests.sandbox.test_credentials import make_token

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from opencode_magic.core.opencode import Place
    from opencode_magic.core.status import StatusEvent
    from opencode_magic.settings import Settings
    from tests.sandbox.canary import Canary

KEY = "planted-vck-0123456789abcdefghij"
GATEWAY = "ai-gateway.vercel.sh"
LOCAL = HomeChoice("local", "the test says so")
CLOUD = HomeChoice("cloud", "the test says so")


@dataclass
class Events:
    """Keeps what a launch emits."""

    seen: list[StatusEvent] = field(default_factory=list)

    def __call__(self, event: StatusEvent) -> None:
        """Take one event."""
        self.seen.append(event)

    def of(self, kind: type) -> list[StatusEvent]:
        """The events of one kind."""
        return [event for event in self.seen if isinstance(event, kind)]


@dataclass
class ScriptServer:
    """An agent server that is a shell script: for launches that must go wrong."""

    script: str
    version: str | None = None

    def files(self, place: Place) -> Sequence[SandboxFile]:
        """One file, so that configuring does something."""
        return [SandboxFile(f"{place.home}/.config/script", b"")]

    def command(self, place: Place) -> Sequence[str]:  # noqa: ARG002 - the Protocol's
        """Run the script."""
        return ["sh", "-c", self.script]

    def environment(self, place: Place) -> Mapping[str, str]:  # noqa: ARG002 - as above
        """Nothing but a password."""
        return {"OPENCODE_SERVER_PASSWORD": "x"}

    def poll_health(self, url: str) -> str | None:  # noqa: ARG002 - as above
        """Say the version that the test gave."""
        return self.version


def stop_local_server(settings: Settings) -> None:
    """End the local server of a test, with all its sandboxes."""
    server = load_server_file(settings.runtime_dir / "server.json")
    if server is None:
        return
    with contextlib.suppress(SandboxConnectionError):
        LocalApi(server.socket, server.token).shutdown()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{server.pid}").exists() and time.monotonic() < deadline:
        connecting.reap()
        time.sleep(0.02)


@contextlib.contextmanager
def local_home() -> Iterator[LaunchRequest]:
    """A request for the scripted model on the local home."""
    settings = load_settings()
    try:
        yield LaunchRequest(settings=settings, choice=LOCAL, model=demo_choice(""))
    finally:
        stop_local_server(settings)


@contextlib.contextmanager
def local_home_with_key(canary: Canary) -> Iterator[LaunchRequest]:
    """A request for a model with a key on the local home; the canary is its gateway."""
    with local_home() as request:
        settings = replace(
            request.settings,
            upstreams=(canary.upstream(GATEWAY), canary.upstream("example.com")),
            upstream_ca=canary.write_ca(request.settings.folder),
        )
        model = choose_model("vercel", keys={"AI_GATEWAY_API_KEY": KEY})
        assert model is not None
        yield replace(request, settings=settings, model=model)


@contextlib.contextmanager
def cloud_home(canary: Canary) -> Iterator[LaunchRequest]:
    """A request for a model with a key on the stand-in for the cloud, which has no extras."""
    settings = load_settings()
    token = make_token(expires_s=4_000_000_000)
    folder = settings.folder
    (folder / "token").write_text(token)
    (folder / "token").chmod(0o600)
    port = _free_port()
    options = ["--runtime-dir", str(folder / "r"), "--state-dir", str(folder / "s")]
    options += ["--tcp", f"127.0.0.1:{port}", "--token-file", str(folder / "token")]
    options += ["--upstream", canary.upstream(GATEWAY)]
    options += ["--upstream", canary.upstream("example.com")]
    options += ["--upstream-ca", str(canary.write_ca(folder))]
    process = subprocess.Popen(
        [sys.executable, "-m", "opencode_magic.local", "serve", *options],
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    try:
        _wait_listening(port, process)
        model = choose_model("vercel", keys={"AI_GATEWAY_API_KEY": KEY})
        assert model is not None
        yield LaunchRequest(
            settings=replace(settings, cloud_url=f"http://127.0.0.1:{port}/api", oidc_token=token),
            choice=CLOUD,
            model=model,
            target=ProofTarget("example.com", canary.address),
        )
    finally:
        process.terminate()
        process.wait(timeout=10)


def opencode_server(request: LaunchRequest) -> OpenCodeServer:
    """The real agent server for a request's model."""
    return OpenCodeServer(request.model, new_password())


def quick_server() -> ScriptServer:
    """An agent server that is healthy at once: for what does not depend on OpenCode."""
    return ScriptServer("sleep 600", version=VERSION)


def live_sandboxes(request: LaunchRequest) -> object:
    """What the local server says is there."""
    server = connecting.find_server(request.settings)
    assert server is not None
    return LocalApi(server.socket, server.token).info()["sandboxes"]


def processes_of(request: LaunchRequest) -> list[str]:
    """Processes whose arguments name the test's own folder, other than its local server."""
    mark = str(request.settings.state_dir).encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes()
        except OSError:
            continue
        if mark in arguments and b"opencode_magic.local\0serve" not in arguments:
            found.append(arguments.replace(b"\0", b" ").decode())
    return found


def wait_for_no_process(request: LaunchRequest) -> None:
    """The spare that the server keeps ready ends a moment after the last sandbox."""
    deadline = time.monotonic() + 5
    while processes_of(request):
        assert time.monotonic() < deadline, processes_of(request)
        time.sleep(0.02)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _wait_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        assert process.poll() is None
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    msg = "the stand-in for the cloud does not listen"
    raise AssertionError(msg)


def status_of(events: Events) -> Status:
    """What the events of a launch add up to."""
    status = Status()
    for event in events.seen:
        status = reduce(status, event)
    return status
