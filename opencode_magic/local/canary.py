"""Servers on this machine's loopback whose answers an attempt to get out would bring back."""

from __future__ import annotations

import contextlib
import http.server
import threading
from typing import TYPE_CHECKING

from opencode_magic.local.firewall.ca import SandboxCA

if TYPE_CHECKING:
    from pathlib import Path

ANSWER = b"canary!"
_SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: %s\r\n\r\n"
)
_ACCEPTED = b"KlWtgctuMZly4+zXwIoPxlMJkOw="
"""For the one key that the attempts ask with."""
_FRAME = b"\x81\x07" + ANSWER


class Canary:
    """Answers each request with the token; ``/away`` with a redirect to another host.

    ``/first`` gets an answer without the token, and a WebSocket one frame with it. The same by TLS,
    with a certificate that has the token in it too: where nobody stands between, it is seen.

    Attributes:
        port: Where it speaks plain HTTP.
        tls_port: Where it speaks TLS.
    """

    def __init__(self, host: str) -> None:
        """Start to answer; ``host`` is whose certificate it has."""
        self._ca = SandboxCA.create(ANSWER.decode())
        plain, secured = _Server(("127.0.0.1", 0), _Handler), _Server(("127.0.0.1", 0), _Handler)
        # The handshake is made by the connection's own thread: nobody else waits for it.
        secured.socket = self._ca.context_for(host).wrap_socket(
            secured.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port, self.tls_port = plain.server_port, secured.server_port
        self._running = [(server, _start(server)) for server in (plain, secured)]

    def write_ca(self, path: Path) -> Path:
        """Write the authority that signed its certificate."""
        path.write_bytes(self._ca.pem)
        return path

    def close(self) -> None:
        """Stop answering."""
        for server, thread in self._running:
            server.shutdown()
            thread.join()
            server.server_close()


def _start(server: http.server.HTTPServer) -> threading.Thread:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="canary", daemon=True)
    thread.start()
    return thread


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing: connections are cut on purpose."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_GET(self) -> None:
        if self.headers.get("upgrade", "").lower() == "websocket":
            self._switch()
            return
        is_away = self.path == "/away"
        body = {"/away": b"", "/first": b"first"}.get(self.path, ANSWER)
        self.send_response(302 if is_away else 200)
        if is_away:
            self.send_header("Location", "https://away.example/")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _switch(self) -> None:
        """Wait for one frame, and give one."""
        self.close_connection = True
        self.wfile.write(_SWITCH % _ACCEPTED)
        with contextlib.suppress(OSError):
            self.connection.recv(64)
            self.wfile.write(_FRAME)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
