"""A home -> an SDK client that talks to it; the local server is started when it is needed."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from opencode_magic.core import surroundings
from opencode_magic.core.opencode import VERSION
from opencode_magic.errors import SandboxConnectionError
from opencode_magic.sandbox.credentials import find_credentials
from opencode_magic.sandbox.local_api import PROTOCOL, LocalApi, ServerFile, load_server_file
from opencode_magic.settings import make_private_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import httpx2
    from vercel.sandbox.sync import SandboxCredentials, SyncSandboxClient

    from opencode_magic.core.status import Home
    from opencode_magic.settings import Settings

START_TIMEOUT_S = 20.0
SOCKET_PATH_LIMIT_BYTES = 107
_STARTED: list[subprocess.Popen[bytes]] = []
"""Servers that this process started: kept so that an ended one can be reaped."""


@dataclass(slots=True)
class Connection:
    """A client of one home. ``client`` is made for us alone; close it with ``close``."""

    home: Home
    client: SyncSandboxClient
    local: LocalApi | None = None
    """Calls beyond the Sandbox API; None on the cloud home, which has none."""
    demo_model_url: str = ""
    extras: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    """More parameters of a create call: how this kernel goes out, with its proxy's password. A
    local server that runs already may have been started where the machine went out another way."""
    has_opencode: bool = False
    """Whether the home's image is known to hold the pinned OpenCode."""
    successor: Callable[[], Connection | None] = lambda: None
    """Connects to the server that follows one that has ended, and knows what that left behind;
    None where it has not ended."""

    def close(self) -> None:
        """Close the client's connections. Never raises."""
        with contextlib.suppress(Exception):  # a client that cannot close is of no more use
            self.client.close()


@functools.cache
def warm_up() -> threading.Thread:
    """Import the SDK in a thread: it takes 0.25 s, which other work can hide."""
    thread = threading.Thread(
        target=importlib.import_module, args=("vercel.sandbox.sync",), name="import", daemon=True
    )
    thread.start()
    return thread


def connect(settings: Settings, home: Home, *, opencode: Path | None = None) -> Connection:
    """Connect to a home.

    Args:
        settings: Folders, and for the cloud where credentials come from.
        home: Which one.
        opencode: The verified binary that a local server, where one is started, puts into its
            image.

    Raises:
        SandboxConnectionError: The local server does not start or does not answer.
        CredentialsError: The cloud's credentials are missing or expired.
    """
    if home == "cloud":
        return connect_cloud(settings)
    server = ensure_server(settings, opencode=opencode)
    connection = connect_local(server)

    def successor() -> Connection | None:
        reap()
        if Path(f"/proc/{server.pid}").exists():
            return None
        return connect(settings, home, opencode=opencode)

    connection.successor = successor
    return connection


def connect_cloud(settings: Settings) -> Connection:
    """Connect to the cloud; credentials are found anew for each request."""
    find_credentials(settings)

    def credentials() -> SandboxCredentials:
        found = find_credentials(settings)
        return _sdk_credentials(found.token, found.team_id, found.project_id)

    def http_client() -> httpx2.Client:
        import httpx2  # noqa: PLC0415 - takes 0.1 s; only a launch needs it

        return httpx2.Client(timeout=httpx2.Timeout(300.0, connect=15.0))

    return Connection(
        home="cloud", client=_sdk_client(settings.cloud_url, credentials, http_client)
    )


def connect_local(server: ServerFile) -> Connection:
    """Connect to a local server that runs."""

    def credentials() -> SandboxCredentials:
        return _sdk_credentials(server.token, "local", "local")

    def http_client() -> httpx2.Client:
        import httpx2  # noqa: PLC0415 - takes 0.1 s; only a launch needs it

        # No certificates to load and no proxy to ask: a quarter of the time of a default client.
        transport = httpx2.HTTPTransport(uds=server.socket, verify=False, trust_env=False)
        return httpx2.Client(
            transport=transport, timeout=httpx2.Timeout(120.0, connect=5.0), trust_env=False
        )

    return Connection(
        home="local",
        client=_sdk_client("http://local/api", credentials, http_client),
        local=LocalApi(server.socket, server.token),
        demo_model_url=server.demo_model_url,
        extras={surroundings.PARAMETER: surroundings.chosen(os.environ)},
        has_opencode=server.opencode_version == VERSION,
    )


def ensure_server(settings: Settings, *, opencode: Path | None = None) -> ServerFile:
    """Give a local server that answers: the running one, or one that is started now.

    A running one of another version of this package, or that was started with another proxy or
    other certificate authorities, is ended and replaced where it holds no sandbox; where it does,
    it is told with each new one how that goes out. It is refused
    with the next step where it does and speaks another protocol, or lacks what the settings ask.

    Raises:
        SandboxConnectionError: It does not start, or the running one cannot be used.
    """
    reap()
    runtime_dir = make_private_dir(settings.runtime_dir)
    socket_path = runtime_dir / "api.sock"
    if len(os.fsencode(socket_path)) > SOCKET_PATH_LIMIT_BYTES:
        raise SandboxConnectionError(
            f"the path of the local server's socket is too long: {str(socket_path)!r}",
            next_step="set OPENCODE_MAGIC_RUNTIME_DIR to a shorter folder",
        )
    running = find_server(settings)
    if running is not None:
        if not _must_replace(running, settings, opencode):
            return running
        _end(running, runtime_dir)
    return _start(settings, opencode)


def find_server(settings: Settings) -> ServerFile | None:
    """Give the local server that runs and answers, or None. Starts nothing."""
    server = load_server_file(settings.runtime_dir / "server.json")
    if server is None:
        return None
    try:
        LocalApi(server.socket, server.token).info(timeout_s=2.0)
    except SandboxConnectionError:
        return None
    return server


def package_version() -> str:
    """Give the version of this package."""
    try:
        return importlib.metadata.version("opencode-magic")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def reap() -> None:
    """Collect servers of ours that have ended, so that none stays as a zombie. Never raises."""
    _STARTED[:] = [process for process in _STARTED if process.poll() is None]


def _must_replace(running: ServerFile, settings: Settings, opencode: Path | None) -> bool:
    info = LocalApi(running.socket, running.token).info()
    is_other_version = running.version != package_version() or running.protocol != PROTOCOL
    lacks_opencode = opencode is not None and running.opencode_version != VERSION
    lacks_upstream = not set(settings.upstreams) <= _texts(info.get("upstreams"))
    is_laxer = settings.is_strict and info.get("is_strict") is not True
    goes_elsewhere = info.get("surroundings") != surroundings.digest(os.environ)
    if not (is_other_version or lacks_opencode or lacks_upstream or is_laxer or goes_elsewhere):
        return False
    if not info.get("sandboxes"):
        return True
    step = "end its sandboxes with %opencode_down, or stop it: python -m opencode_magic.local stop"
    if running.protocol != PROTOCOL:
        raise SandboxConnectionError(
            f"a local server of version {running.version} still runs sandboxes", next_step=step
        )
    if lacks_upstream or is_laxer:
        lacking = "the upstreams that are set now" if lacks_upstream else "strict"
        raise SandboxConnectionError(
            f"the running local server was started without {lacking}", next_step=step
        )
    return False


def _texts(value: object) -> set[str]:
    if isinstance(value, dict):
        return {f"{host}={address}" for host, address in value.items()}
    return {str(item) for item in value} if isinstance(value, list) else set()


def _end(running: ServerFile, runtime_dir: Path) -> None:
    with contextlib.suppress(SandboxConnectionError):
        LocalApi(running.socket, running.token).shutdown()
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        reap()
        now = load_server_file(runtime_dir / "server.json")
        if now is None or now.pid != running.pid:
            return
        try:
            LocalApi(running.socket, running.token).info(timeout_s=1.0)
        except SandboxConnectionError:
            return
        time.sleep(0.02)
    raise SandboxConnectionError(
        f"the local server of version {running.version} does not end",
        next_step="stop it: python -m opencode_magic.local stop",
    )


def _start(settings: Settings, opencode: Path | None) -> ServerFile:
    state_dir = make_private_dir(make_private_dir(settings.state_dir) / "local")
    output_path = state_dir / "server.out"
    with output_path.open("wb") as output:
        process = subprocess.Popen(
            _command(settings, state_dir, opencode),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=server_environment(),
            # A session of its own: Jupyter's Interrupt goes to the kernel's whole process group.
            start_new_session=True,
        )
    _STARTED.append(process)
    return _wait_started(settings, process, output_path)


def _command(settings: Settings, state_dir: Path, opencode: Path | None) -> list[str]:
    command = [sys.executable, "-P", "-m", "opencode_magic.local", "serve"]
    command += ["--runtime-dir", str(settings.runtime_dir), "--state-dir", str(state_dir)]
    if opencode is not None:
        command += ["--opencode", str(opencode)]
    for upstream in settings.upstreams:
        command += ["--upstream", upstream]
    if settings.upstream_ca is not None:
        command += ["--upstream-ca", str(settings.upstream_ca)]
    if settings.is_strict:
        command.append("--strict")
    return command


def server_environment() -> dict[str, str]:
    """Give the environment of the local home's processes: no key and no token of the kernel's."""
    prefixes = ("LC_", "XDG_", "COVERAGE_")
    names = {"PATH", "HOME", "LANG", "TMPDIR", "TZ", "USER", "LOGNAME", *surroundings.NAMES}
    env = {
        name: value
        for name, value in os.environ.items()
        if name in names or name.startswith(prefixes)
    }
    root = str(Path(__file__).resolve().parents[2])
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    # The server has many short threads, and glibc would give each an arena that only grows.
    env["MALLOC_ARENA_MAX"] = "2"
    return env


def _wait_started(
    settings: Settings, process: subprocess.Popen[bytes], output_path: Path
) -> ServerFile:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        server = find_server(settings)
        if server is not None:
            return server
        # Exit 0 means that another kernel's server took the lock first: wait for that one.
        if process.poll() not in {None, 0}:
            break
        time.sleep(0.01)
    code = process.poll()
    said = _last_line(output_path)
    what = f"ended with code {code}" if code else f"did not answer within {START_TIMEOUT_S:.0f} s"
    raise SandboxConnectionError(
        f"the local server {what}{f': {said}' if said else ''}", next_step="run %opencode_doctor"
    )


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""


def _sdk_credentials(token: str, team_id: str, project_id: str) -> SandboxCredentials:
    from vercel.sandbox.sync import SandboxCredentials  # noqa: PLC0415 - the SDK takes 0.25 s

    return SandboxCredentials(token=token, team_id=team_id, project_id=project_id)


def _sdk_client(
    base_url: str,
    credentials: Callable[[], SandboxCredentials],
    http_client: Callable[[], httpx2.Client],
) -> SyncSandboxClient:
    # Two threads that import one package at once may meet it half made.
    warm_up().join()
    from vercel.sandbox.sync import (  # noqa: PLC0415 - the SDK takes 0.25 s
        SandboxServiceOptions,
        SyncSandboxClient,
    )

    options = SandboxServiceOptions(base_url=base_url or None, credentials_factory=credentials)
    return SyncSandboxClient.create(options=options, httpx_client_factory=http_client)
