"""A proxy that misbehaves on purpose, in front of any HTTP server.

    with fault_proxy(upstream_url) as proxy:
        proxy.add(Answer(429, {"retry-after": "3600"}), path="/chat/completions")

Each request takes the first rule that fits its method and path; one without a rule is passed on.
Every connection carries one request.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "te", "upgrade"}


@dataclass(frozen=True)
class Answer:
    """Answer with this status; the server behind is not asked."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b'{"error":{"message":"answered by the fault proxy"}}'


@dataclass(frozen=True)
class Hang:
    """Take the request and never answer."""


@dataclass(frozen=True)
class Garbage:
    """Answer with bytes that are no HTTP, then close."""

    data: bytes = b"\x00\xff\x16\x03garbage\r\n\r\n" * 8


@dataclass(frozen=True)
class Cut:
    """Reset the connection after so many bytes of the answer's body."""

    after_bytes: int = 0


@dataclass(frozen=True)
class Delay:
    """Wait before every piece of the answer's body, and before its head."""

    seconds: float


@dataclass(frozen=True)
class Duplicate:
    """Send every server-sent event twice."""


@dataclass(frozen=True)
class Reorder:
    """Swap server-sent events in pairs, after the first: 1, 3, 2, 5, 4, ..."""


@dataclass(frozen=True)
class Silence:
    """Fall silent after so many bytes of the answer's body; the connection stays open."""

    after_bytes: int = 0


@dataclass(frozen=True)
class Truncate:
    """End the answer properly after so many bytes of its body."""

    after_bytes: int = 0


Fault = Answer | Hang | Garbage | Cut | Delay | Duplicate | Reorder | Silence | Truncate


@dataclass
class Rule:
    """A fault, for requests whose method is this and whose path holds this text."""

    fault: Fault
    path: str = ""
    method: str = ""
    times: int | None = None
    """How often it is still used; None for ever."""

    def fits(self, method: str, path: str) -> bool:
        """Whether the rule is for this request."""
        is_left = self.times is None or self.times > 0
        return is_left and self.path in path and self.method in {"", method}


class FaultProxy:
    """The proxy. ``url`` has no path; ``requests`` is what came in, ``METHOD PATH``."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.requests: deque[str] = deque(maxlen=1000)
        self.closing = threading.Event()
        self.is_refusing = False
        """Where true, every new connection is closed at once."""
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._open: dict[socket.socket, str] = {}
        self._server = _Server(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def url(self) -> str:
        """The origin that clients are given."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> str:
        """Listen."""
        self._thread.start()
        return self.url

    def close(self) -> None:
        """Stop listening, and cut what is open."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self.cut()
        self._thread.join(5)

    def add(
        self, fault: Fault, *, path: str = "", method: str = "", times: int | None = None
    ) -> None:
        """Add a rule after those that there are."""
        with self._lock:
            self._rules.append(Rule(fault, path, method, times))

    def clear(self) -> None:
        """Forget all rules."""
        with self._lock:
            self._rules.clear()

    def cut(self, path: str = "") -> int:
        """Reset all open connections whose request's path holds this text; give their number."""
        with self._lock:
            chosen = [connection for connection, seen in self._open.items() if path in seen]
        for connection in chosen:
            reset(connection)
        return len(chosen)

    def take_rule(self, connection: socket.socket, method: str, path: str) -> Fault | None:
        """Note a request, and give the fault that is meant for it."""
        self.requests.append(f"{method} {path}")
        with self._lock:
            self._open[connection] = path
            for rule in self._rules:
                if rule.fits(method, path):
                    if rule.times is not None:
                        rule.times -= 1
                    return rule.fault
        return None

    def forget(self, connection: socket.socket) -> None:
        """Note that a connection is over."""
        with self._lock:
            self._open.pop(connection, None)


def reset(connection: socket.socket) -> None:
    """End a connection so that its peer sees a reset, even while others wait on it here."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)

    def verify_request(self, *_: object) -> bool:
        return not self.proxy.is_refusing

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that broke is what this proxy is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Say nothing."""

    def finish(self) -> None:
        self.server.proxy.forget(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        self._any()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_GET  # noqa: N815 - the base class names them

    def _any(self) -> None:
        self.close_connection = True
        proxy = self.server.proxy
        fault = proxy.take_rule(self.connection, self.command, self.path)
        body = self._body()
        match fault:
            case Answer():
                self._answer(fault)
            case Hang():
                proxy.closing.wait()
            case Garbage():
                self.wfile.write(fault.data)
            case Cut(after_bytes=0):
                reset(self.connection)
            case _:
                self._pass_on(body, fault)

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        pieces = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _answer(self, fault: Answer) -> None:
        self.send_response(fault.status)
        headers = {"content-type": "application/json", **fault.headers}
        headers |= {"content-length": str(len(fault.body)), "connection": "close"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(fault.body)

    def _pass_on(self, body: bytes, fault: Fault | None) -> None:
        upstream = http.client.HTTPConnection(*self.server.proxy.upstream, timeout=600)
        headers = {
            name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP
        }
        try:
            upstream.request(self.command, self.path, body or None, headers)
            self._relay(upstream.getresponse(), fault)
        except (OSError, http.client.HTTPException):
            reset(self.connection)
        finally:
            upstream.close()

    def _relay(self, response: http.client.HTTPResponse, fault: Fault | None) -> None:
        if isinstance(fault, Delay):
            self.server.proxy.closing.wait(fault.seconds)
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        has_body = self.command != "HEAD" and response.status not in {204, 304}
        self.send_header(
            "transfer-encoding" if has_body else "content-length", "chunked" if has_body else "0"
        )
        self.send_header("connection", "close")
        self.end_headers()
        if has_body and self._relay_body(response, fault):
            self.wfile.write(b"0\r\n\r\n")

    def _relay_body(self, response: http.client.HTTPResponse, fault: Fault | None) -> bool:
        """Pass the body on; give whether it is to be ended properly."""
        left = fault.after_bytes if isinstance(fault, Cut | Silence | Truncate) else None
        for piece in _pieces(response, fault):
            if isinstance(fault, Delay):
                self.server.proxy.closing.wait(fault.seconds)
            if left is not None and len(piece) >= left:
                self._chunk(piece[:left])
                return self._end_early(fault)
            left = None if left is None else left - len(piece)
            self._chunk(piece)
        return True

    def _end_early(self, fault: Fault | None) -> bool:
        if isinstance(fault, Silence):
            self.server.proxy.closing.wait()
        if isinstance(fault, Cut):
            reset(self.connection)
        return isinstance(fault, Truncate)

    def _chunk(self, piece: bytes) -> None:
        if piece:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))


def _pieces(response: http.client.HTTPResponse, fault: Fault | None) -> Iterator[bytes]:
    raw = iter(lambda: response.read1(65536), b"")
    match fault:
        case Duplicate():
            for event in _events(raw):
                yield event
                yield event
        case Reorder():
            events = _events(raw)
            yield next(events, b"")
            held: list[bytes] = []
            for event in events:
                held.append(event)
                if len(held) == 2:
                    yield held[1]
                    yield held[0]
                    held = []
            yield from held
        case _:
            yield from raw


def _events(raw: Iterator[bytes]) -> Iterator[bytes]:
    """Cut a stream of server-sent events after each event."""
    pending = b""
    for piece in raw:
        *events, pending = (pending + piece).split(b"\n\n")
        for event in events:
            yield event + b"\n\n"
    if pending:
        yield pending


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """Give a proxy in front of a server's origin, until the block ends."""
    proxy = FaultProxy(upstream)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.close()
