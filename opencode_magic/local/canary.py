"""A server on this machine's loopback whose answers an attempt to get out would bring back."""

from __future__ import annotations

import http.server
import threading

ANSWER = b"canary!"


class Canary:
    """Answers each request with the token, and ``/away`` with a redirect to another host."""

    def __init__(self) -> None:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="canary", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        is_away = self.path == "/away"
        body = b"" if is_away else ANSWER
        self.send_response(302 if is_away else 200)
        if is_away:
            self.send_header("Location", "https://away.example/")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
