"""A sandbox's life tied to its kernel: a heartbeat, a state file, a sweep of what others left."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import platform
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from opencode_magic.core.status import Home
from opencode_magic.settings import make_private_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opencode_magic.settings import Settings

EXIT_BUDGET_S = 2.0
SHORTEST_BEAT_S = 5.0


@dataclass(frozen=True, slots=True)
class LeaseFile:
    """What is needed to find a sandbox again, or to remove what a dead kernel left."""

    name: str
    home: Home
    pid: int
    pid_started: str
    """Tells the kernel from a later process with its number; empty where it is not known."""
    host: str
    created_ms: int
    cloud_url: str = ""
    url: str = ""
    session_id: str = ""
    process_id: str = ""
    workspace: str = ""
    password: str = field(default="", repr=False)
    """The agent server's own; the attach command reads it from here."""


def lease_folder(settings: Settings) -> Path:
    """Give the folder of lease files, made private.

    Raises:
        SettingsError: It cannot be made.
    """
    return make_private_dir(make_private_dir(settings.state_dir) / "leases")


def new_lease(settings: Settings, name: str, home: Home) -> LeaseFile:
    """Give the lease of a sandbox that is about to be created by this process."""
    pid = os.getpid()
    return LeaseFile(
        name=name,
        home=home,
        pid=pid,
        pid_started=_started(pid),
        host=platform.node(),
        created_ms=time.time_ns() // 1_000_000,
        cloud_url=settings.cloud_url,
    )


def write_lease(settings: Settings, lease: LeaseFile) -> None:
    """Write a lease file, whole and readable by its owner alone.

    Raises:
        SettingsError: The folder cannot be made.
        OSError: The file cannot be written.
    """
    folder = lease_folder(settings)
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".new-", delete=False) as file:
        path = Path(file.name)  # mkstemp makes it 0600
        try:
            json.dump(asdict(lease), file)
            file.close()  # Windows renames no open file
            path.replace(folder / f"{lease.name}.json")
        finally:
            path.unlink(missing_ok=True)


def remove_lease(settings: Settings, name: str) -> None:
    """Remove a lease file. Never raises."""
    with contextlib.suppress(OSError):
        (settings.state_dir / "leases" / f"{name}.json").unlink(missing_ok=True)


def load_leases(settings: Settings) -> Iterator[LeaseFile]:
    """Read all lease files; broken ones are passed over."""
    for path in sorted((settings.state_dir / "leases").glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            value = json.loads(path.read_text(encoding="utf-8"))
            lease = LeaseFile(**value)
            if lease.name == path.stem and lease.home in get_args(Home):
                yield lease


def is_orphaned(lease: LeaseFile) -> bool:
    """Whether the kernel that held it is surely gone. One on another machine is not judged."""
    if lease.host != platform.node():
        return False
    return not _is_running(lease.pid, lease.pid_started)


class Heartbeat:
    """A daemon thread that lets a sandbox live on while its kernel does, and ends it at exit.

    The thread also does the ending: at the interpreter's exit no new thread can be started, and a
    call in the main thread could not be given up after two seconds.
    """

    def __init__(
        self, beat_s: float, beat: Callable[[], bool], destroy: Callable[[], None]
    ) -> None:
        self._beat_s = max(SHORTEST_BEAT_S, beat_s)
        self._beat = beat
        self._destroy = destroy
        self._wake = threading.Event()
        self._done = threading.Event()
        self._must_destroy = False
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def start(self) -> None:
        """Begin; the sandbox is destroyed at the interpreter's exit."""
        self._thread.start()
        atexit.register(self._at_exit)

    def stop(self) -> None:
        """End the thread and leave the sandbox as it is."""
        atexit.unregister(self._at_exit)
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=EXIT_BUDGET_S)

    def _at_exit(self) -> None:
        if os.getpid() != self._pid:
            return  # a forked child has no such thread, and the sandbox is not its own
        self._must_destroy = True
        self._wake.set()
        self._done.wait(EXIT_BUDGET_S)

    def _run(self) -> None:
        while not self._wake.wait(self._beat_s):
            if not self._beat():
                break
        if self._must_destroy:
            self._destroy()
        self._done.set()


def with_route(
    lease: LeaseFile, *, url: str, session_id: str, process_id: str, workspace: str, password: str
) -> LeaseFile:
    """Give the lease once its server runs."""
    return replace(
        lease,
        url=url,
        session_id=session_id,
        process_id=process_id,
        workspace=workspace,
        password=password,
    )


def _is_running(pid: int, started: str) -> bool:
    if not hasattr(os, "getuid"):
        # On Windows signal 0 would end the process; a lease there runs out by its time limit.
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    now = _started(pid)
    return not (started and now and started != now)


def _started(pid: int) -> str:
    """Give a process's start time where the system says it; empty elsewhere."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        fields = text.rpartition(")")[2].split()
        is_zombie = fields[0] == "Z"
        return "ended" if is_zombie else fields[19]
    except (OSError, IndexError):
        return ""
