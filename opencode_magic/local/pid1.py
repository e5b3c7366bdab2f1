"""The first process inside a sandbox: starts programs on request, reaps what ends.

It has the same filter, user and capabilities as the programs it starts, so taking it over gains
nothing; it hides its own memory from them all the same. Needs the standard library only, and
runs on the Python of the sandbox's system (3.9 or later).
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING, NoReturn

from opencode_magic.local.wire import MessageReader, WireError, send_message

if TYPE_CHECKING:
    from collections.abc import Iterator

_PR_SET_DUMPABLE = 4
_SHELL_SIGNAL_BASE = 128
MEMORY_FOLDERS = ("/tmp", "/dev/shm", "/run")  # noqa: S108 - a sandbox's own
MEMORY_FILES_LIMIT = 300_000
"""Files in one folder that is memory: each takes a kilobyte of the kernel's that nobody counts."""
_PROGRAM_SCORE, _OWN_SCORE = 800, 600
_LOOK_INTERVAL_S = 0.5
_EXEC_LOOK_S, _EXEC_LIMIT_S = 0.05, 20.0
"""How often a forked process is looked at that does not get to its program, and for how long."""


def main(channel_fd: int) -> NoReturn:
    """Serve until the host is gone; the kernel then ends every process of the sandbox."""
    score = _Score()
    hide_memory()
    channel = socket.socket(fileno=channel_fd)
    channel.set_inheritable(False)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    with contextlib.suppress(WireError):
        _Spawner(channel, score).serve()
    os._exit(0)


def hide_memory() -> None:
    """Keep the sandbox's programs from reading or writing this process through ``/proc``."""
    with contextlib.suppress(ImportError, OSError):
        import ctypes  # noqa: PLC0415 - missing on a minimal Python

        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


class _Score:
    """Whom the kernel ends first where memory is short: a program, then us, then the host's.

    Opened before our memory is hidden: a hidden process, and so what it forks, cannot open it.
    """

    def __init__(self) -> None:
        self._file: int | None = None
        with contextlib.suppress(OSError):
            self._file = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        self.set(_OWN_SCORE)

    def set(self, score: int) -> None:
        """Take a score, which what is forked from then on has too."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._file, str(score).encode(), 0)


class _Spawner:
    def __init__(self, channel: socket.socket, score: _Score) -> None:
        self._channel = channel
        self._score = score
        self._reader = MessageReader(channel, takes_fds=True)
        self._children: set[int] = set()
        self._wake, wake_end = socket.socketpair()
        self._wake.setblocking(False)  # noqa: FBT003 - the standard library's signature
        wake_end.setblocking(False)  # noqa: FBT003 - the same
        self._wake_end = wake_end
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(wake_end.fileno(), warn_on_full_buffer=False)

    def serve(self) -> NoReturn:
        send_message(self._channel, {"event": "ready"})
        while True:
            wait_s = _LOOK_INTERVAL_S if self._children else None
            ready, _, _ = select.select([self._channel, self._wake], [], [], wait_s)
            self._look_at_memory_folders()
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    self._wake.recv(4096)
                self._reap()
            if self._channel in ready:
                for message, fds in self._reader.read_ready():
                    self._answer(message, fds)

    def _look_at_memory_folders(self) -> None:
        for folder in MEMORY_FOLDERS:
            found = os.statvfs(folder)
            if found.f_files - found.f_ffree > MEMORY_FILES_LIMIT and self._children:
                line = f"all was ended: {folder} is over its limit of {MEMORY_FILES_LIMIT} files"
                send_message(self._channel, {"event": "note", "line": line})
                with contextlib.suppress(ProcessLookupError):
                    os.kill(-1, signal.SIGKILL)
                _empty(folder)

    def _answer(self, message: dict[str, object], fds: list[int]) -> None:
        try:
            if message["op"] == "spawn":
                send_message(self._channel, {"id": message["id"], **self._spawn(message, fds)})
            elif message["op"] == "signal":
                self._signal(message)
        finally:
            for fd in fds:
                os.close(fd)

    def _spawn(self, message: dict[str, object], fds: list[int]) -> dict[str, object]:
        """Start a program; the pipe closes at exec, or says what went wrong before.

        What can be known before the fork is: a forked copy pays for every page that it touches.
        """
        limits = list(_limits(message.get("limits")))
        program = _find(message)
        reading, writing = os.pipe()
        self._score.set(_PROGRAM_SCORE)
        try:
            pid = os.fork()
        except OSError as exc:
            self._score.set(_OWN_SCORE)
            os.close(reading)
            os.close(writing)
            return {"event": "failed", "stage": "fork", "errno": exc.errno}
        if pid:
            self._score.set(_OWN_SCORE)
        else:
            _become(message, fds, writing, limits=limits, program=program)
        os.close(writing)
        trouble = _read_trouble(reading, pid)
        if trouble:
            os.waitpid(pid, 0)
            stage, number = trouble.split(":")
            return {"event": "failed", "stage": stage, "errno": int(number)}
        self._children.add(pid)
        return {"event": "started", "pid": pid}

    def _signal(self, message: dict[str, object]) -> None:
        pid, number = int(str(message["pid"])), int(str(message["signal"]))
        with contextlib.suppress(ProcessLookupError, PermissionError, ValueError):
            if message.get("is_group"):
                os.killpg(pid, number)
            elif pid in self._children:
                os.kill(pid, number)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._children:
                self._children.discard(pid)
                send_message(self._channel, {"event": "exited", "pid": pid, "code": _code(status)})


def _read_trouble(reading: int, pid: int) -> str:
    """Give what a forked process says before it is the program; empty where it got there.

    Others of the sandbox have the same user, and may stop it on its way: then it is ended.
    """
    said, waited_s = b"", 0.0
    while True:
        ready, _, _ = select.select([reading], [], [], _EXEC_LOOK_S)
        if ready:
            data = os.read(reading, 256)
            if not data:
                os.close(reading)
                return said.decode()
            said += data
            continue
        waited_s += _EXEC_LOOK_S
        if waited_s > _EXEC_LIMIT_S or _is_stopped(pid):
            said = b"stopped on its way:%d" % errno.ECANCELED
            os.kill(pid, signal.SIGKILL)


def _is_stopped(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 - light imports
        return stat.read().rpartition(b")")[2].split()[0] in {b"T", b"t"}


def _empty(folder: str) -> None:
    """Remove what is in a folder; nobody is left to run who could add to it."""
    for where, folders, files in os.walk(folder, topdown=False):
        for name in files:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(where, name))  # noqa: PTH108, PTH118 - light imports
        for name in folders:
            with contextlib.suppress(OSError):
                os.rmdir(os.path.join(where, name))  # noqa: PTH106, PTH118 - the same


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else _SHELL_SIGNAL_BASE - code


def _find(message: dict[str, object]) -> str | None:
    """Give where a bare name is found, if that is certain; else whoever executes it looks."""
    argv, env = message.get("argv"), message.get("env")
    if not (isinstance(argv, list) and argv and isinstance(env, dict) and "PATH" in env):
        return None
    for folder in str(env["PATH"]).split(os.pathsep):
        if "/" in argv[0] or not folder.startswith("/"):
            return None
        place = f"{folder}/{argv[0]}"
        with contextlib.suppress(ValueError):  # no path at all: who executes it says so
            if os.access(place, os.X_OK) and os.path.isfile(place):  # noqa: PTH113 - light imports
                return place
    return None


def _limits(limits: object) -> Iterator[tuple[int, tuple[int, int]]]:
    for name, value in limits.items() if isinstance(limits, dict) else ():
        number = getattr(resource, f"RLIMIT_{name}")
        _soft, hard = resource.getrlimit(number)
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # SIGXCPU first, which says what happened; SIGKILL for those who go on.
        grace = 2 if name == "CPU" else 0
        yield number, (most, most + grace)


def _become(
    message: dict[str, object],
    fds: list[int],
    writing: int,
    *,
    limits: list[tuple[int, tuple[int, int]]],
    program: str | None,
) -> NoReturn:
    """Turn the forked process into the program, or say on the pipe what failed."""
    stage = "setup"
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.umask(0o022)
        for target, fd in enumerate(fds):
            os.dup2(fd, target)
        stage = "limits"
        for limit, most in limits:
            resource.setrlimit(limit, most)
        stage = "cwd"
        os.chdir(str(message["cwd"]))
        stage = "exec"
        argv, env = message["argv"], message["env"]
        if isinstance(argv, list) and isinstance(env, dict):
            if program is not None:
                with contextlib.suppress(OSError):
                    os.execve(program, argv, env)  # noqa: S606 - no shell is wanted
            os.execvpe(argv[0], argv, env)  # noqa: S606 - no shell is wanted
    except OSError as exc:
        os.write(writing, f"{stage}:{exc.errno}".encode())
    except BaseException:  # noqa: BLE001 - a forked copy must never run on
        os.write(writing, f"{stage}:0".encode())
    os._exit(127)


if __name__ == "__main__":
    main(int(sys.argv[1]))
