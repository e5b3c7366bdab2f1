"""The server's life: one per runtime folder, its socket, its state file, its end."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import resource
import secrets
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from logging.handlers import RotatingFileHandler
from typing import TYPE_CHECKING

from opencode_magic.core import opencode, surroundings
from opencode_magic.errors import SandboxError
from opencode_magic.local import versions
from opencode_magic.local.box import BoxFactory, BoxOptions
from opencode_magic.local.cgroups import open_cgroups
from opencode_magic.local.company import load_company
from opencode_magic.local.demo_model import DemoModel
from opencode_magic.local.registry import Registry
from opencode_magic.local.store import Store, write_json
from opencode_magic.local.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from opencode_magic.local.web import Activity

PROTOCOL = 1
SOCKET_PATH_LIMIT_BYTES = 107
IDLE_LOOK_S = 0.5
LOCK_TIMEOUT_S = 10.0
FILES_WANTED = 65_536
LOG_LIMIT_BYTES = 1_000_000
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How to serve."""

    runtime_dir: Path
    state_dir: Path
    opencode: Path | None = None
    idle_s: float = 600.0
    upstreams: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    upstream_ca: Path | None = None
    is_strict: bool = False
    """Plain allowed hosts are terminated too."""
    cgroup: Path | None = None
    """Make the sandboxes' control groups below this one; None looks for one that is ours."""
    tcp: tuple[str, int] | None = None
    """Serve on this loopback address instead of a socket, and without any of the local extras."""
    token_file: Path | None = None


def serve(options: ServeOptions) -> int:
    """Serve until idle, asked to end, or signalled.

    Returns:
        0; at once where another server has this runtime folder.

    Raises:
        SandboxError: A folder is not private, the socket's path is too long, a port is taken, or
            another server has this state folder.
        SettingsError: The user's upstream proxy or certificate authorities cannot be used.
    """
    # What a sandbox is given must be readable for its user, who as root's guest is another one;
    # what is ours stands in folders that only we may enter.
    os.umask(0o022)
    _set_limits()
    for folder in (options.runtime_dir, options.state_dir):
        _make_private(folder)
    lock = _take_lock(options.runtime_dir)
    if lock is None:
        return 0
    try:
        state_lock = _take_state_lock(options)
        handler = _log_to(options.state_dir / "server.log")
        try:
            _Server(options).run()
        finally:
            logging.getLogger("opencode_magic").removeHandler(handler)
            handler.close()
            os.close(state_lock)
    finally:
        os.close(lock)
    return 0


class _Server:
    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._ending = asyncio.Event()
        self._ending_for = ""
        self._demo = DemoModel() if options.tcp is None else None
        self._company = load_company(os.environ, options.upstream_ca)
        self._cgroups = open_cgroups(options.state_dir, options.cgroup)
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> None:
        options = self._options
        listener = _bind(options)
        factory = BoxFactory(
            BoxOptions(
                boxes=options.state_dir / "boxes",
                opencode=options.opencode if options.tcp is None else None,
                upstreams=options.upstreams,
                upstream_ca=options.upstream_ca,
                company=self._company,
                is_strict=options.is_strict,
                may_reach_loopback=options.tcp is None,
                cgroups=self._cgroups,
            )
        )
        registry = Registry(Store(options.state_dir), factory, keeps_files=options.tcp is None)
        # From here on the spare sandbox is being built, beside the imports that are still to come.
        registry.start()
        try:
            asyncio.run(self._serve(registry, listener))
        finally:
            registry.close()
            if self._demo is not None:
                self._demo.close()
            self._remove("api.sock")
            log.info("ended: %s", self._ending_for)

    async def _serve(self, registry: Registry, listener: socket.socket) -> None:
        from opencode_magic.local.web import Activity, ApiOptions, Web  # noqa: PLC0415 - see `run`

        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.add_signal_handler(number, self._end, f"signal {number}")
        info = self._describe(listener)
        app = ApiOptions(
            registry=registry,
            token=_load_token(self._options.token_file),
            has_extras=self._options.tcp is None,
            info=info,
            shutdown=lambda: self._end("it was asked to"),
        )
        activity = Activity()
        web = Web(app, activity)
        serving = asyncio.create_task(web.serve([listener]))
        await web.accepting.wait()
        secret = {"token": app.token} if self._options.tcp is None else {}
        write_json(self._options.runtime_dir / "server.json", {**info, **secret})
        log.info("serving, version %s", info["version"])
        watch = asyncio.create_task(self._watch(registry, activity))
        await self._ending.wait()
        watch.cancel()
        # Who looks for a server must not find this one any more; the next one waits for the lock.
        self._remove("server.json")
        await in_thread(registry.close)
        web.should_exit = True
        await serving

    def _end(self, reason: str) -> None:
        if not self._ending_for:
            self._ending_for = reason
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._ending.set)

    async def _watch(self, registry: Registry, activity: Activity) -> None:
        """End when idle, and when the runtime folder is no longer ours."""
        while True:
            await asyncio.sleep(min(IDLE_LOOK_S, self._options.idle_s / 4))
            if not registry.live_count and activity.idle_s >= self._options.idle_s:
                self._end("nobody asked")
            if not (self._options.runtime_dir / "server.lock").exists():
                self._end("its runtime folder is gone")

    def _describe(self, listener: socket.socket) -> dict[str, object]:
        options = self._options
        is_socket = options.tcp is None
        address = listener.getsockname()
        return {
            "pid": os.getpid(),
            "socket": str(options.runtime_dir / "api.sock") if is_socket else "",
            "url": "http://local/api" if is_socket else f"http://{address[0]}:{address[1]}/api",
            "version": versions.RUNNING,
            "protocol": PROTOCOL,
            "started_ms": time.time_ns() // 1_000_000,
            "demo_model_url": self._demo.start() if self._demo is not None else "",
            "opencode_version": opencode.VERSION if is_socket and options.opencode else "",
            "upstreams": [
                f"{host}={address}:{port}" for host, (address, port) in options.upstreams.items()
            ],
            "way_out": self._company.proxy,
            "is_strict": options.is_strict,
            "memory_guard": self._memory_guard,
            "surroundings": surroundings.digest(os.environ),
        }

    @property
    def _memory_guard(self) -> str:
        is_held = self._cgroups is not None and self._cgroups.counts_memory
        return "kernel" if is_held else "watchdog"

    def _remove(self, name: str) -> None:
        with suppress(OSError):
            (self._options.runtime_dir / name).unlink()


def _take_lock(runtime_dir: Path) -> int | None:
    """Give the lock of a runtime folder; None where another server serves there.

    One that is ending has taken its state file away: its end is waited for.
    """
    lock = os.open(runtime_dir / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if (runtime_dir / "server.json").exists() or time.monotonic() > deadline:
                os.close(lock)
                return None
            time.sleep(0.02)
        else:
            # What a crashed server left would lead to nobody.
            (runtime_dir / "server.json").unlink(missing_ok=True)
            return lock


def _take_state_lock(options: ServeOptions) -> int:
    """Give the lock of a state folder: who reads it first ends what it says still runs.

    Raises:
        SandboxError: A server with another runtime folder has it, and is not ending.
    """
    path = options.state_dir / "server.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            place = path.read_text(errors="replace").strip()
            is_serving = bool(place) and os.path.exists(f"{place}/server.json")  # noqa: PTH110 - text
            if is_serving or time.monotonic() > deadline:
                os.close(lock)
                raise SandboxError(
                    f"another local server uses the state folder {str(options.state_dir)!r}, and "
                    f"serves in {place!r}",
                    next_step="set OPENCODE_MAGIC_RUNTIME_DIR to that folder, or stop it: python -m"
                    f" opencode_magic.local stop --runtime-dir {place}",
                ) from None
            time.sleep(0.02)
        else:
            os.ftruncate(lock, 0)
            os.pwrite(lock, os.fsencode(options.runtime_dir), 0)
            return lock


def _bind(options: ServeOptions) -> socket.socket:
    if options.tcp is not None:
        try:
            return socket.create_server(options.tcp, backlog=512)
        except OSError as exc:
            host, port = options.tcp
            raise SandboxError(f"cannot listen on {host}:{port}: {exc.strerror}") from exc
    path = options.runtime_dir / "api.sock"
    if len(os.fsencode(path)) > SOCKET_PATH_LIMIT_BYTES:
        raise SandboxError(
            f"the socket's path has more than {SOCKET_PATH_LIMIT_BYTES} bytes: {str(path)!r}",
            next_step="set OPENCODE_MAGIC_RUNTIME_DIR to a shorter folder",
        )
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(512)
    return listener


def _load_token(token_file: Path | None) -> str:
    """Read the token from its file; make both where there is none."""
    if token_file is None:
        return secrets.token_urlsafe(32)
    with suppress(FileNotFoundError):
        token = token_file.read_text().strip()
        if token:
            return token
    token = secrets.token_urlsafe(32)
    descriptor = os.open(token_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(token)
    return token


def _set_limits() -> None:
    """Take what the system allows: a sandbox needs some twenty descriptors, the usual is 1024.

    And leave no core file, which would hold the keys that the firewall injects. Not 0: a core that
    goes to a program of the host's would be made all the same.
    """
    with suppress(ValueError):  # it is 0 already, for good
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, FILES_WANTED)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.geteuid():
        raise SandboxError(f"the folder {str(folder)!r} belongs to another user")
    if status.st_mode & 0o077:
        folder.chmod(0o700)


def _log_to(path: Path) -> logging.Handler:
    handler = RotatingFileHandler(path, maxBytes=LOG_LIMIT_BYTES, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("opencode_magic")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False
    # It would log whole tracebacks, whose text may repeat what a caller sent.
    logging.getLogger("uvicorn.error").disabled = True
    return handler
