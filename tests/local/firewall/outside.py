"""The world outside the sandbox, on loopback: upstreams that answer, and a firewall in between."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from opencode_magic.core.policy_wire import parse_policy
from opencode_magic.local.firewall.ca import SandboxCA
from opencode_magic.local.firewall.engine import Firewall
from opencode_magic.local.firewall.record import EgressLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from opencode_magic.core.egress import EgressRecord

LIMIT_S = 10.0


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers with what it was asked, as text."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        size = int(self.headers.get("content-length") or 0)
        self._answer(self.rfile.read(size))

    do_HEAD = do_GET  # noqa: N815 - http.server's own name

    def _answer(self, body: bytes) -> None:
        self.server.seen.append((self.command, self.path, dict(self.headers.items()), body))
        text = f"{self.command} {self.path} {self.headers['host']}\n".encode() + body
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.send_header("x-connection", str(self.client_address[1]))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    seen: list[tuple[str, str, dict[str, str], bytes]]

    def handle_error(self, *_: object) -> None:
        """Say nothing: connections are cut on purpose."""


@dataclass
class Outside:
    """Upstreams whose certificates one authority signs, and how to get at them."""

    folder: Path
    ca: SandboxCA = field(default_factory=lambda: SandboxCA.create("outside"))
    upstreams: dict[str, tuple[str, int]] = field(default_factory=dict)
    _closers: list[Callable[[], None]] = field(default_factory=list)

    @property
    def ca_file(self) -> Path:
        """The authority, as a user would give it."""
        path = self.folder / "outside.pem"
        path.write_bytes(self.ca.pem)
        return path

    def serve_http(self, host: str = "", *, is_tls: bool = True) -> _Server:
        """Start an HTTP server; with a host, mapped to that name."""
        server = _Server(("127.0.0.1", 0), _Handler)
        server.seen = []
        if is_tls:
            context = self.ca.context_for(host)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        self._closers += [server.shutdown, thread.join, server.server_close]
        if host:
            self.upstreams[host] = ("127.0.0.1", server.server_port)
        return server

    def serve_raw(
        self, host: str, talk: Callable[[socket.socket], None], *, is_tls: bool = True
    ) -> int:
        """Start a server that gives each connection to ``talk``; gives its port."""
        listener = socket.create_server(("127.0.0.1", 0))
        context = self.ca.context_for(host) if is_tls else None

        def one(sock: socket.socket) -> None:
            with contextlib.suppress(OSError), sock:
                sock.settimeout(LIMIT_S)
                if context is None:
                    talk(sock)
                else:
                    with context.wrap_socket(sock, server_side=True) as wrapped:
                        talk(wrapped)

        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    threading.Thread(target=one, args=(sock,), daemon=True).start()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def close() -> None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join()

        self._closers.append(close)
        port: int = listener.getsockname()[1]
        self.upstreams[host] = ("127.0.0.1", port)
        return port

    def close(self) -> None:
        """End all servers."""
        for close in self._closers:
            close()


class Proxy:
    """Listens on loopback, and serves each connection in a thread of its own."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop accepting."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def serve(self, sock: socket.socket) -> None:
        """Serve one connection."""
        raise NotImplementedError

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                sock.settimeout(LIMIT_S)
                threading.Thread(target=self.serve, args=(sock,), daemon=True).start()


class ConnectProxy(Proxy):
    """A CONNECT proxy on loopback that leads every host to a port there, by the port it names."""

    def __init__(self, tls_port: int, plain_port: int) -> None:
        self._ports = {b"443": tls_port, b"80": plain_port}
        super().__init__()

    def serve(self, sock: socket.socket) -> None:
        """Lead to the port that stands for the one that is named."""
        port = self._ports[sock.recv(4096).split(b" ")[1].rpartition(b":")[2]]
        with sock, socket.create_connection(("127.0.0.1", port)) as upstream:
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            pass_both_ways(sock, upstream)


def pass_both_ways(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes between two sockets until both sides have ended."""
    back = threading.Thread(target=_copy, args=(other, one), daemon=True)
    back.start()
    _copy(one, other)
    back.join(LIMIT_S)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@dataclass
class Wall:
    """A firewall on loopback listeners, and a program's view of it."""

    firewall: Firewall
    log: EgressLog
    ca: SandboxCA
    ports: dict[str, int]

    def open(self, front: str = "tls4") -> socket.socket:
        """Connect to a listener."""
        return socket.create_connection(("127.0.0.1", self.ports[front]), timeout=LIMIT_S)

    def open_tls(self, host: str, ca: SandboxCA | None = None) -> ssl.SSLSocket:
        """Set up TLS with a server name, trusting the sandbox's authority or another."""
        context = ssl.create_default_context(cadata=(ca or self.ca).pem.decode())
        return context.wrap_socket(self.open(), server_hostname=host)

    def client(self, sock: socket.socket, host: str) -> http.client.HTTPConnection:
        """Speak HTTP over a socket."""
        client = http.client.HTTPConnection(host, timeout=LIMIT_S)
        client.sock = sock
        return client

    def ask(self, host: str, path: str = "/", **options: object) -> tuple[int, bytes]:
        """Ask once over TLS that the firewall ends."""
        with self.open_tls(host) as sock:
            return ask(self.client(sock, host), path, **options)

    def records(self, count: int) -> tuple[EgressRecord, ...]:
        """Wait until there are so many records; gives all."""
        deadline = time.monotonic() + LIMIT_S
        while self.log.last_seq < count and time.monotonic() < deadline:
            self.log.wait(self.log.last_seq, timeout_s=0.1)
        return self.log.since(0)


def ask(
    client: http.client.HTTPConnection, path: str = "/", **options: object
) -> tuple[int, bytes]:
    """Send one request; gives status and body."""
    method = str(options.pop("method", "GET"))
    client.request(method, path, **options)  # type: ignore[arg-type] # http.client's own names
    answer = client.getresponse()
    return answer.status, answer.read()


@contextlib.contextmanager
def firewall(outside: Outside, policy: object, **options: object) -> Iterator[Wall]:
    """Give a running firewall with this policy (wire form) in front of the upstreams."""
    listeners = {
        name: socket.create_server(("127.0.0.1", 0), backlog=1024)
        for name in ("tls4", "http4", "proxy", "dnstcp4")
    }
    listeners["dns4"] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listeners["dns4"].bind(("127.0.0.1", 0))
    ports = {name: sock.getsockname()[1] for name, sock in listeners.items()}
    log, ca = EgressLog(), SandboxCA.create()
    made = Firewall(
        listeners,
        parse_policy(policy),
        ca=ca,
        record=log,
        upstreams=outside.upstreams,
        upstream_ca=outside.ca_file,
        **options,  # type: ignore[arg-type] # Firewall's own names
    )
    made.start()
    try:
        yield Wall(made, log, ca, ports)
    finally:
        made.close()


def told(record: EgressRecord) -> tuple[object, ...]:
    """Give what a record says, without numbers and times."""
    return (record.channel, record.host, record.port, record.verdict, record.reason)


def is_over(sock: socket.socket) -> bool:
    """Whether the other side has ended this connection."""
    try:
        while sock.recv(65536):
            pass
    except OSError as exc:
        return not isinstance(exc, TimeoutError)
    return True
