"""How long a policy change takes with many live connections, and until the last of them has ended.

Clients, firewall and upstream are processes of their own. Goal: under 100 ms with 1,500
connections, of which 300 have their requests read.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import ssl
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from harness import goal, keep, median_row, print_table

from opencode_magic.core.policy_wire import parse_policy
from opencode_magic.local.firewall.ca import SandboxCA
from opencode_magic.local.firewall.engine import Firewall
from opencode_magic.local.firewall.record import EgressLog

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 5
SPLICED, TERMINATED = 1200, 300
GOAL_MS = 100.0
PLAIN_HOST, READ_HOST = "plain.example.com", "read.example.com"
POLICY = {"allow": {PLAIN_HOST: [], READ_HOST: [{"response": {"statusCode": 204}}]}}


def upstream() -> None:
    """Hold every connection that comes."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2000)
    print(listener.getsockname()[1], flush=True)
    held = []
    while True:
        held.append(listener.accept()[0])


def clients(port: int) -> None:
    """Open all connections, and print when the last of them has ended."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=PLAIN_HOST).do_handshake()
    hello = outgoing.read()
    held: list[socket.socket] = []
    for number in range(SPLICED + TERMINATED):
        sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        if number < SPLICED:
            sock.sendall(hello)
        else:
            sock = context.wrap_socket(sock, server_hostname=READ_HOST)
            sock.sendall(f"GET / HTTP/1.1\r\nHost: {READ_HOST}\r\n\r\n".encode())
            sock.recv(4096)
        held.append(sock)
    print("open", flush=True)
    for sock in held:
        with contextlib.suppress(OSError):
            sock.recv(4096)
    print(time.monotonic(), flush=True)


@contextlib.contextmanager
def part(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a part of the benchmark in a process of its own."""
    argv = [sys.executable, str(Path(__file__)), *arguments]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    """Read what a part says next."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def change_ms() -> tuple[float, float]:
    """Give how long the change took, and how long until the last client saw its end."""
    with part("upstream") as outside:
        port = int(line(outside))
        front = socket.create_server(("127.0.0.1", 0), backlog=1024)
        wall = Firewall(
            {"tls4": front},
            parse_policy(POLICY),
            ca=SandboxCA.create(),
            record=EgressLog(),
            upstreams={PLAIN_HOST: ("127.0.0.1", port)},
        )
        address = front.getsockname()
        wall.start()
        try:
            with part("clients", str(address[1])) as inside:
                assert line(inside) == "open"
                while wall.live_connections < SPLICED + TERMINATED:
                    time.sleep(0.01)
                time.sleep(0.5)  # the last upstream connections are made
                began = time.monotonic()
                wall.set_policy(parse_policy({"mode": "deny-all"}))
                taken = time.monotonic() - began
                return taken * 1000, (float(line(inside)) - began) * 1000
        finally:
            wall.close()


def main() -> int:
    """Measure and print; 1 where the goal is not met."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    match sys.argv[1:]:
        case ["upstream"]:
            upstream()
        case ["clients", port]:
            clients(int(port))
            return 0
    figures = [change_ms() for _ in range(ROUNDS)]
    by_name = {
        "the change": [taken for taken, _ in figures],
        "until the last client saw its end": [seen for _, seen in figures],
    }
    print_table(
        ("", "median", "range", "runs"), [median_row(n, v, "ms") for n, v in by_name.items()]
    )
    keep("policy", by_name)
    median = statistics.median(by_name["the change"])
    return 0 if goal(f"{median:.0f} ms, under {GOAL_MS:.0f} ms", is_met=median < GOAL_MS) else 1


if __name__ == "__main__":
    sys.exit(main())
