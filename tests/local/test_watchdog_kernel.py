"""What the kernel keeps for a sandbox, and no process shows, is within limits too."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, cast

import pytest

from opencode_magic.local.isolation import MIB, Limits
from opencode_magic.local.watchdog import Watchdog
from tests.local import keepers
from tests.local.keepers import eventually

if TYPE_CHECKING:
    from opencode_magic.local.gauge import Breach, Gauge, Process

SOCKETS = """
import os, socket, sys, time
kept = []
def send(sock):
    sock.setblocking(False)
    try:
        while True: sock.send(bytes(60_000))
    except BlockingIOError:
        pass
def pairs():
    ends = socket.socketpair()
    kept.extend(ends)
    for end in ends: send(end)
def not_accepted():
    if not kept:
        kept.append(socket.socket(socket.AF_UNIX))
        kept[0].bind("")
        kept[0].listen(4096)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(kept[0].getsockname())
        send(sock)
def connections():
    if not kept:
        kept.append(socket.create_server(("127.0.0.1", 0), backlog=4096))
    kept.append(socket.create_connection(kept[0].getsockname()))
    send(kept[-1])
def from_closed():
    kept.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    kept[-1].bind("")
    for _ in range(10):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(kept[-1].getsockname())
            send(sock)
began = time.monotonic()
while time.monotonic() - began < 15:
    globals()[sys.argv[1]]()
    time.sleep(0.002)
"""
MAPPINGS = """
import ctypes, mmap, os, time
libc, pairs = ctypes.CDLL(None), 32_000
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
room = mmap.mmap(-1, pairs * 2 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
first = ctypes.addressof(ctypes.c_char.from_buffer(room))
for pair in range(pairs):
    libc.mprotect(first + pair * 2 * mmap.PAGESIZE, mmap.PAGESIZE, 0)  # one mapping is two now
for _ in range(100):
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)
time.sleep(15)
"""
OPEN = """
import os, time
for _ in range(8):
    if os.fork() == 0: break
kept = [os.pipe() for _ in range(150)]
time.sleep(15)
"""


@pytest.mark.parametrize("manner", ["pairs", "not_accepted", "from_closed"])
def test_memory_in_sockets_is_limited(manner: str) -> None:
    """What waits in sockets counts, also in those that no process has open."""
    with keepers.sandbox(Limits(memory_bytes=200 * MIB)) as made:
        quiet = made.start("sleep", "60")
        eater = made.start("python3", "-c", SOCKETS, manner)
        code = eater.wait(30)
        most = max(breach.used for breach in made.keeper.breaches)
        said = b"".join(output.data for output in eater.outputs()).decode()

        assert code == 137
        assert "was ended: the sandbox is over its limit of 200 MiB of memory" in said
        assert most < 600 * MIB
        assert eventually(lambda: made.keeper.waiting_bytes()["other"] < 100 * MIB, timeout_s=5)
        quiet.signal(9)
        assert made.run("echo", "on") == (0, "on\n")


def test_memory_in_connections_is_limited() -> None:
    """The machine's memory for TCP is everybody's: a sandbox may take a part of it."""
    with keepers.sandbox(Limits(connection_bytes=40 * MIB)) as made:
        eater = made.start("python3", "-c", SOCKETS, "connections")
        code = eater.wait(30)
        said = b"".join(output.data for output in eater.outputs()).decode()

        assert code == 137
        assert "was ended: the sandbox is over its limit of 40 MiB in connections" in said
        assert made.run("echo", "on") == (0, "on\n")


def test_a_connection_holds_little() -> None:
    """One connection takes no more than two megabytes of the machine's memory at most."""
    source = (
        "import socket\n"
        "with socket.create_server(('127.0.0.1', 0)) as server:\n"
        "    sock, sent = socket.create_connection(server.getsockname()), 0\n"
        "    sock.settimeout(0.5)\n"
        "    try:\n"
        "        while True: sent += sock.send(bytes(100_000))\n"
        "    except TimeoutError: print(sent < 2_000_000)\n"
    )
    with keepers.sandbox() as made:
        assert made.run("python3", "-c", source) == (0, "True\n")


def test_memory_for_mappings_is_limited() -> None:
    """What the kernel keeps for each mapping counts, however small the memory of each process."""
    with keepers.sandbox(Limits(memory_bytes=700 * MIB)) as made:
        mapper = made.start("python3", "-c", MAPPINGS)

        assert eventually(lambda: breached(made), timeout_s=15)
        used = [process.memory_bytes for process in made.keeper.processes()]
        mapper.signal(9)
        mapper.wait(10)
        said = b"".join(output.data for output in mapper.outputs()).decode()

        assert "was ended: the sandbox is over its limit of 700 MiB of memory" in said
        assert sum(used) < 690 * MIB
        assert max(breach.used for breach in made.keeper.breaches) < 1400 * MIB
        assert made.run("echo", "on") == (0, "on\n")


def test_open_files_of_all_processes_are_limited() -> None:
    """Processes that each have few files open have too many together: some are ended."""
    with keepers.sandbox(Limits(all_open_files=1000)) as made:
        opener = made.start("python3", "-c", OPEN)

        assert eventually(lambda: 0 < count_open(made) <= 1000 and breached(made), timeout_s=10)
        kinds = {breach.kind for breach in made.keeper.breaches}
        left = len(made.keeper.processes())
        opener.signal(9)
        opener.wait(10)
        said = b"".join(output.data for output in opener.outputs()).decode()

        assert kinds == {"open files"}
        assert left == 3
        assert "was ended: the sandbox is over its limit of 1000 open files" in said
        assert made.run("echo", "on") == (0, "on\n")


@pytest.mark.parametrize("dumpable", [1, 0])
def test_watches_of_epoll_are_limited(dumpable: int) -> None:
    """The kernel counts them by user: a sandbox leaves the user's own programs half."""
    source = (
        "import ctypes, os, select, time\n"
        f"ctypes.CDLL(None).prctl(4, {dumpable}, 0, 0, 0)\n"
        "ends = [end for _ in range(1000) for end in os.pipe()]\n"
        "polls = [select.epoll() for _ in range(400)]\n"
        "for poll in polls:\n"
        "    for end in ends: poll.register(end)\n"
        "time.sleep(20)\n"
    )
    with keepers.sandbox(Limits(watches=200_000)) as made:
        watcher = made.start("python3", "-c", source)
        code = watcher.wait(15)
        said = b"".join(output.data for output in watcher.outputs()).decode()

        assert code == 137
        assert "was ended: the sandbox is over its limit of 200000 watches by epoll" in said
        assert made.run("echo", "on") == (0, "on\n")


def test_who_hides_its_files_is_not_taken_to_watch_many() -> None:
    """A program that closes itself to others' looks, as those with secrets do, is let be."""
    source = (
        "import ctypes, select, time; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n"
        "poll = select.epoll(); time.sleep(7)"
    )
    with keepers.sandbox(Limits(watches=200_000)) as made:
        hidden = [made.start("python3", "-c", source) for _ in range(5)]

        assert [program.wait(20) for program in hidden] == [0] * 5
        assert not breached(made)


def test_what_a_socket_holds_cannot_be_raised() -> None:
    """A wish for larger buffers passes and changes nothing; other options are the program's own."""
    source = (
        "import socket\n"
        "for kind in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):\n"
        "    with socket.socket(kind) as sock:\n"
        "        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):\n"
        "            before = sock.getsockopt(socket.SOL_SOCKET, option)\n"
        "            sock.setsockopt(socket.SOL_SOCKET, option, 8 << 20)\n"
        "            print(sock.getsockopt(socket.SOL_SOCKET, option) == before)\n"
        "        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)\n"
        "        print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))\n"
    )
    with keepers.sandbox() as made:
        assert made.run("python3", "-c", source) == (0, "True\nTrue\n1\n" * 3)


@pytest.mark.parametrize(("flags", "times"), [(0, 1), (0x400, 21)])
def test_open_files_of_threads_count_once(flags: int, times: int) -> None:
    """Threads share their open files, and count where one has its own (CLONE_FILES)."""
    source = (
        "import ctypes, threading, time\n"
        "kept = [open('/dev/null') for _ in range(100)]\n"
        "def own():\n"
        f"    ctypes.CDLL(None).unshare({flags})\n"
        "    time.sleep(20)\n"
        "for _ in range(20): threading.Thread(target=own, daemon=True).start()\n"
        "time.sleep(20)\n"
    )
    with keepers.sandbox() as made:
        program = made.start("python3", "-c", source)

        assert eventually(lambda: 100 * times < count_open(made) < 110 * times, timeout_s=5)
        program.signal(9)


class Forgetful:
    """A sandbox's keeper that fails, for some looks, in a way that nobody thought of."""

    def __init__(self, made: keepers.Sandbox) -> None:
        self.keeper = made.keeper
        self.looks = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.keeper, name)

    def processes(self) -> list[Process]:
        """Fail twice, then give what the keeper gives."""
        self.looks += 1
        if self.looks < 3:
            raise KeyError(self.looks)
        return self.keeper.processes()


def test_the_watchdog_outlives_a_failed_look() -> None:
    """Whatever one look meets, the limits hold from the next one on."""
    breaches: list[Breach] = []
    with keepers.sandbox() as made:
        eater = made.start(
            "python3", "-c", "kept = bytearray(300 << 20); import time; time.sleep(20)"
        )
        limits = Limits(memory_bytes=200 * MIB)
        gauge = cast("Gauge", Forgetful(made))
        watchdog = Watchdog(gauge, made.folder, limits, breaches.append)
        watchdog.start()
        code = eater.wait(20)
        watchdog.stop()

    assert code == 137
    assert [breach.kind for breach in breaches] == ["memory"]


def breached(made: keepers.Sandbox) -> bool:
    return bool(made.keeper.breaches)


def count_open(made: keepers.Sandbox) -> int:
    pids = [process.pid for process in made.keeper.processes()]
    return sum(made.keeper.count("files", pids).values())


def test_who_has_few_sockets_is_not_ended_for_the_machine() -> None:
    """The kernel's memory may grow for others: a sandbox answers for its own sockets alone."""
    source = "import socket, time; kept = [socket.socketpair() for _ in range(50)]; time.sleep(3)"
    with keepers.sandbox(Limits(memory_bytes=200 * MIB)) as made:
        sent = 0
        honest = made.start("python3", "-c", source)
        others = [socket.socketpair() for _ in range(2000)]
        for end, _ in others:
            end.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += end.send(bytes(60_000))
        code = honest.wait(20)
        for pair in others:
            for end in pair:
                end.close()

    assert sent > 250 * MIB
    assert code == 0
    assert made.keeper.breaches == []
