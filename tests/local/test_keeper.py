from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opencode_magic.errors import SandboxError
from opencode_magic.local import image
from tests.local import keepers
from tests.local.keepers import Sandbox, descendants, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

LISTENERS = {"tls", "http", "dns", "dnstcp"}


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with keepers.sandbox() as made:
        yield made


def test_listeners_have_their_names(box: Sandbox) -> None:
    """The firewall gets a socket for TLS, HTTP and DNS of each family, the proxy, the packets."""
    families = {"4", "6"} if socket.has_ipv6 else {"4"}

    assert set(box.keeper.listeners) == {"proxy", "packets"} | {
        name + family for name in LISTENERS for family in families
    }


@pytest.mark.parametrize(
    ("listener", "address", "port"),
    [
        ("tls4", "203.0.113.5", 443),
        ("http4", "198.51.100.7", 80),
        ("dnstcp4", "192.0.2.53", 53),
        ("tls6", "2001:db8::5", 443),
        ("http6", "2001:db8::7", 80),
        ("proxy", "127.0.0.1", 3128),
    ],
)
def test_every_address_leads_to_our_listener(
    box: Sandbox, listener: str, address: str, port: int
) -> None:
    """A program that connects to any address meets our listener, which sees that address."""
    command = box.start(
        image.inside_python().program,
        "-c",
        f"import socket; print(socket.create_connection(({address!r}, {port})).recv(9).decode())",
    )
    waiting = box.keeper.listeners[listener]
    waiting.settimeout(10)
    accepted, _peer = waiting.accept()
    wanted = accepted.getsockname()[:2]
    accepted.sendall(b"firewall")
    accepted.close()
    command.wait(10)

    assert wanted == (address, port)
    assert command.outputs()[0].data == b"firewall\n"


def test_a_name_server_of_any_address_is_ours(box: Sandbox) -> None:
    """A datagram to any address and port 53 arrives, with the address that was asked."""
    box.python(
        "import socket; socket.socket(2, 2).sendto(b'who', ('192.0.2.8', 53)); "
        "socket.socket(10, 2).sendto(b'who', ('2001:db8::8', 53))"
    )
    seen = []
    for name, size in (("dns4", 12), ("dns6", 20)):
        waiting = box.keeper.listeners[name]
        waiting.settimeout(5)
        data, controls, _flags, _peer = waiting.recvmsg(100, 200)
        seen.append((data, len(controls[0][2]), controls[0][2]))
        assert len(controls[0][2]) == size

    assert socket.inet_aton("192.0.2.8") in seen[0][2]
    assert socket.inet_pton(socket.AF_INET6, "2001:db8::8") in seen[1][2]


def test_attempts_on_ports_without_a_listener_are_seen(box: Sandbox) -> None:
    """TCP, UDP, ICMP and IPv6 to places nobody listens on are refused at once and on record."""
    packets = box.keeper.listeners["packets"]
    packets.settimeout(5)
    box.python(
        "import socket\n"
        "for family, address in ((2, '203.0.113.9'), (10, '2001:db8::9')):\n"
        "    try: socket.create_connection((address, 8080), 3)\n"
        "    except ConnectionRefusedError: pass\n"
        "    socket.socket(family, 2).sendto(b'x', (address, 9999))\n"
        "socket.socket(2, 2).sendto(b'x', ('127.0.0.1', 9998))\n"
        "socket.socket(2, 2).sendto(b'x', ('203.0.113.9', 53))\n"
        "try: socket.create_connection(('127.0.0.1', 8081), 3)\n"
        "except ConnectionRefusedError: pass\n"
    )
    seen = {_attempt(packets.recv(128)) for _ in range(4)}
    packets.settimeout(0.2)
    with pytest.raises(TimeoutError):
        packets.recv(128)
    box.keeper.listeners["dns4"].recv(100)

    assert seen == {
        ("203.0.113.9", 6, 8080),
        ("203.0.113.9", 17, 9999),
        ("2001:db8::9", 6, 8080),
        ("2001:db8::9", 17, 9999),
    }


def _attempt(packet: bytes) -> tuple[str, int, int]:
    """Give address, protocol and port of a packet."""
    if packet[0] >> 4 == 4:
        transport = packet[(packet[0] & 15) * 4 :]
        address, protocol = socket.inet_ntoa(packet[16:20]), packet[9]
    else:
        transport = packet[40:]
        address, protocol = socket.inet_ntop(socket.AF_INET6, packet[24:40]), packet[6]
    return address, protocol, int.from_bytes(transport[2:4], "big")


def test_a_port_inside_can_be_reached(box: Sandbox) -> None:
    """A connection into the sandbox reaches a server on its loopback."""
    server = box.start(
        image.inside_python().program,
        "-uc",
        "import socket; s = socket.create_server(('127.0.0.1', 4096)); print('up');"
        "c, _ = s.accept(); c.sendall(c.recv(9)[::-1])",
    )
    next(server.follow())
    with box.keeper.connect(4096) as connection:
        connection.sendall(b"inside")
        answer = connection.recv(9)

    assert answer == b"edisni"


def test_a_port_without_a_server_is_refused(box: Sandbox) -> None:
    """A connection to a port where nothing listens is an OSError at once."""
    with pytest.raises(ConnectionRefusedError):
        box.keeper.connect(4097)


def test_commands_share_their_namespaces(box: Sandbox) -> None:
    """Two commands see each other's processes, files and sockets."""
    sleeper = box.start("sleep", "77")
    box.shell("echo hello > /tmp/note")

    assert box.shell(f"cat /proc/{sleeper.pid}/comm /tmp/note")[1] == "sleep\nhello\n"
    sleeper.signal(signal.SIGKILL)


def test_background_processes_live_on(box: Sandbox) -> None:
    """What a command leaves in the background still runs when the command has ended."""
    _code, text = box.shell("setsid sleep 78 >/dev/null 2>&1 & echo $!")

    assert eventually(
        lambda: box.shell(f"cat /proc/{text.strip()}/comm")[1] == "sleep\n", timeout_s=5
    )
    box.shell(f"kill {text}")


def test_the_first_process_cannot_be_killed_or_read_from_inside(box: Sandbox) -> None:
    """Signals to process 1 do nothing, and its memory, environment and files are closed."""
    code, text = box.shell(
        "for s in KILL TERM INT HUP STOP QUIT USR1; do kill -$s 1; done; "
        "cat /proc/1/environ; ls /proc/1/fd; head -c1 /proc/1/mem; echo alive"
    )

    assert code == 0
    assert text.count("Permission denied") == 3
    assert text.endswith("alive\n")


def test_close_ends_every_process() -> None:
    """Nothing that ran inside is left when close returns."""
    with keepers.sandbox() as made:
        made.shell("setsid sleep 79 >/dev/null 2>&1 &")
        before = descendants(made.keeper.pid)
        made.keeper.close()
        made.keeper.close()

        assert len(before) > 4
        assert not [pid for pid in before if Path(f"/proc/{pid}").exists()]
        assert made.keeper.ended.result() == "it was closed"
        with pytest.raises(SandboxError):
            made.run("true")


def test_nothing_is_left_open(tmp_path: Path) -> None:
    """Ten sandboxes later this process has the descriptors and threads that it had before."""
    tmp_path.chmod(0o755)
    with keepers.sandbox() as made:
        made.run("true")

    def counts() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    before = counts()
    for _ in range(10):
        with keepers.sandbox() as made:
            made.run("echo", "x")
            made.start("sleep", "60")

    def has_no_more() -> bool:
        return all(now <= then for now, then in zip(counts(), before, strict=True))

    assert eventually(has_no_more, timeout_s=5), (before, counts())


def test_close_does_not_wait_for_others() -> None:
    """A close from one thread ends what others wait for, at once."""
    with keepers.sandbox() as made:
        sleeper = made.start("sleep", "60")
        threads = [threading.Thread(target=made.keeper.close) for _ in range(3)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)

        assert sleeper.wait(5) == 137
        assert time.monotonic() - began < 3


def test_a_killed_keeper_is_noticed() -> None:
    """When the keeper dies, all inside dies, running commands end with 137 and `ended` says so."""
    with keepers.sandbox() as made:
        command = made.start("sleep", "80")
        before = descendants(made.keeper.pid)
        os.kill(made.keeper.pid, signal.SIGKILL)

        assert command.wait(5) == 137
        assert made.keeper.ended.result(5)
        assert not made.keeper.is_alive
        assert eventually(lambda: not any(_runs(pid) for pid in before), timeout_s=2)


def _runs(pid: int) -> bool:
    """Whether a process runs: one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


HOLDER = """
import json, pathlib, sys, time
from opencode_magic.local.keeper import Keeper, KeeperPlace
from opencode_magic.local.isolation import SandboxSpec
from opencode_magic.local.commands import CommandSpec, run
boxes = pathlib.Path(sys.argv[1])
keeper = Keeper.start(KeeperPlace(boxes), SandboxSpec("k", boxes / "k"))
run(keeper, CommandSpec(["sh", "-c", "setsid sleep 81 & sleep 82"]), {"PATH": "/usr/bin"})
print(json.dumps([keeper.pid]), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_the_host_process(number: int) -> None:
    """After kill -9 of the process that holds a keeper, no process of it is left within 2 s."""
    with tempfile.TemporaryDirectory(prefix="om-", dir="/tmp") as folder:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, f"{folder}/boxes"],
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        with holder:
            assert holder.stdout is not None
            (pid,) = json.loads(holder.stdout.readline())
            tree = descendants(pid)
            holder.send_signal(number)
            holder.wait(5)

        assert len(tree) > 4
        assert eventually(lambda: not any(_runs(pid) for pid in tree), timeout_s=2)
        assert f"{folder}/boxes" not in Path("/proc/self/mountinfo").read_text()


def test_an_interrupt_of_the_process_group_does_not_reach_it() -> None:
    """A Jupyter Interrupt is a SIGINT to the whole process group: the keeper is in none of ours."""
    with keepers.sandbox() as made:
        assert os.getsid(made.keeper.pid) == made.keeper.pid
