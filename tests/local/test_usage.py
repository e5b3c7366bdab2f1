"""What a sandbox's programs use is seen, however they hide it."""

from __future__ import annotations

import pytest

from opencode_magic.local import image
from opencode_magic.local.children import NOTES_KEPT
from opencode_magic.local.gauge import Breach, Process
from opencode_magic.local.isolation import Limits
from opencode_magic.local.keeper import BREACHES_KEPT
from tests.local import keepers
from tests.local.keepers import TIME_LIMIT_S

MIB = 1024 * 1024
EXIT = """
import ctypes, os, threading, time
libc = ctypes.CDLL(None)
def end_first_thread():
    libc.syscall(60 if os.uname().machine == "x86_64" else 93, 0)
"""
FIRST_THREAD_ENDED = f"""{EXIT}
def eat():
    kept = [bytearray(10 << 20) for _ in range(40)]
    print("eaten", flush=True)
    time.sleep(30)
threading.Thread(target=eat).start()
end_first_thread()
"""
PAGE_TABLES = """
import ctypes, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
start = libc.mmap(None, 1 << 40, 1, 0x4022, -1, 0)
libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(1 << 40), 15)
for number in range(100_000):
    ctypes.c_char.from_address(start + (number << 21)).value
print("eaten", flush=True)
time.sleep(30)
"""

HOARD = """
import array, ctypes, mmap, os, socket, sys, threading, time
libc, kept, ends = ctypes.CDLL(None), [], socket.socketpair()
def keep(file):
    if how == "mapped":
        kept.append(mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ))
        os.closerange(8, 200)  # Python's own map keeps the file open as well
    elif how == "on its way":
        word = array.array("i", [file.fileno()])
        ends[0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, word)])
    else:
        kept.append(os.dup(file.fileno()))
def hoard():
    if how == "in a thread":
        libc.unshare(0x400)
    for _ in range(30):  # others may give room back at the same time
        with open("/vercel/f", "wb+", 0) as file:
            os.unlink("/vercel/f")
            file.write(bytes(40 << 20))
            os.fsync(file.fileno())
            keep(file)
        time.sleep(0.3)
    time.sleep(30)
how = sys.argv[1]
thread = threading.Thread(target=hoard)
thread.start()
thread.join()
"""


@pytest.mark.parametrize("how", ["mapped", "on its way", "in a thread"])
def test_disk_that_hides_is_counted(how: str) -> None:
    """That of files without a name: mapped and closed, sent and not received, in a thread only."""
    with keepers.sandbox(Limits(disk_bytes=150 * MIB)) as made:
        hoarder = made.start(image.inside_python().program, "-I", "-S", "-c", HOARD, how)
        code = hoarder.wait(TIME_LIMIT_S)

        assert code == 137
        assert made.keeper.breaches[0].kind == "disk"
        assert "python" in made.keeper.breaches[0].process.name


@pytest.mark.parametrize("program", [FIRST_THREAD_ENDED, PAGE_TABLES])
def test_memory_that_hides_is_counted(program: str) -> None:
    """That of a process whose first thread has ended, and the tables of an empty terabyte."""
    with keepers.sandbox(Limits(memory_bytes=150 * MIB)) as made:
        eater = made.start(image.inside_python().program, "-I", "-S", "-c", program)
        code = eater.wait(TIME_LIMIT_S)

        assert code == 137
        assert "python" in made.keeper.breaches[0].process.name
        assert made.keeper.breaches[0].kind == "memory"


def test_what_is_filled_fast_is_counted_soon() -> None:
    """Where counting is slow it is done rarely, but not while more is lost than may be used."""
    with keepers.sandbox(Limits(disk_bytes=100 * MIB)) as made:
        assert made.keeper._watchdog is not None
        made.keeper._watchdog._next_count_s = 600.0
        script = "for i in $(seq 150); do head -c 20000000 /dev/zero > /vercel/f$i; sleep 0.1; done"
        filler = made.start("sh", "-c", script)  # others may give room back at the same time

        assert filler.wait(TIME_LIMIT_S) == 137
        assert made.keeper.breaches[0].kind == "disk"


def test_limits_that_are_reached_for_ever_take_no_memory() -> None:
    """The latest breaches and lines are kept, of however many there were."""
    with keepers.sandbox() as made:
        command = made.start("cat", has_stdin=True)
        process = Process(2, command.pid, command.pid, 0, 0, "cat")
        for number in range(BREACHES_KEPT + NOTES_KEPT):
            made.keeper._note(Breach("memory", number, MIB, process))

        assert [breach.used for breach in made.keeper.breaches] == [
            number + NOTES_KEPT for number in range(BREACHES_KEPT)
        ]
        command.close_stdin()
        assert command.wait(TIME_LIMIT_S) == 0
        said = b"".join(output.data for output in command.outputs())
        assert said.count(b"over its limit") == NOTES_KEPT
