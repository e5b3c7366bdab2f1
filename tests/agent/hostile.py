"""A server that speaks any bytes: a program inside that has taken the agent server's place."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opencode_magic.agent.client import AgentClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Speech = Iterable[bytes]
    Speaker = Callable[[], Speech]

SESSION = "ses_hostile"
PASSWORD = "planted-password-of-this-start"
DRIP_S = 0.05


def head(status: int = 200, *more: str, kind: str = "application/json") -> bytes:
    """Give the head of an answer whose end is the connection's."""
    lines = (f"HTTP/1.1 {status} OK", f"content-type: {kind}", "connection: close", *more)
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def says(value: object, status: int = 200) -> tuple[bytes, bytes]:
    """Give a whole answer in JSON."""
    return head(status), json.dumps(value).encode()


def events(*values: object) -> bytes:
    """Give server-sent events as OpenCode writes them."""
    return b"".join(b"data: %b\n\n" % json.dumps(value).encode() for value in values)


def event(kind: str, **properties: object) -> dict[str, object]:
    """Give one event of the hostile session."""
    return {"id": "evt_1", "type": kind, "properties": {"sessionID": SESSION, **properties}}


CONNECTED = {"id": "evt_0", "type": "server.connected", "properties": {}}
ENDLESS = itertools.repeat


class HostileServer:
    """Answers each request with the bytes of the first path that its own path holds.

    A piece that is empty is a pause of ``DRIP_S``. The turn's POST hangs until an abort comes, as
    OpenCode's does, where nothing else was said about it.
    """

    def __init__(self) -> None:
        self.closing = threading.Event()
        self.last_info: dict[str, object] = {"id": "msg_9", "role": "user"}
        """What the turn's POST answers; the user's own message is what it is after an abort."""
        self.prompted = threading.Event()
        self.aborted = threading.Event()
        self.requests: list[tuple[str, str]] = []
        self.heads: list[str] = []
        self.sent_bytes = 0
        self._speakers: list[tuple[str, str, Speaker]] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._threads: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Its origin."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def on(self, method: str, path: str, speaker: Speaker) -> None:
        """Answer so from now on; the last that was said counts."""
        self._speakers.insert(0, (method, path, speaker))

    def behave(self) -> None:
        """Answer everything that a turn needs as OpenCode would; the stream only connects."""
        self.on("GET", "", lambda: says([]))
        self.on("POST", "", lambda: says(value=True))
        self.on("PATCH", "", lambda: says(value=True))
        self.on("GET", "/session/status", lambda: says({}))
        self.on("GET", "/config/providers", lambda: says({"providers": []}))
        self.on("POST", "/session?", lambda: says({"id": SESSION}))
        self.on("POST", "/message", self._until_aborted)
        self.on("POST", "/abort", self._abort)
        self.stream(())

    def stream(self, speech: Iterable[bytes]) -> None:
        """Connect, wait for the prompt, send this, then stay silent."""

        def speak() -> Speech:
            yield head(kind="text/event-stream")
            yield events(CONNECTED)
            while not self.prompted.is_set():
                yield b""
            yield from speech
            yield from ENDLESS(b"")

        self.on("GET", "/event", speak)

    def finish(self) -> None:
        """End the turn as an honest server does."""
        self.last_info = {"id": "msg_9", "role": "assistant", "finish": "stop"}
        self.aborted.set()

    def close(self) -> None:
        """Stop speaking, in the middle of a word where it is."""
        self.closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in (self._thread, *self._threads):
            thread.join(10)

    def _until_aborted(self) -> Speech:
        self.prompted.set()
        yield head()
        while not self.aborted.is_set():
            yield b""
        yield json.dumps({"info": self.last_info}).encode()

    def _abort(self) -> Speech:
        self.aborted.set()
        return says(value=True)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.settimeout(0.2)
            text = sock.recv(65536).decode("latin-1")
            self.heads.append(text.partition("\r\n\r\n")[0])
            method, path, *_ = text.split(" ")
            self.requests.append((method, path))
            for piece in self._find(method, path)():
                if self.closing.is_set():
                    return
                if piece:
                    self._send(sock, piece)
                else:
                    self.closing.wait(DRIP_S)
            # A close before the request was read whole would be a reset.
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass

    def _send(self, sock: socket.socket, piece: bytes) -> None:
        view = memoryview(piece)
        while view and not self.closing.is_set():
            with contextlib.suppress(TimeoutError):
                sent = sock.send(view)
                self.sent_bytes += sent
                view = view[sent:]

    def _find(self, method: str, path: str) -> Speaker:
        for wanted, part, speaker in self._speakers:
            if method == wanted and part in path:
                return speaker
        return lambda: says({})


@contextmanager
def hostile_server() -> Iterator[HostileServer]:
    """Give one that behaves until it is told otherwise."""
    server = HostileServer()
    server.behave()
    try:
        yield server
    finally:
        server.close()


@contextmanager
def client_of(server: HostileServer, *, timeout_s: float = 10.0) -> Iterator[AgentClient]:
    """Give a client that takes it for the agent server."""
    client = AgentClient(server.url, PASSWORD, "/work", timeout_s=timeout_s)
    try:
        yield client
    finally:
        client.close()
