"""A scripted model on a loopback port, for first runs without a key, for classes and for tests.

It speaks the streaming protocols of OpenAI (chat completions and responses), Anthropic and the AI
Gateway, drives the agent's real tools, and says that it is scripted. ``demo_script`` has the
directives that make it answer exactly as a test needs.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import socket
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

from opencode_magic.local.demo_answer import Answer
from opencode_magic.local.demo_script import answer
from opencode_magic.local.demo_wire import protocol_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opencode_magic.local.demo_answer import Asked
    from opencode_magic.local.demo_wire import Protocol, Stream

LARGEST_BODY_BYTES = 16 * 1024 * 1024
BODIES_BYTES = 64 * 1024 * 1024
"""All bodies that are being read, together: an agent may send many at once."""
BODY_TIMEOUT_S = 60.0
CONNECTIONS_LIMIT = 256
SEEN_KEPT = 200
FLUSH_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """One request that arrived, for tests of what leaves a sandbox."""

    path: str
    status: int
    prompt: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """By lower-case name; may hold a key."""


class DemoModel:
    """The server. Start it, use its ``url``, close it.

    Args:
        key: Where set, a request without it (as ``Authorization: Bearer`` or ``x-api-key``) is
            answered 401.
        host: The address to listen on.
        port: The port to listen on; 0 chooses a free one.
    """

    def __init__(self, *, key: str = "", host: str = "127.0.0.1", port: int = 0) -> None:
        self.seen: deque[SeenRequest] = deque(maxlen=SEEN_KEPT)
        self.closing = threading.Event()
        self._key = key
        self._address = (host, port)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The origin, such as ``http://127.0.0.1:4711``; every protocol is below it."""
        if self._server is None:
            return ""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def base_url(self) -> str:
        """What an OpenAI-compatible client calls its base URL."""
        return f"{self.url}/v1"

    def start(self) -> str:
        """Listen, and give the origin."""
        self._server = _Server(self._address, self)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="demo-model",
            daemon=True,
        )
        self._thread.start()
        return self.url

    def close(self) -> None:
        """Stop listening and end every open answer. Harmless when called twice."""
        self.closing.set()
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.hang_up()
        if self._thread is not None:
            self._thread.join(5)

    def is_allowed(self, headers: Mapping[str, str]) -> bool:
        """Whether a request with these headers (lower-case names) holds the key."""
        if not self._key:
            return True
        given = (headers.get("authorization", ""), f"Bearer {headers.get('x-api-key', '')}")
        wanted = f"Bearer {self._key}".encode()
        return any(hmac.compare_digest(value.encode(), wanted) for value in given)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], model: DemoModel) -> None:
        self.model = model
        self._open: set[socket.socket] = set()
        self._bodies_bytes = 0
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks the name service for this machine's name, which can take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "localhost", self.server_address[1]

    def verify_request(self, *_: object) -> bool:
        """Let no more in than there may be threads for."""
        return len(self._open) < CONNECTIONS_LIMIT

    @contextlib.contextmanager
    def room(self, size: int) -> Iterator[bool]:
        """Say whether a body of this size may be read; its room is given back at the end."""
        with self._lock:
            has_room = 0 <= size <= LARGEST_BODY_BYTES
            has_room = has_room and self._bodies_bytes + size <= BODIES_BYTES
            self._bodies_bytes += size if has_room else 0
        try:
            yield has_room
        finally:
            with self._lock:
                self._bodies_bytes -= size if has_room else 0

    def opened(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)

    def hang_up(self) -> None:
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that goes away is no event for the log of whoever embeds this."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "scripted-demo-model"
    sys_version = ""
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        self.server.closed(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Write no log: prompts are nobody else's business."""

    def do_GET(self) -> None:
        if self.path.partition("?")[0].rstrip("/").endswith("/models"):
            model = {"id": "scripted", "object": "model", "created": 0, "owned_by": "scripted"}
            self._reply(200, {"object": "list", "data": [model]})
        else:
            self._reply(200, {"scripted": True, "about": "a scripted demo model, not a real one"})

    def do_POST(self) -> None:
        protocol = protocol_for(self.path)
        length = self.headers.get("content-length") or "0"
        size = int(length) if length.isdecimal() else -1
        with self.server.room(size) as has_room:
            body = self._body(size) if has_room else {}
            asked = None if protocol is None else protocol.parse(body)
        if not has_room:
            self.close_connection = True
            self._reply(413, {"error": {"message": "too much at once (scripted)"}})
        elif protocol is None or asked is None:
            self._reply(404, {"error": {"message": f"no such path: {self.path}"}})
        else:
            self._answer(protocol, asked)

    def _answer(self, protocol: Protocol, asked: Asked) -> None:
        model = self.server.model
        headers = {name.lower(): value for name, value in self.headers.items()}
        script = answer(asked) if model.is_allowed(headers) else Answer(status=401)
        model.seen.append(SeenRequest(self.path, script.status, asked.prompt[:10_000], headers))
        if script.status != 200:  # noqa: PLR2004 - HTTP's OK
            self._fail(protocol, script)
        elif not model.closing.wait(script.wait_s):
            self._stream(script, protocol.stream(script, asked))

    def _body(self, size: int) -> Mapping[str, object]:
        self.connection.settimeout(BODY_TIMEOUT_S)
        try:
            parsed = json.loads(self.rfile.read(size))
        except (ValueError, RecursionError):
            return {}
        finally:
            self.connection.settimeout(None)
        return parsed if isinstance(parsed, dict) else {}

    def _fail(self, protocol: Protocol, script: Answer) -> None:
        texts = {401: "Incorrect API key provided.", 429: "Rate limit reached."}
        message = f"{texts.get(script.status, 'The server had an error.')} (scripted)"
        extra = {}
        if script.retry_after_s is not None:
            extra["retry-after"] = str(script.retry_after_s)
        self._reply(script.status, protocol.error(script.status, message), extra)

    def _reply(
        self, status: int, payload: Mapping[str, object], extra: Mapping[str, str] | None = None
    ) -> None:
        content = json.dumps(payload).encode()
        self.send_response(status)
        headers = {"content-type": "application/json", "x-scripted-model": "1"}
        headers |= {"content-length": str(len(content)), **(extra or {})}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, script: Answer, stream: Stream) -> None:
        if script.trouble == "hang":
            self.server.model.closing.wait()
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("cache-control", "no-cache")
        self.send_header("x-scripted-model", "1")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        # The first event announces the answer: half of the pieces have gone out after it.
        last = 1 + len(script.pieces) // 2 if script.trouble else None
        self._send(stream, last)
        if script.trouble == "stall":
            self.server.model.closing.wait()
        elif script.trouble == "cut":
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def _send(self, stream: Stream, last: int | None) -> None:
        """Write the stream in chunks; what has no pause between it is joined."""
        pending = bytearray()
        for count, (pause_s, data) in enumerate(stream):
            if last is not None and count >= last:
                break
            if pause_s:
                self._flush(pending)
                if self.server.model.closing.wait(pause_s):
                    return
            pending += data
            if pause_s or len(pending) > FLUSH_BYTES:
                self._flush(pending)
        self._flush(pending)

    def _flush(self, pending: bytearray) -> None:
        if pending:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(pending), bytes(pending)))
            pending.clear()
