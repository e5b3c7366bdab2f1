from __future__ import annotations

import time

import pytest

from opencode_magic.local.growth import hidden_now
from opencode_magic.local.isolation import MIB, Limits
from tests.local import keepers
from tests.local.keepers import eventually

EAT = "import time; kept = bytearray({size} << 20); time.sleep(30)"
FILL = "i=0; while true; do i=$((i + 1)); head -c 4000000 /dev/zero > {folder}/f$i; done"
HIDE = """
import ctypes, mmap, sys, time
if sys.argv[1] == "closed":
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
kept = []
while True:
    shared = mmap.mmap(-1, 4 << 20)
    shared.write(bytes(4 << 20))
    shared.madvise(mmap.MADV_DONTNEED)
    kept.append(shared)
    time.sleep(0.002)
"""


def test_memory_of_all_processes_together_is_limited(caplog: pytest.LogCaptureFixture) -> None:
    """A program that takes more than the sandbox may is ended; its command and the log say why."""
    with keepers.sandbox(Limits(memory_bytes=200 * MIB)) as made:
        eater = made.start("python3", "-c", EAT.format(size=400))
        code = eater.wait(20)
        said = b"".join(output.data for output in eater.outputs()).decode()

        assert code == 137
        assert "was ended: the sandbox is over its limit of 200 MiB of memory" in said
        assert [breach.kind for breach in made.keeper.breaches] == ["memory"]
        assert [record.levelname for record in caplog.records if "limit" in record.message] == [
            "WARNING"
        ]
        assert made.run("echo", "on") == (0, "on\n")


def test_small_eaters_count_together() -> None:
    """Processes that are each far below the limit are over it together."""
    with keepers.sandbox(Limits(memory_bytes=200 * MIB)) as made:
        eaters = [made.start("python3", "-c", EAT.format(size=50)) for _ in range(6)]

        assert eventually(lambda: len(made.keeper.breaches) >= 2, timeout_s=20)
        used = sum(process.memory_bytes for process in made.keeper.processes())
        assert used < 300 * MIB
        for eater in eaters:
            eater.signal(9)


def test_shared_pages_count_once() -> None:
    """Processes that share one large memory are not over a limit that it fits."""
    source = (
        "import mmap, os, time\n"
        "shared = mmap.mmap(-1, 100 << 20)\n"
        "for _ in range(100): shared.write(bytes(1 << 20))\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0: sum(shared[::4096]); time.sleep(1); os._exit(0)\n"
        "for _ in range(3): print(os.wait()[1])\n"
    )
    with keepers.sandbox(Limits(memory_bytes=250 * MIB)) as made:
        assert made.run("python3", "-c", source) == (0, "0\n0\n0\n")
        assert made.keeper.breaches == []


def test_a_disk_filler_is_ended() -> None:
    """Whoever fills home or the temporary folder is ended soon after the limit, and told so."""
    for folder in ("/vercel", "/var/tmp"):
        with keepers.sandbox(Limits(disk_bytes=100 * MIB)) as made:
            filler = made.start("sh", "-c", FILL.format(folder=folder))
            began = time.monotonic()
            while filler.wait(0.1) is None and time.monotonic() - began < 20:
                pass
            said = b"".join(output.data for output in filler.outputs()).decode()

            assert filler.exit_code == 137
            assert "limit of 100 MiB of disk" in said
            assert made.run("echo", "on") == (0, "on\n")


def test_after_a_breach_others_live_and_can_make_room() -> None:
    """Only who fills is ended: a quiet server lives on, and what stands there can be removed."""
    with keepers.sandbox(Limits(disk_bytes=100 * MIB)) as made:
        quiet = made.start("sh", "-c", "while true; do echo x >> /vercel/quiet; sleep 0.05; done")
        made.shell("mkdir /vercel/big")
        filler = made.start("sh", "-c", FILL.format(folder="/vercel/big"))

        assert filler.wait(20) == 137
        assert eventually(lambda: bool(made.keeper.breaches), timeout_s=20)
        time.sleep(1.5)
        count = len(made.keeper.breaches)
        assert made.shell("sleep 1; echo done") == (0, "done\n")
        assert quiet.exit_code is None
        assert len(made.keeper.breaches) == count
        assert made.shell("rm -r /vercel/big; du -sm /vercel | cut -f1")[1] == "1\n"
        quiet.signal(9)


def test_who_wrote_nothing_is_not_ended_for_another() -> None:
    """What a program wrote that is over already is nobody else's: a quiet one lives on."""
    with keepers.sandbox(Limits(disk_bytes=50 * MIB)) as made:
        quiet = made.start("sleep", "30")
        made.shell("head -c 200000000 /dev/zero > /vercel/big")

        assert quiet.wait(3) is None
        assert {breach.process.name for breach in made.keeper.breaches} <= {"head"}
        quiet.signal(9)


def test_room_that_is_taken_without_writing_counts() -> None:
    """Who takes disk by other ways than writing is ended as well."""
    source = (
        "import os, time\n"
        "for n in range(200):\n"
        "    fd = os.open(f'/vercel/{n}', os.O_CREAT | os.O_RDWR)\n"
        "    os.posix_fallocate(fd, 0, 20 << 20); time.sleep(0.05)\n"
    )
    with keepers.sandbox(Limits(disk_bytes=100 * MIB)) as made:
        assert made.run("python3", "-c", source)[0] == 137


def test_many_empty_files_are_limited() -> None:
    """Files without content count too."""
    source = (
        "import itertools, os\n"
        "for n in itertools.count():\n"
        "    os.close(os.open(f'/vercel/{n}', os.O_CREAT))"
    )
    with keepers.sandbox(Limits(disk_files=30_000)) as made:
        assert made.run("python3", "-c", source)[0] == 137
        assert made.keeper.breaches[0].kind == "files"
        assert made.run("echo", "on") == (0, "on\n")


def test_files_in_memory_folders_are_limited() -> None:
    """Empty files in /tmp are the kernel's memory: too many end what runs, and are removed."""
    source = (
        "import itertools, os\n"
        "for n in itertools.count():\n"
        "    os.close(os.open(f'/tmp/{n}', os.O_CREAT))"
    )
    with keepers.sandbox() as made:
        code, text = made.run("python3", "-c", source)

        assert code == 137
        assert "all was ended: /tmp is over its limit of 300000 files" in text
        assert made.shell("ls /tmp | wc -l") == (0, "0\n")


@pytest.mark.parametrize("dumpable", [1, 0])
def test_a_deleted_file_counts_while_it_is_open(dumpable: int) -> None:
    """A file that was unlinked and is still written to counts, also of who hides itself."""
    source = (
        "import ctypes, os, time\n"
        f"ctypes.CDLL(None).prctl(4, {dumpable}, 0, 0, 0)\n"
        "f = open('/vercel/gone', 'wb'); os.unlink('/vercel/gone')\n"
        "for _ in range(200): f.write(bytes(2 << 20)); f.flush(); time.sleep(0.01)\n"
        "time.sleep(20)"
    )
    with keepers.sandbox(Limits(disk_bytes=100 * MIB)) as made:
        assert made.run("python3", "-c", source)[0] == 137


def test_processes_are_listed_as_the_sandbox_knows_them() -> None:
    """Each process has its pid inside and the command it belongs to; the first is not listed."""
    with keepers.sandbox() as made:
        command = made.start("sh", "-c", "sleep 60 & wait")
        assert eventually(
            lambda: {each.name for each in made.keeper.processes()} == {"sh", "sleep"}, timeout_s=5
        )
        listed = {process.name: process for process in made.keeper.processes()}
        command.signal(9)

    assert listed["sh"].inner_pid == command.pid
    assert {process.inner_session for process in listed.values()} == {command.pid}


@pytest.mark.parametrize("manner", ["open", "closed"])
def test_shared_memory_out_of_the_tables_is_counted(manner: str) -> None:
    """Shared pages that a process dropped from its tables count, also where it hides itself."""
    with keepers.sandbox(Limits(memory_bytes=300 * MIB, data_bytes=100 * MIB)) as made:
        before = hidden_now().shared_bytes
        eater = made.start("python3", "-c", HIDE, manner)
        code = eater.wait(20)
        most = max(breach.used for breach in made.keeper.breaches)
        said = b"".join(output.data for output in eater.outputs()).decode()

        assert code == 137
        assert "was ended: the sandbox is over its limit of 300 MiB of memory" in said
        assert most < 900 * MIB
        assert eventually(lambda: hidden_now().shared_bytes < before + 200 * MIB, timeout_s=5)
        assert made.run("echo", "on") == (0, "on\n")


def test_a_large_shared_mapping_that_is_not_used_is_let_be() -> None:
    """What counts is memory, not addresses."""
    source = (
        "import mmap, time\n"
        "shared = mmap.mmap(-1, 4 << 30, flags=mmap.MAP_SHARED | 0x4000)  # MAP_NORESERVE\n"
        "shared.write(bytes(20 << 20)); time.sleep(2.5); print('done')"
    )
    with keepers.sandbox(Limits(memory_bytes=200 * MIB)) as made:
        assert made.run("python3", "-c", source) == (0, "done\n")
        assert made.keeper.breaches == []


def test_memory_without_a_mapping_is_not_given() -> None:
    """Anonymous files, whose pages no table shows, cannot be made; memory folders have a size."""
    source = (
        "import errno, os\n"
        "try: os.memfd_create('eater')\n"
        "except OSError as exc: print(errno.errorcode[exc.errno])\n"
        "try:\n"
        "    with open('/dev/shm/eater', 'wb') as file:\n"
        "        for _ in range(200): file.write(bytes(1 << 20))\n"
        "except OSError as exc: print(errno.errorcode[exc.errno])\n"
    )
    with keepers.sandbox() as made:
        assert made.run("python3", "-c", source) == (0, "ENOSYS\nENOSPC\n")
