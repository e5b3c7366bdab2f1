"""A TLS server on loopback that answers under any name, and remembers who asked."""

from __future__ import annotations

import http.server
import ssl
import threading
from typing import TYPE_CHECKING, cast

from opencode_magic.local.firewall.ca import SandboxCA

if TYPE_CHECKING:
    from pathlib import Path


class Canary:
    """Answers when it is reached: so that a refusal means that the wall refused."""

    def __init__(self) -> None:
        self._ca = SandboxCA.create("opencode-magic tests")
        self.authorizations: list[str] = []
        canary = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                canary.authorizations.append(self.headers.get("authorization", ""))
                self.send_response(200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
                pass

        self._server = _Quiet(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # The name that is asked for decides the certificate; one is needed to begin with.
        context.sni_callback = self._choose
        self._server.context = context
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return ("127.0.0.1", int(self._server.server_address[1]))

    def upstream(self, host: str) -> str:
        """The option that leads a host to this server."""
        return f"{host}=127.0.0.1:{self.address[1]}"

    def write_ca(self, folder: Path) -> Path:
        """Write the authority that signs its certificates."""
        path = folder / "canary-ca.pem"
        path.write_bytes(self._ca.pem)
        return path

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _choose(self, sock: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        sock.context = self._ca.context_for(name or "example.com")


class _Quiet(http.server.ThreadingHTTPServer):
    """Serves TLS, and says nothing of clients that go away."""

    context: ssl.SSLContext
    daemon_threads = True

    def finish_request(self, request: object, client_address: object) -> None:
        # The handshake belongs to the request's own thread; typeshed names the union only.
        raw = cast("ssl.socket", request)  # type: ignore[name-defined]
        with self.context.wrap_socket(raw, server_side=True) as secure:
            super().finish_request(secure, cast("tuple[str, int]", client_address))

    def handle_error(self, request: object, client_address: object) -> None:
        pass
