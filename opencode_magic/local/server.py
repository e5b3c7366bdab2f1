"""The server's life: one per runtime folder, its socket, its state file, its end."""

from __future__ import annotations

import asyncio
import fcntl
import importlib.metadata
import logging
import os
import resource
import secrets
import signal
import socket
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from logging.handlers import RotatingFileHandler
from typing import TYPE_CHECKING

import uvicorn

from opencode_magic.core import opencode
from opencode_magic.errors import SandboxError
from opencode_magic.local.api import Activity, ApiOptions, build_app
from opencode_magic.local.box import BoxFactory, BoxOptions
from opencode_magic.local.demo_model import DemoModel
from opencode_magic.local.registry import Registry
from opencode_magic.local.store import Store, write_json
from opencode_magic.local.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

PROTOCOL = 1
SOCKET_PATH_LIMIT_BYTES = 107
IDLE_LOOK_S = 0.5
GRACE_S = 2
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
    tcp: tuple[str, int] | None = None
    """Serve on this loopback address instead of a socket, and without any of the local extras."""
    token_file: Path | None = None


def serve(options: ServeOptions) -> int:
    """Serve until idle, asked to end, or signalled.

    Returns:
        0; at once where another server has this runtime folder.

    Raises:
        SandboxError: A folder is not private, the socket's path is too long, or a port is taken.
    """
    # What a sandbox is given must be readable for its user, who as root's guest is another one;
    # what is ours stands in folders that only we may enter.
    os.umask(0o022)
    _allow_many_files()
    for folder in (options.runtime_dir, options.state_dir):
        _make_private(folder)
    lock = os.open(options.runtime_dir / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return 0
    handler = _log_to(options.state_dir / "server.log")
    try:
        _Server(options).run()
    finally:
        logging.getLogger("opencode_magic").removeHandler(handler)
        handler.close()
        os.close(lock)
    return 0


class _Uvicorn(uvicorn.Server):
    """Tells when it accepts, and leaves the signals to us: what runs must end first."""

    def __init__(self, config: uvicorn.Config, on_accept: asyncio.Event) -> None:
        super().__init__(config)
        self._on_accept = on_accept

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_accept.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


class _Server:
    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._activity = Activity()
        self._ending = asyncio.Event()
        self._ending_for = ""
        self._demo = DemoModel() if options.tcp is None else None
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> None:
        options = self._options
        listener = _bind(options)
        token = _load_token(options.token_file)
        demo_url = self._demo.start() if self._demo is not None else ""
        factory = BoxFactory(
            BoxOptions(
                boxes=options.state_dir / "boxes",
                opencode=options.opencode if options.tcp is None else None,
                upstreams=options.upstreams,
                upstream_ca=options.upstream_ca,
                may_reach_loopback=options.tcp is None,
            )
        )
        registry = Registry(Store(options.state_dir), factory, keeps_files=options.tcp is None)
        info = self._describe(listener, demo_url)
        registry.start()
        try:
            app = ApiOptions(
                registry=registry,
                token=token,
                has_extras=options.tcp is None,
                info=info,
                shutdown=lambda: self._end("it was asked to"),
            )
            asyncio.run(self._serve(app, listener))
        finally:
            registry.close()
            if self._demo is not None:
                self._demo.close()
            self._clean_up()
            log.info("ended: %s", self._ending_for)

    async def _serve(self, options: ApiOptions, listener: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.add_signal_handler(number, self._end, f"signal {number}")
        accepting = asyncio.Event()
        config = uvicorn.Config(
            build_app(options, self._activity),
            lifespan="off",
            ws="none",
            http="h11",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=GRACE_S,
        )
        server = _Uvicorn(config, accepting)
        serving = asyncio.create_task(server.serve([listener]))
        await accepting.wait()
        state = dict(options.info)
        if self._options.tcp is None:
            state["token"] = options.token
        write_json(self._options.runtime_dir / "server.json", state)
        log.info("serving, version %s", options.info["version"])
        watch = asyncio.create_task(self._watch(options.registry))
        await self._ending.wait()
        watch.cancel()
        await in_thread(options.registry.close)
        server.should_exit = True
        await serving

    def _end(self, reason: str) -> None:
        if not self._ending_for:
            self._ending_for = reason
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._ending.set)

    async def _watch(self, registry: Registry) -> None:
        """End when idle, and when the runtime folder is no longer ours."""
        while True:
            await asyncio.sleep(min(IDLE_LOOK_S, self._options.idle_s / 4))
            if not registry.live_count and self._activity.idle_s >= self._options.idle_s:
                self._end("nobody asked")
            if not (self._options.runtime_dir / "server.lock").exists():
                self._end("its runtime folder is gone")

    def _describe(self, listener: socket.socket, demo_url: str) -> dict[str, object]:
        options = self._options
        is_socket = options.tcp is None
        address = listener.getsockname()
        return {
            "pid": os.getpid(),
            "socket": str(options.runtime_dir / "api.sock") if is_socket else "",
            "url": "http://local/api" if is_socket else f"http://{address[0]}:{address[1]}/api",
            "version": _version(),
            "protocol": PROTOCOL,
            "started_ms": time.time_ns() // 1_000_000,
            "demo_model_url": demo_url,
            "opencode_version": opencode.VERSION if is_socket and options.opencode else "",
            "upstreams": [
                f"{host}={address}:{port}" for host, (address, port) in options.upstreams.items()
            ],
        }

    def _clean_up(self) -> None:
        for name in ("server.json", "api.sock"):
            with suppress(OSError):
                (self._options.runtime_dir / name).unlink()


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


def _allow_many_files() -> None:
    """Take what the system allows: a sandbox needs some twenty descriptors, the usual is 1024."""
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


def _version() -> str:
    try:
        return importlib.metadata.version("opencode-magic")
    except importlib.metadata.PackageNotFoundError:
        return "0"
