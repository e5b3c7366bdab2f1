"""The firewall beside direct loopback and mitmproxy: throughput, latency, connections a second.

Client, firewall and upstream are processes of their own and share the machine's cores: termination
does the whole work of a direct TLS connection a second time, so that on two cores it can give no
more than half of it.
Goals: spliced at least 0.6 of direct loopback; terminated at least 5 times mitmproxy as it comes
(it collects a body before it passes it on); under 0.3 ms more for a kept-alive request. mitmproxy
told to stream is shown beside it: half of direct TLS is less than 5 times that on two cores.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from firewall_parts import HOST, SPLICED
from harness import goal, interleaved, keep, median_row, peers_python, print_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS = 9
BULK_BYTES = 256 * 1024 * 1024
MITM_GOAL = 5.0
REQUESTS = 300
CONNECTIONS = 100
MITM_START_S = 20.0
STREAMING = "mitmproxy streaming"
COLLECTING = "mitmproxy as it comes"


class Way:
    """One way to the upstream: how to get a connection, and what the client trusts."""

    def __init__(self, port: int, host: str, authority: Path, *, is_proxy: bool = False) -> None:
        self.port = port
        self.host = host
        self.is_proxy = is_proxy
        self.buffer = bytearray(1 << 20)
        self.context = ssl.create_default_context(cafile=authority)

    def open_plain(self) -> socket.socket:
        """Connect; through a proxy with CONNECT."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.is_proxy:
            sock.sendall(f"CONNECT {self.host}:443 HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode())
            assert b" 200 " in sock.recv(4096)
        return sock

    def open(self) -> ssl.SSLSocket:
        """Connect and set up TLS."""
        return self.context.wrap_socket(self.open_plain(), server_hostname=self.host)

    def request(self, sock: socket.socket, size: int) -> None:
        """Ask for a number of bytes, and take them all."""
        sock.sendall(f"GET /{size} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode())
        buffer = self.buffer
        count = sock.recv_into(buffer)
        head_bytes = buffer.index(b"\r\n\r\n") + 4
        left = (size or 2) + head_bytes - count
        while left > 0:
            count = sock.recv_into(buffer)
            assert count
            left -= count


def raw_mb_s(way: Way) -> float:
    """Give the throughput of bare bytes after a ClientHello: the relay and nothing else."""
    outgoing = ssl.MemoryBIO()
    tls = way.context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=way.host)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    with way.open_plain() as sock:
        sock.sendall(outgoing.read() + b" %d RAW!" % BULK_BYTES)
        began = time.perf_counter()
        buffer, left = bytearray(1 << 20), BULK_BYTES
        while left > 0:
            count = sock.recv_into(buffer)
            assert count
            left -= count
        return BULK_BYTES / 1e6 / (time.perf_counter() - began)


def tls_mb_s(way: Way) -> float:
    """Give the throughput of one large answer over TLS."""
    with way.open() as sock:
        way.request(sock, 0)
        began = time.perf_counter()
        way.request(sock, BULK_BYTES)
        return BULK_BYTES / 1e6 / (time.perf_counter() - began)


def kept_alive_ms(way: Way) -> float:
    """Give the median time of a small request on an open connection."""
    with way.open() as sock:
        times = []
        for _ in range(REQUESTS):
            began = time.perf_counter()
            way.request(sock, 0)
            times.append((time.perf_counter() - began) * 1000)
        return statistics.median(times)


def new_connection_ms(way: Way) -> float:
    """Give the median time of a small request with its own connection."""
    times = []
    for _ in range(CONNECTIONS // 4):
        began = time.perf_counter()
        with way.open() as sock:
            way.request(sock, 0)
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def connections_s(way: Way) -> float:
    """Give how many connections with one small request are made in a second, one by one."""
    began = time.perf_counter()
    for _ in range(CONNECTIONS):
        with way.open() as sock:
            way.request(sock, 0)
    return CONNECTIONS / (time.perf_counter() - began)


@contextlib.contextmanager
def part(*arguments: str) -> Iterator[int]:
    """Run a part of the benchmark; gives the port it listens on."""
    argv = [sys.executable, str(Path(__file__).with_name("firewall_parts.py")), *arguments]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def mitmproxy(upstream_port: int, folder: Path, *, is_streaming: bool) -> Iterator[Way]:
    """Run mitmproxy from an environment of its own, injecting the same header."""
    folder.mkdir()
    program = Path(peers_python("mitmproxy")).with_name("mitmdump")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = folder / "to_upstream.py"
    script.write_text(
        f"""
def request(flow):
    flow.request.host, flow.request.port = "127.0.0.1", {upstream_port}
    flow.request.headers["authorization"] = "Bearer key"

def responseheaders(flow):
    flow.response.stream = {is_streaming}
"""
    )
    options = ["ssl_insecure=true", "connection_strategy=lazy", f"confdir={folder}"]
    argv = [str(program), "-q", "-p", str(port), "--listen-host", "127.0.0.1", "-s", str(script)]
    argv += [word for option in options for word in ("--set", option)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + MITM_START_S
        while not _answers(port):
            assert time.monotonic() < deadline, "mitmproxy did not start"
            time.sleep(0.1)
        yield Way(port, HOST, folder / "mitmproxy-ca-cert.pem", is_proxy=True)
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def measures(ways: dict[str, Way]) -> dict[str, Callable[[], float]]:
    """Give everything that is measured, by row name."""
    made: dict[str, Callable[[], float]] = {}
    for name in ("direct", "spliced"):
        made[f"{name}: bare bytes, MB/s"] = partial(raw_mb_s, ways[name])
    for name, way in ways.items():
        made[f"{name}: one answer, MB/s"] = partial(tls_mb_s, way)
    for label, measure in (
        ("kept alive, ms", kept_alive_ms),
        ("new connection, ms", new_connection_ms),
        ("connections/s", connections_s),
    ):
        for name in ("direct", "spliced", "terminated", STREAMING):
            if name in ways:
                made[f"{name}: {label}"] = partial(measure, ways[name])
    return made


def judge(figures: dict[str, list[float]]) -> bool:
    """Print the ratios and whether the goals are met."""
    median = {name: statistics.median(values) for name, values in figures.items()}

    def ratio(top: str, bottom: str, what: str) -> float:
        return median[f"{top}: {what}"] / median[f"{bottom}: {what}"]

    spliced = ratio("spliced", "direct", "bare bytes, MB/s")
    over_tls = ratio("spliced", "direct", "one answer, MB/s")
    ended = ratio("terminated", "direct", "one answer, MB/s")
    added = {
        name: median[f"{name}: kept alive, ms"] - median["direct: kept alive, ms"]
        for name in ("spliced", "terminated")
    }
    print(f"one answer over TLS: spliced {over_tls:.2f}, terminated {ended:.2f} of direct")
    met = [
        goal(f"spliced {spliced:.2f} of direct loopback, at least 0.6", is_met=spliced >= 0.6),
        *(
            goal(f"{name} adds {ms:.2f} ms to a kept-alive request, under 0.3", is_met=ms < 0.3)
            for name, ms in added.items()
        ),
    ]
    if f"{STREAMING}: one answer, MB/s" in median:
        requests = 1 / ratio("terminated", STREAMING, "kept alive, ms")
        fresh = ratio("terminated", STREAMING, "connections/s")
        print(f"beside mitmproxy: {requests:.1f} times the requests, {fresh:.1f} the connections")
        half = ratio("direct", STREAMING, "one answer, MB/s") / 2
        times = {
            name: ratio("terminated", name, "one answer, MB/s") for name in (COLLECTING, STREAMING)
        }
        print(f"{times[STREAMING]:.1f} times {STREAMING} (half of direct TLS: {half:.1f})")
        text = f"terminated {times[COLLECTING]:.1f} times {COLLECTING}, at least {MITM_GOAL:.0f}"
        met.append(goal(text, is_met=times[COLLECTING] >= MITM_GOAL))
    return all(met)


def main() -> int:
    """Measure and print; 1 where a goal is not met."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        outside = folder / "outside.pem"
        upstream = stack.enter_context(part("upstream", str(outside)))
        wall = stack.enter_context(part("firewall", str(upstream), str(outside)))
        ways = {
            "direct": Way(upstream, SPLICED, outside),
            "spliced": Way(wall, SPLICED, outside),
            "terminated": Way(wall, HOST, folder / "sandbox.pem"),
        }
        if "--without-mitmproxy" not in sys.argv:
            for mode, is_streaming in ((COLLECTING, False), (STREAMING, True)):
                started = mitmproxy(upstream, folder / mode, is_streaming=is_streaming)
                ways[mode] = stack.enter_context(started)
        for way in ways.values():
            connections_s(way)  # certificates are made, code is compiled
        figures = interleaved(measures(ways), rounds=ROUNDS)
    print_table(("", "median", "range", "runs"), [median_row(n, v, "") for n, v in figures.items()])
    keep("firewall", figures)
    return 0 if judge(figures) else 1


if __name__ == "__main__":
    sys.exit(main())
