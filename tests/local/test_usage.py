"""What a sandbox's programs use is seen, however they hide it."""

from __future__ import annotations

import pytest

from opencode_magic.local import image
from opencode_magic.local.isolation import Limits
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


@pytest.mark.parametrize("program", [FIRST_THREAD_ENDED, PAGE_TABLES])
def test_memory_that_hides_is_counted(program: str) -> None:
    """That of a process whose first thread has ended, and the tables of an empty terabyte."""
    with keepers.sandbox(Limits(memory_bytes=150 * MIB)) as made:
        eater = made.start(image.inside_python().program, "-I", "-S", "-c", program)
        code = eater.wait(TIME_LIMIT_S)

        assert code == 137
        assert "python" in made.keeper.breaches[0].process.name
        assert made.keeper.breaches[0].kind == "memory"
