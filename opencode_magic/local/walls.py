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
import socket
import tempfile
from typing import TYPE_CHECKING

from opencode_magic.core.checks import Check
from opencode_magic.errors import SandboxError
from opencode_magic.local import image, seccomp
from opencode_magic.local.commands import CommandSpec, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opencode_magic.local.keeper import Keeper

TIMEOUT_S = 30.0
BROKEN = 99
"""The outcome of an attempt that failed for a reason of its own."""
STEP = "do not use the local home on this machine, and tell us"

_ATTEMPTS = {
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
    "netfilter by netlink": "socket.socket(16, 3, 12)",
    "audit by netlink": "socket.socket(16, 3, 9)",
    "generic netlink": "socket.socket(16, 3, 16)",
    "a low port": "socket.socket().bind(('0.0.0.0', 81))",
    "the firewall's port": "socket.socket().bind(('127.0.0.1', 443))",
    "another address": "netlink_route()",
    "core_pattern": "open('/proc/sys/kernel/core_pattern', 'w')",
    "ip_forward": "open('/proc/sys/net/ipv4/ip_forward', 'w')",
    "sysrq": "open('/proc/sysrq-trigger', 'w')",
    "kernel symbols": "open('/proc/kallsyms')",
    "kernel keys": "open('/proc/keys')",
    "boot arguments": "open('/proc/cmdline')",
    "physical memory": "open('/proc/kcore', 'rb')",
    "page counts": "open('/proc/kpagecount', 'rb')",
    "timers": "open('/proc/timer_list')",
    "a file of this machine": "open(FILE)",
    "an abstract socket of this machine": "socket.socket(1, 1).connect('\\0' + ABSTRACT)",
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
    "another user": "os.setuid(0)",
    "another group": "os.setgroups([0])",
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
}


def attempts() -> dict[str, str]:
    """Give every attempt by name: the ones above, and each system call that the filter forbids."""
    column = 0 if platform.machine() == "x86_64" else 1
    calls = {**seccomp.FORBIDDEN, **seccomp.ABSENT}
    return _ATTEMPTS | {
        f"call {name}": f"call({numbers[column]}, 0, 0, 0, 0, 0)" for name, numbers in calls.items()
    }


PROGRAM = """
import ctypes, fcntl, json, os, resource, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
FILE, ABSTRACT = sys.argv[2:]
x86 = os.uname().machine == "x86_64"
UNSHARE, CLONE, PERSONALITY, SOCKET = (272, 56, 135, 41) if x86 else (97, 220, 92, 198)
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

The others are a file and an abstract socket of this machine, which must not be seen inside.
"""


def try_all(keeper: Keeper) -> dict[str, int]:
    """Make every attempt in a keeper's sandbox; gives each outcome.

    Raises:
        SandboxError: The sandbox could not run the attempts at all.
    """
    with canaries() as names:
        argv = [image.inside_python().program, "-I", "-c", PROGRAM, json.dumps(attempts()), *names]
        command = run(keeper, CommandSpec(argv), image.environment(has_opencode=False))
        code = command.wait(TIMEOUT_S)
    outputs = command.outputs()
    if code != 0:
        said = b"".join(output.data for output in outputs)[-500:].decode(errors="replace")
        raise SandboxError(f"the attempts did not run to their end ({code}): {said}")
    text = b"".join(output.data for output in outputs if output.stream == "stdout")
    return {str(name): int(outcome) for name, outcome in json.loads(text).items()}


@contextlib.contextmanager
def canaries() -> Iterator[tuple[str, str]]:
    """Give a file that every user here may read, and the name of an abstract socket."""
    name = f"opencode-magic-canary-{secrets.token_hex(8)}"
    with (
        tempfile.NamedTemporaryFile(prefix=f"{name}-", dir="/tmp") as file,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
    ):
        os.fchmod(file.fileno(), 0o644)
        listener.bind(f"\0{name}")
        listener.listen()
        yield file.name, name


def judge(outcomes: Mapping[str, int]) -> tuple[Check, ...]:
    """Say of each attempt whether the wall held, and by which answer."""
    return tuple(
        Check(
            name, "ok", f"refused: {os.strerror(outcome)} ({errno.errorcode.get(outcome, outcome)})"
        )
        if outcome not in {0, BROKEN}
        else Check(
            name,
            "blocked",
            "it worked" if outcome == 0 else "it could not be tried",
            STEP,
        )
        for name, outcome in outcomes.items()
    )
