"""Attempts to get out of a sandbox, to be made from inside: for ``prove`` and for the tests.

Each is one Python expression, tried in a process of its own. The wall holds where it raises an
error; what the firewall decides is tried by ``walls_network``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import secrets
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from opencode_magic.core.checks import Check
from opencode_magic.errors import SandboxError
from opencode_magic.local import image, seccomp
from opencode_magic.local.commands import CommandSpec, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from opencode_magic.local.keeper import Keeper

TIMEOUT_S = 30.0
BROKEN = 99
"""The outcome of an attempt that failed for a reason of its own."""
_SIGNALS = 128
"""An outcome above is that of a process that a signal ended."""
_WAITING = ("sh", "-c", "read _")
STEP = "do not use the local home on this machine, and tell us"

RIGHTS = {
    "unshare user": "call(UNSHARE, 0x10000000)",
    "unshare mount": "call(UNSHARE, 0x20000)",
    "unshare net": "call(UNSHARE, 0x40000000)",
    "clone user": "call(CLONE, 0x10000011, 0, 0, 0, 0)",
    "clone pid": "call(CLONE, 0x20000011, 0, 0, 0, 0)",
    "no address randomisation": "call(PERSONALITY, 0x0040000)",
    "vsock": "socket.socket(40, 1)",
    "vsock with high bits": "call(SOCKET, 40 | 1 << 32, 1, 0)",
    "packet socket": "socket.socket(17, 3, 0x300)",
    "raw socket": "socket.socket(2, 3, 1)",
    "bluetooth": "socket.socket(31, 1)",
    "alg": "socket.socket(38, 5)",
    "sctp": "socket.socket(2, 1, 132)",
    "mptcp": "socket.socket(2, 1, 262)",
    "udp-lite": "socket.socket(2, 2, 136)",
    "dccp": "socket.socket(2, 6, 33)",
    "key management": "socket.socket(15, 3, 2)",
    "xdp": "socket.socket(44, 3)",
    "tipc": "socket.socket(30, 1)",
    "can": "socket.socket(29, 3, 1)",
    "rds": "socket.socket(21, 5)",
    "qrtr": "socket.socket(42, 2)",
    "the 32-bit entry": "int80()",
    "the x32 entry": "call(0x40000000 | 39)",
    "netfilter by netlink": "socket.socket(16, 3, 12)",
    "audit by netlink": "socket.socket(16, 3, 9)",
    "generic netlink": "socket.socket(16, 3, 16)",
    "a low port": "socket.socket().bind(('0.0.0.0', 81))",
    "the firewall's port": "socket.socket().bind(('127.0.0.1', 443))",
    "the proxy's port": "listen_on(3128)",
    "another address": "netlink_route()",
    "another user": "os.setuid(0)",
    "another group": "os.setgroups([0])",
    "new privileges by a setuid program": "run_setuid()",
    "raising a capability": "raise_capabilities()",
    "capabilities on a file": "capable_file()",
    "higher limits": "resource.setrlimit(resource.RLIMIT_NPROC, (10**6, 10**6))",
    "a core file": "resource.setrlimit(resource.RLIMIT_CORE, (2, 2))",
    "better for the OOM killer": "os.write(os.open('/proc/self/oom_score_adj', 1), b'-500')",
    "remapping the user": "os.write(os.open('/proc/self/uid_map', 1), b'0 0 1')",
    "the machine's name": "socket.sethostname('x')",
    "the clock": "time.clock_settime(0, 1)",
    "a higher priority": "os.setpriority(os.PRIO_PROCESS, 0, -5)",
    "real time": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
    "immutable files": "fcntl.ioctl(os.open('/vercel', 0), 0x40086602, struct.pack('L', 16))",
    "typing into a terminal": "fcntl.ioctl(0, 0x5412, b'x')",
    "pasting into a console": "fcntl.ioctl(0, 0x541C, b'x')",
}

PLACES = {
    "a file of this machine": "open(TOLD['file'])",
    "a socket of this machine": "socket.socket(1, 1).connect(TOLD['socket'])",
    "an abstract socket of this machine": "socket.socket(1, 1).connect('\\0' + TOLD['name'])",
    "a process of this machine": "find_in('cmdline', TOLD['name'])",
    "the environment of this machine": "find_in('environ', TOLD['name'])",
    "the folder of our program": "find_in('mountinfo', TOLD['program'])",
    "the keyring of this machine": "call(KEYCTL, 0, -3, 0)",
    "core_pattern": "open('/proc/sys/kernel/core_pattern', 'w')",
    "ip_forward": "open('/proc/sys/net/ipv4/ip_forward', 'w')",
    "sysrq": "open('/proc/sysrq-trigger', 'w')",
    "kernel symbols": "open('/proc/kallsyms')",
    "kernel keys": "open('/proc/keys')",
    "boot arguments": "open('/proc/cmdline')",
    "physical memory": "open('/proc/kcore', 'rb')",
    "page counts": "open('/proc/kpagecount', 'rb')",
    "timers": "open('/proc/timer_list')",
    "the administrator's files": "look_into('/root')",
    "the users' files": "look_into('/home')",
    "the users' sockets": "look_into('/run/user')",
    "the system's bus": "socket.socket(1, 1).connect('/run/dbus/system_bus_socket')",
    "the containers' socket": "socket.socket(1, 1).connect('/var/run/docker.sock')",
    "the passwords": "open('/etc/shadow')",
    "a device": "open('/dev/sda', 'rb')",
    "making a device": "os.mknod('/var/tmp/sda', 0o60600, os.makedev(8, 0))",
    "kvm": "open('/dev/kvm', 'rb')",
    "sysfs": "os.listdir('/sys/kernel')",
    "writing /": "open('/x', 'w')",
    "writing /usr": "open('/usr/x', 'w')",
    "writing /etc": "open('/etc/x', 'w')",
    "writing /dev": "open('/dev/x', 'w')",
    "writing /opt": "open('/opt/opencode-magic/x', 'w')",
    "changing our program": "open('/opt/opencode-magic/opencode_magic/local/pid1.py', 'r+')",
    "the memory of process 1": "open('/proc/1/mem', 'r+b')",
    "the files of process 1": "os.listdir('/proc/1/fd')",
    "the environment of process 1": "open('/proc/1/environ')",
}


STATED = {"the names of the folders behind its own": "name_behind('/vercel')"}
"""What a sandbox can learn, and is not kept from it: names, and nothing that stands there."""
_SAYS = "visible in /proc/self/mountinfo; nothing else of these folders can be reached"


def system_calls() -> dict[str, str]:
    """Give an attempt for each system call that the filter forbids, by name."""
    column = 0 if platform.machine() == "x86_64" else 1
    found = {**seccomp.FORBIDDEN, **seccomp.ABSENT}
    numbers = {name: pair[column] for name, pair in found.items()}
    if platform.machine() == "x86_64":
        numbers |= seccomp.FORBIDDEN_X86
    return {f"call {name}": f"call({number}, 0, 0, 0, 0, 0)" for name, number in numbers.items()}


def attempts() -> dict[str, str]:
    """Give every attempt by name."""
    return PLACES | STATED | RIGHTS | system_calls()


PROGRAM = r"""
import ctypes, fcntl, glob, json, mmap, os, resource, socket, struct, sys, time
import subprocess, tempfile
libc = ctypes.CDLL(None, use_errno=True)
TOLD = json.loads(sys.argv[2])
x86 = os.uname().machine == "x86_64"
UNSHARE, CLONE, PERSONALITY, SOCKET = (272, 56, 135, 41) if x86 else (97, 220, 92, 198)
KEYCTL, CAPSET = (250, 126) if x86 else (219, 91)
def call(*words):
    ctypes.set_errno(0)
    if libc.syscall(*[ctypes.c_long(word) for word in words]) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def netlink_route():
    sock = socket.socket(16, 3, 0)
    route = bytes([2, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0])
    sock.send(struct.pack("=IHHII", 28, 24, 0x405, 1, 0) + route)
    code = struct.unpack_from("=i", sock.recv(4096), 16)[0]
    if code: raise OSError(-code, os.strerror(-code))
def look_into(folder):
    if not os.listdir(folder): raise FileNotFoundError(2, "there is nothing in it")
def listen_on(port):
    sock = socket.socket()
    sock.bind(("127.0.0.1", port))
    sock.listen()
def find_in(name, text):
    # Its own processes were told what to look for in their arguments.
    for path in glob.glob("/proc/[0-9]*/" + name):
        try:
            with open(path, "rb") as file: data = file.read()
        except OSError: continue
        if text.encode() in data and b"import ctypes" not in data: return
    raise FileNotFoundError(2, "no process has it")
def name_behind(folder):
    with open("/proc/self/mountinfo") as file:
        roots = [line.split()[3] for line in file if line.split()[4] == folder]
    if not roots or roots[0] == "/": raise FileNotFoundError(2, "no name is shown")
def run_setuid():
    program = next(path for path in ("/usr/bin/su", "/bin/su") if os.stat(path).st_mode & 0o4000)
    child = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    for _ in range(200):
        time.sleep(0.01)
        with open(f"/proc/{child.pid}/status") as file: status = file.read()
        if "Name:\tsu\n" in status: break
    child.stdin.close()
    if "\nUid:\t" + str(os.getuid()) + "\t0\t" not in status:
        raise PermissionError(1, "no more rights")
def raise_capabilities():
    head, sets = struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", 1 << 21, 1 << 21, 0, 0, 0, 0)
    call(CAPSET, ctypes.cast(head, ctypes.c_void_p).value, ctypes.cast(sets, ctypes.c_void_p).value)
def capable_file():
    with tempfile.NamedTemporaryFile() as file:
        wanted = struct.pack("<5I", 0x2000001, 1 << 21, 0, 0, 0)
        os.setxattr(file.name, "security.capability", wanted)
def int80():
    if not x86: raise OSError(38, "this machine has no second entry")
    code = mmap.mmap(-1, 4096, prot=7)
    code.write(bytes.fromhex("b814000000cd80c3"))
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
def attempt(expression):
    child = os.fork()
    if child == 0:
        try: eval(expression)
        except OSError as exc: os._exit(exc.errno)
        except ValueError: os._exit(1)
        except BaseException: os._exit(99)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code
print(json.dumps({name: attempt(text) for name, text in json.loads(sys.argv[1]).items()}))
"""
"""Tries what its first argument holds as JSON; prints each outcome: an error number, 0 for none.

The second is what of this machine must not be seen inside: a file, a socket, and the name of an
abstract socket, of a process and of a variable in its environment.
"""


def try_all(keeper: Keeper) -> dict[str, int]:
    """Make every attempt in a keeper's sandbox; gives each outcome.

    Raises:
        SandboxError: The sandbox could not run the attempts at all.
    """
    with canaries() as told:
        argv = [image.inside_python().program, "-I", "-c", PROGRAM, *arguments(attempts(), told)]
        command = run(keeper, CommandSpec(argv), image.environment(has_opencode=False))
        code = command.wait(TIMEOUT_S)
    outputs = command.outputs()
    if code != 0:
        said = b"".join(output.data for output in outputs)[-500:].decode(errors="replace")
        raise SandboxError(f"the attempts did not run to their end ({code}): {said}")
    text = b"".join(output.data for output in outputs if output.stream == "stdout")
    return {str(name): int(outcome) for name, outcome in json.loads(text).items()}


def arguments(chosen: Mapping[str, str], told: Mapping[str, str]) -> list[str]:
    """Give what ``PROGRAM`` is started with, after its own text."""
    return [json.dumps(chosen), json.dumps(told)]


@contextlib.contextmanager
def canaries(user: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """Give what of this machine every user here may see: a file, sockets and a process.

    ``user`` is the start of a command line that makes the process another user's.
    """
    name = f"opencode-magic-canary-{secrets.token_hex(8)}"
    with (
        tempfile.TemporaryDirectory(prefix=f"{name}-", dir="/tmp") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as abstract,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
        _process([*user, *_WAITING, name], name),
    ):
        Path(folder).chmod(0o755)
        told = {"file": f"{folder}/file", "socket": f"{folder}/socket", "name": name}
        told["program"] = str(Path(__file__).resolve().parent)
        Path(told["file"]).write_text(name)
        Path(told["file"]).chmod(0o644)
        abstract.bind(f"\0{name}")
        listener.bind(told["socket"])
        Path(told["socket"]).chmod(0o666)
        for sock in (abstract, listener):
            sock.listen()
        yield told


@contextlib.contextmanager
def _process(argv: Sequence[str], name: str) -> Iterator[None]:
    """Run a process that has a name in its arguments and in its environment."""
    with subprocess.Popen(argv, stdin=subprocess.PIPE, env={"PATH": os.defpath, "NAME": name}):
        yield


def judge(outcomes: Mapping[str, int]) -> tuple[Check, ...]:
    """Say of each attempt whether the wall held, and by which answer; a warning is stated."""
    return tuple(_judge_one(name, outcome) for name, outcome in outcomes.items())


def _judge_one(name: str, outcome: int) -> Check:
    if name in STATED and outcome == 0:
        return Check(name, "warning", _SAYS)
    if outcome in {0, BROKEN}:
        detail = "it worked" if outcome == 0 else "it could not be tried"
        return Check(name, "blocked", detail, STEP)
    return Check(name, "ok", f"refused: {_answer(outcome)}")


def _answer(outcome: int) -> str:
    if outcome > _SIGNALS:
        return f"ended by {signal.Signals(outcome - _SIGNALS).name}"
    return f"{os.strerror(outcome)} ({errno.errorcode.get(outcome, outcome)})"
