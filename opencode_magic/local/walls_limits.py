"""Attempts to take more of this machine than a sandbox may, and to outlive it.

Each is one small program. The limit holds where the program meets an error that names it, or is
ended with a line that says why.
"""

from __future__ import annotations

import json
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opencode_magic.core.checks import Check
from opencode_magic.local import image
from opencode_magic.local.commands import CommandSpec, run
from opencode_magic.local.isolation import MIB, Limits
from opencode_magic.local.walls import STEP

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opencode_magic.local.commands import Command
    from opencode_magic.local.keeper import Keeper

LIMITS = Limits(
    memory_bytes=160 * MIB,
    connection_bytes=24 * MIB,
    disk_bytes=64 * MIB,
    processes=60,
    all_open_files=2000,
    open_files=64,
    file_bytes=24 * MIB,
    data_bytes=120 * MIB,
    tmp_bytes=8 * MIB,
    shm_bytes=8 * MIB,
    run_bytes=8 * MIB,
    cpu_s=1,
)
"""Small ones, so that they are soon reached."""
FOLDERS = {name: name for name in ("/vercel", "/var/tmp", "/tmp", "/dev/shm", "/run")}  # noqa: S108 - inside
PATIENCE_S = 10.0
"""How long an attempt waits for what should end it."""
TIMEOUT_S = 20.0
END_TIMEOUT_S = 3.0

ATTEMPTS = {
    "processor time": ("compute()", "CPU time limit exceeded"),
    "more processes": ("processes(200)", "Resource temporarily unavailable"),
    "memory of one process": ("bytearray(200 << 20)", "MemoryError"),
    "memory of several processes": ("eaters(4, 70)", r"over its limit of \d+ MiB of memory"),
    "memory behind an ended first thread": (
        "eaters(4, 70, behind_first_thread)",
        r"over its limit of \d+ MiB of memory",
    ),
    "memory in sockets": ("sockets(1800)", r"over its limit of \d+ MiB of memory"),
    "memory in connections that nobody accepts": (
        "unaccepted(3000)",
        r"over its limit of \d+ MiB of memory",
    ),
    "memory in connections": (
        "connections(60)",
        r"over its limit of \d+ MiB in connections",
    ),
    "memory for mappings": ("mappings(54)", r"over its limit of \d+ MiB of memory"),
    "open files": ("[open('/dev/null') for _ in range(200)]", "Too many open files"),
    "open files of several processes": (
        "openers(45, 55)",
        r"over its limit of \d+ open files",
    ),
    "one large file": ("fill('/vercel', 40)", "File too large"),
    "disk": ("flood('/vercel')", r"over its limit of \d+ MiB of disk"),
    "disk for temporary files": (
        "flood('/var/tmp')",
        r"over its limit of \d+ MiB of disk",
    ),
    "disk in closed folders": (
        "flood('/vercel', 12, shut)",
        r"over its limit of \d+ MiB of disk",
    ),
    "disk of files on their way": (
        "flood('/vercel', 23, send_away)",
        r"over its limit of \d+ MiB of disk",
    ),
    **{
        f"room in {folder}": (f"fill('{folder}', 20)", "No space left on device")
        for folder in ("/tmp", "/dev/shm", "/run")  # noqa: S108 - inside
    },
}
"""What is tried, and what is said where the limit holds."""
_SLOW = "processor time"
OUTLIVING = "a process that hides from its sandbox's end"
PROGRAM = r"""
import array, ctypes, json, mmap, os, signal, socket, sys, threading, time
ends = socket.socketpair()
source, folders, patience_s = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3])
written = []
def fill(folder, mib):
    written.append(folders[folder] + "/filler" + str(len(written)))
    with open(written[-1], "wb", 0) as file:
        for _ in range(mib): file.write(bytes(1 << 20))
def send_away(path):
    # A file without a name, in a socket that nobody reads: no list of open files has it.
    with open(path) as file:
        os.unlink(path)
        word = array.array("i", [file.fileno()])
        ends[0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, word)])
def shut(path):
    os.mkdir(path + ".d")
    os.rename(path, path + ".d/f")
    os.chmod(path + ".d", 0)
def open_again(folder):
    os.chmod(folder, 0o700)
    os.unlink(folder + "/f")
    os.rmdir(folder)
def flood(folder, mib=12, hide=lambda path: None):
    deadline = time.monotonic() + patience_s
    while len(written) < 12 or len(written) < 60 and time.monotonic() < deadline:
        fill(folder, mib)
        hide(written[-1])
        # Whoever watches may need a moment.
        if len(written) > 12: time.sleep(patience_s / 60)
def compute():
    while time.process_time() < 1.6: pass
def forked(count, job):
    made = []
    try:
        for _ in range(count):
            child = os.fork()
            if child == 0:
                ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: whoever is ended, all are
                job()
                os._exit(0)
            made.append(child)
        yield made
    finally:
        for child in made: os.kill(child, 9)
        for child in made: os.waitpid(child, 0)
def processes(count):
    for _ in forked(count, lambda: time.sleep(60)): pass
def behind_first_thread(job):
    threading.Thread(target=job).start()
    ctypes.CDLL(None).syscall(60 if os.uname().machine == "x86_64" else 93, 0)
def eaters(count, mib, begin=lambda job: job()):
    def eat():
        kept = bytearray(mib << 20)
        for at in range(0, len(kept), 4096): kept[at] = 1
        time.sleep(60)
    for made in forked(count, lambda: begin(eat)): watch(made)
def send(sock):
    sock.setblocking(False)
    try:
        while True: sock.send(bytes(60_000))
    except BlockingIOError:
        pass
def unaccepted(count):
    # The data of a closed socket waits in the queue of one that nobody has taken.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")
        listener.listen(4096)
        for _ in range(count):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(listener.getsockname())
                send(sock)
        wait()
def connections(count):
    def hold():
        kept = [socket.create_server(("127.0.0.1", 0), backlog=4096)]
        for _ in range(20):
            kept.append(socket.create_connection(kept[0].getsockname()))
            send(kept[-1])
            time.sleep(patience_s / 100)
        time.sleep(60)
    for made in forked(count // 20, hold): watch(made)
def mappings(count):
    # Every other page can be read: what was one mapping is many, and a fork has them all again.
    libc, page, pairs = ctypes.CDLL(None), mmap.PAGESIZE, 16_000
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    first = libc.mmap(None, 2 * pairs * page, 0, kind, -1, 0)
    for pair in range(pairs): libc.mprotect(first + 2 * pair * page, page, mmap.PROT_READ)
    for made in forked(count, lambda: time.sleep(60)): watch(made)
def sockets(count):
    def hold():
        kept = [end for _ in range(25) for end in socket.socketpair()]
        for end in kept: send(end)
        time.sleep(60)
    for made in forked(count // 50, hold): watch(made)
def openers(count, files):
    def hold():
        kept = [open("/dev/null") for _ in range(files)]
        time.sleep(60)
    for made in forked(count, hold): watch(made)
def wait():
    # Whoever watches may need a moment.
    time.sleep(patience_s / 5)
def watch(made):
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        found, status = os.waitpid(-1, os.WNOHANG)
        if found:
            made.remove(found)
            raise ChildProcessError("a process was ended by signal " + str(status))
        time.sleep(0.01)
def outlive(name):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (1, 2, 3, 15): signal.signal(number, signal.SIG_IGN)
            null = os.open("/dev/null", os.O_RDWR)
            for number in (0, 1, 2): os.dup2(null, number)
            os.execvp("sh", ["sh", "-c", "trap '' 1 2 3 15; sleep 60; :", name])
        os._exit(0)
    os.wait()
try:
    eval(source)
    print("it worked")
except BaseException as exc:
    print(type(exc).__name__, exc)
finally:
    for path in written:
        for remove, place in ((os.unlink, path), (open_again, path + ".d")):
            try: remove(place)
            except OSError: pass
"""
"""Tries its first argument; the others are folders by the name they have inside, and patience."""


@dataclass(frozen=True, slots=True)
class Met:
    """What one attempt met."""

    code: int | None
    said: str


def arguments(source: str, folders: Mapping[str, str], patience_s: float) -> list[str]:
    """Give what ``PROGRAM`` is started with, after its own text."""
    return [source, json.dumps(folders), str(patience_s)]


def try_all(keeper: Keeper) -> dict[str, Met]:
    """Make every attempt in a keeper's sandbox, which has LIMITS; gives what each met."""
    computing = _start(keeper, ATTEMPTS[_SLOW][0])
    met = {}
    for name, (source, _) in sorted(ATTEMPTS.items(), key=lambda item: item[0].startswith("disk")):
        if name.startswith("disk") and _SLOW not in met:
            # The watchdog may end only who fills the disk, so that nobody else is there then.
            met[_SLOW] = _end(computing)
        if name != _SLOW:
            met[name] = _end(_start(keeper, source))
            _let_end(keeper)
    return {name: met[name] for name in ATTEMPTS}


def judge(met: Mapping[str, Met]) -> tuple[Check, ...]:
    """Say of each attempt whether its limit held, and in which words the program learns it."""
    return tuple(_judge_one(name, one) for name, one in met.items())


def outlive(keeper: Keeper, name: str) -> Check:
    """Start a process that does all to survive, end the sandbox, and say whether it is gone.

    Args:
        keeper: Is closed by this.
        name: A text that no other process has in its arguments.
    """
    _end(_start(keeper, f"outlive({name!r})"))
    if not _is_running(name, within_s=END_TIMEOUT_S):
        return Check(OUTLIVING, "blocked", "it could not be tried", STEP)
    began = time.monotonic()
    keeper.close()
    while _is_running(name):
        if time.monotonic() - began > END_TIMEOUT_S:
            return Check(OUTLIVING, "blocked", "it still runs", STEP)
        time.sleep(0.01)
    return Check(OUTLIVING, "ok", f"gone {time.monotonic() - began:.1f} s after the end")


def _start(keeper: Keeper, source: str) -> Command:
    program = image.inside_python().program
    argv = [program, "-I", "-c", PROGRAM, *arguments(source, FOLDERS, PATIENCE_S)]
    return run(keeper, CommandSpec(argv), image.environment(has_opencode=False))


def _let_end(keeper: Keeper) -> None:
    """Wait for the processes of an attempt, which counts no more when its first one has ended."""
    deadline = time.monotonic() + END_TIMEOUT_S
    while len(keeper.processes()) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)


def _end(command: Command) -> Met:
    code = command.wait(TIMEOUT_S)
    said = b"".join(output.data for output in command.outputs()).decode(errors="replace")
    return Met(code, said.strip())


def _judge_one(name: str, met: Met) -> Check:
    said = met.said
    if met.code is not None and met.code > 128:  # noqa: PLR2004 - 128 and a signal's number
        said = f"{said}\n{signal.strsignal(met.code - 128)}".strip()
    found = re.search(f"^.*{ATTEMPTS[name][1]}.*$", said, re.MULTILINE)
    if found is not None:
        return Check(name, "ok", f"stopped: {found[0].strip()}")
    last = said.splitlines()[-1] if said else f"it ended with {met.code} and without a word"
    return Check(name, "blocked", last, STEP)


def _is_running(name: str, within_s: float = 0.0) -> bool:
    deadline = time.monotonic() + within_s
    while not _is_found(name):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
    return True


def _is_found(name: str) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if name.encode() in words:
            return True
    return False
