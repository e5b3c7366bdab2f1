from __future__ import annotations

import os
import platform
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opencode_magic.local import image, isolation, seccomp
from opencode_magic.local.isolation import MIB, Limits
from tests.local import keepers
from tests.local.keepers import Sandbox, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

PLANTED = "planted-on-the-host-5b1d"


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with keepers.sandbox() as made:
        yield made


def test_there_is_no_capability_and_no_way_to_one(box: Sandbox) -> None:
    """No capability in any set, no new privileges, one filter, one user id."""
    wanted = {f"Cap{name}": "0000000000000000" for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")}
    wanted |= {"NoNewPrivs": "1", "Seccomp": "2", "Uid": "1000\t1000\t1000\t1000"}
    _code, text = box.shell("cat /proc/self/status")
    seen = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)

    assert {name: seen[name] for name in wanted} == wanted
    assert box.shell("cat /proc/self/uid_map")[1].split()[0::2] == ["1000", "1"]


def test_nothing_is_inherited(box: Sandbox) -> None:
    """A command has three descriptors, all of them pipes, and only the environment we gave."""
    _code, text = box.shell("for n in $(ls /proc/$$/fd); do readlink /proc/$$/fd/$n; done")
    environment = box.run("env", env={"A": "1"})[1]

    assert {line.split(":")[0] for line in text.splitlines()} == {"pipe"}
    assert len(text.splitlines()) == 3
    assert {line.partition("=")[0] for line in environment.splitlines()} == {
        "A",
        *image.environment(has_opencode=False),
    }


def test_no_environment_of_the_host_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of the host process is in no process's environment or arguments inside."""
    monkeypatch.setenv("PLANTED", PLANTED)
    with keepers.sandbox() as made:
        _code, text = made.shell("cat /proc/*/environ /proc/*/cmdline /proc/*/task/*/environ; env")

    assert "/usr/bin" in text
    assert PLANTED not in text


def test_no_file_of_the_host_is_found(box: Sandbox) -> None:
    """Home folders, temporary files and mounted disks of the host are not there."""
    with tempfile.NamedTemporaryFile(dir="/tmp", prefix=PLANTED):
        listing = box.shell("ls -A / /tmp /var /var/tmp /home /root /mnt /run /opt /vercel")[1]
        found = box.shell(f"find / -name '{PLANTED}*' 2>/dev/null")[1]
        roots = box.shell("ls -A /proc/1/root/tmp; ls -A /proc/self/root/tmp")[1]

    assert found == ""
    assert PLANTED not in listing + roots
    assert set(box.run("ls", "-A", "/")[1].split()) <= {
        *("bin", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "mnt", "opt", "proc"),
        *("root", "run", "sbin", "srv", "tmp", "usr", "var", "vercel"),
    }


def test_no_process_of_the_host_is_seen(box: Sandbox) -> None:
    """All processes inside are of the sandbox, and signals to others go nowhere."""
    _code, text = box.shell("cat /proc/[0-9]*/stat | cut -d' ' -f1,2")

    assert len(text.splitlines()) < 12
    assert f"{os.getpid()} (" not in text


def test_no_socket_of_the_host_is_reached(box: Sandbox) -> None:
    """Neither an abstract Unix socket of the host, nor one by path, nor its loopback."""
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0{PLANTED}")
    abstract.listen()
    with abstract, socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        source = (
            "import socket\n"
            "for address in ("
            f"'\\0{PLANTED}', '/run/dbus/system_bus_socket', '/var/run/docker.sock'):\n"
            "    try: socket.socket(1).connect(address); print('reached')\n"
            "    except OSError: pass\n"
            f"for address in ('127.0.0.1', '::1', '{_own_address()}'):\n"
            f"    try: socket.create_connection((address, {port}), 2); print('reached')\n"
            "    except OSError: pass\n"
        )
        assert box.python(source) == (0, "")
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("198.51.100.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(sock.getsockname()[0])


def test_two_sandboxes_do_not_see_each_other(box: Sandbox) -> None:
    """Abstract sockets, ports, processes and files of one sandbox do not exist in another."""
    server = box.start(
        image.inside_python().program,
        "-uc",
        "import socket, time\n"
        "a = socket.socket(1); a.bind('\\0between'); a.listen()\n"
        "b = socket.create_server(('127.0.0.1', 4100)); print('up'); time.sleep(60)",
    )
    next(server.follow())
    reach = (
        "import socket\n"
        "for family, address in ((1, '\\0between'), (2, ('127.0.0.1', 4100))):\n"
        "    try: socket.socket(family).connect(address); print('reached')\n"
        "    except OSError as exc: print('refused')\n"
    )
    with keepers.sandbox(name="two") as other:
        outside = other.python(reach)

    assert (box.python(reach)[1].split(), outside[1].split()) == (["reached"] * 2, ["refused"] * 2)
    server.signal(9)


def test_only_its_own_folders_are_writable(box: Sandbox) -> None:
    """Home, temporary folders and /run are all that can be written."""
    source = (
        "import os\n"
        "found = []\n"
        "for folder, folders, _ in os.walk('/'):\n"
        "    if folder == '/': folders.remove('proc')\n"
        "    if os.access(folder, os.W_OK): found.append(folder); folders.clear()\n"
        "print(*found)"
    )
    expected = {"/vercel", "/tmp", "/var/tmp", "/run", "/dev/shm"}

    assert set(box.python(source)[1].split()) - {"/dev/pts"} == expected


def test_no_system_setting_is_writable(box: Sandbox) -> None:
    """Not one of the kernel's settings can be written."""
    source = (
        "import os\n"
        "print([f for d, _, fs in os.walk('/proc/sys') for f in fs "
        "if os.access(os.path.join(d, f), os.W_OK)])"
    )

    assert box.python(source) == (0, "[]\n")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64 has a second way in")
def test_the_32_bit_entry_kills(box: Sandbox) -> None:
    """A system call by the 32-bit entry ends the program at once: the filter knows one machine."""
    source = (
        "import ctypes, mmap\n"
        "code = mmap.mmap(-1, 4096, prot=7)\n"
        "code.write(bytes.fromhex('b814000000cd80c3'))\n"  # mov eax, getpid; int 0x80; ret
        "address = ctypes.addressof(ctypes.c_char.from_buffer(code))\n"
        "print(ctypes.CFUNCTYPE(ctypes.c_int)(address)())"
    )
    code, text = box.python(source)

    assert (code, text) == (128 + 31, "")


def test_a_foreign_machine_has_no_filter() -> None:
    """For a machine we have no table for there is no filter, so nothing is launched."""
    with pytest.raises(KeyError):
        seccomp.seccomp_filter("riscv64")


def test_both_machines_have_a_program() -> None:
    """The program for each machine is whole instructions, well under the kernel's 4096."""
    sizes = [len(seccomp.seccomp_filter(machine)) for machine in ("x86_64", "aarch64")]

    assert [size % 8 for size in sizes] == [0, 0]
    assert max(sizes) < 8 * 400


def test_the_system_works(box: Sandbox) -> None:
    """The filter does not stand in the way of everyday work."""
    code, text = box.shell(
        "set -e; cd; git init -q r && cd r && git config user.email a@example.com && "
        "git config user.name a && echo x > f && git add f && git commit -qm one && "
        "git log --oneline | wc -l; rg -c x f; tar c f | tar t; echo hi > /dev/stdout; "
        "mktemp -d > /dev/null; date > /dev/null; id -un; hostname; "
        "bash -c 'cat <(echo sub)'; awk 'BEGIN { print 1 + 1 }'"
    )

    assert (code, text) == (0, "1\n1\nf\nhi\nubuntu\nsandbox\nsub\n2\n")


def test_a_fork_bomb_ends_inside() -> None:
    """A fork bomb meets the limit, and the sandbox and this machine go on."""
    with keepers.sandbox(Limits(processes=60)) as made:
        bomb = made.start("sh", "-c", "f() { f | f & }; f; sleep 0.3; echo over")
        bomb.wait(20)
        bomb.signal(9)
        source = (
            "import os, time\n"
            "made = 0\n"
            "try:\n"
            "    while made < 500:\n"
            "        if os.fork() == 0: time.sleep(20); os._exit(0)\n"
            "        made += 1\n"
            "except OSError as exc: print(exc.errno, flush=True)\n"
            "os.killpg(0, 9)"
        )

        assert made.python(source)[1] == "11\n"
        assert eventually(lambda: made.run("true")[0] == 0, timeout_s=10)


def test_a_memory_eater_ends_inside() -> None:
    """A program that takes more memory than one process may gets an error of its own."""
    with keepers.sandbox(Limits(data_bytes=200 * MIB)) as made:
        code, text = made.python("print(len(bytearray(500 << 20)))")

    assert code == 1
    assert "MemoryError" in text


@pytest.mark.parametrize(
    ("folder", "limits"),
    [
        ("/tmp", Limits(tmp_bytes=8 * MIB)),
        ("/dev/shm", Limits(shm_bytes=8 * MIB)),
        ("/run", Limits(run_bytes=8 * MIB)),
    ],
)
def test_memory_folders_are_limited(folder: str, limits: Limits) -> None:
    """Folders that are memory end with "No space left" at their limit."""
    with keepers.sandbox(limits) as made:
        code, text = made.shell(
            f"head -c 20000000 /dev/zero 2>&1 > {folder}/big; stat -c %s {folder}/big"
        )

    assert code == 0
    assert "No space left" in text
    assert int(text.splitlines()[-1]) <= 8 * MIB


def test_a_single_file_is_limited() -> None:
    """A file beyond the limit ends its writer with SIGXFSZ."""
    with keepers.sandbox(Limits(file_bytes=4 * MIB)) as made:
        command = made.start("sh", "-c", "exec head -c 20000000 /dev/zero > /vercel/big")

        assert command.wait(10) == 128 + 25
        assert (made.folder / "home/big").stat().st_size == 4 * MIB


def test_open_files_are_limited() -> None:
    """More open files than allowed is an error of the program."""
    with keepers.sandbox(Limits(open_files=50)) as made:
        text = made.python("f = [open('/dev/null') for _ in range(100)]")[1]

    assert "Too many open files" in text


def test_processor_time_can_be_limited() -> None:
    """A program that computes longer than it may is ended with SIGXCPU."""
    with keepers.sandbox(Limits(cpu_s=1)) as made:
        assert made.run("sh", "-c", "while :; do :; done")[0] == 128 + 24


def test_a_terminal_can_be_had(box: Sandbox) -> None:
    """Programs that want a terminal get one of the sandbox's own."""
    source = "import pty, sys; sys.exit(pty.spawn(['sh', '-c', 'tty; test -t 1']))"
    code, text = box.run("python3", "-c", source, has_stdin=True)

    assert (code, text.startswith("/dev/pts/")) == (0, True)


def test_configuration_of_the_hosts_programs_is_hidden(box: Sandbox) -> None:
    """Folders below /usr that hold settings, tokens of npm among them, are empty."""
    assert box.shell("ls -A /usr/local/etc /usr/etc 2>/dev/null | grep -v :$ | grep .") == (1, "")


def test_links_made_inside_do_not_lead_out(box: Sandbox) -> None:
    """Hard links to files that are not its own are refused; symbolic ones resolve inside."""
    code, _text = box.shell("ln /etc/passwd /vercel/p")

    assert code != 0
    box.shell("ln -sf /etc/hostname /vercel/h")
    assert box.shell("cat /vercel/h")[1] == f"{image.HOSTNAME}\n"


def test_setuid_programs_gain_nothing(box: Sandbox) -> None:
    """Setuid bits have no effect: the mounts forbid them, and so does no_new_privs."""
    code, text = box.shell("cp /usr/bin/id /vercel/id && chmod 4755 /vercel/id && /vercel/id -u")

    assert (code, text) == (0, "1000\n")
    mounts = box.shell("cat /proc/self/mounts")[1].splitlines()
    assert [line for line in mounts if "nosuid" not in line.split()[3].split(",")] == []


def test_arguments_hold_no_host_path_of_the_user(box: Sandbox) -> None:
    """Bubblewrap's options travel by a descriptor: no process inside shows them."""
    _code, text = box.shell("cat /proc/*/cmdline")

    assert str(box.folder.parent) not in text
    assert "--bind" not in text


def test_mounts_name_no_folder_of_the_program(box: Sandbox) -> None:
    """The folder where this program stands on the host, often the project's, is not told."""
    _code, text = box.shell("cat /proc/self/mountinfo /proc/1/mountinfo /proc/self/mounts")

    assert " /vercel " in text
    assert str(Path(isolation.__file__).parent) not in text


def test_the_first_program_cannot_be_changed(box: Sandbox) -> None:
    """What the first process is made of is a copy that nobody inside can write to."""
    place = f"{image.PROGRAM_FOLDER}/opencode_magic/local"
    _code, text = box.shell(f"cd {place}; ls; chmod u+w pid1.py; echo x >> pid1.py; rm wire.py")

    assert text.splitlines()[:2] == ["pid1.py", "wire.py"]
    assert len(text.splitlines()) == 5
    assert text.count("Read-only file system") == 2


def test_the_keeper_has_no_right_on_the_host() -> None:
    """Its bubblewrap gets exactly five capabilities, in a user namespace of its own."""
    words = isolation.keeper_arguments()
    added = {words[at + 1] for at, word in enumerate(words) if word == "--cap-add"}

    assert "--unshare-user" in words
    network = {"CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW"}
    assert added == network | {"CAP_SETFCAP", "CAP_SYS_PTRACE", "CAP_SYS_RESOURCE"}


def test_a_system_without_python_is_no_hindrance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no Python the running one is bound: library, but no site-packages."""
    own = image.own_python()
    monkeypatch.setattr(image, "inside_python", lambda: own)
    source = "import json, socket, ctypes, sys; print(sys.base_prefix, len(sys.path) < 6)"
    with keepers.sandbox() as made:
        code, text = made.run(own.program, "-I", "-c", source)
        listed = made.run("ls", *own.hidden)[1] if own.hidden else ""

    assert (code, text, listed) == (0, f"{Path(sys.base_prefix).resolve()} True\n", "")


def test_closed_folders_are_found(tmp_path: Path) -> None:
    """The topmost folder that other users cannot pass is named, or none."""
    tmp_path.chmod(0o755)
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (tmp_path / "a").chmod(0o700)
    outer = image.closed_ancestor(tmp_path)

    assert image.closed_ancestor(deep) == (outer or tmp_path / "a")


def test_keepers_can_be_started_from_many_threads() -> None:
    """Keepers that threads start side by side outlive those threads."""
    made: list[int | None] = []

    def one(number: int) -> None:
        with keepers.sandbox(name=f"t{number}") as box:
            made.append(box.run("true")[0])

    threads = [threading.Thread(target=one, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert made == [0, 0, 0]
