"""Puts TLS in front of a server on loopback, so that it can stand for a public one."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from typing import TYPE_CHECKING, Self

from opencode_magic.local.firewall.ca import SandboxCA

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

CHUNK_BYTES = 65536


class TlsFront:
    """Answers TLS under one name, and passes the bytes on to a port on loopback."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._ca = SandboxCA.create("opencode-magic tests")
        self._server = _Server(self._ca.context_for(host), port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def upstream(self) -> str:
        """The option that leads the host to this front."""
        return f"{self._host}=127.0.0.1:{self._server.server_address[1]}"

    def write_ca(self, folder: Path) -> Path:
        """Write the authority that signs its certificate."""
        path = folder / "front-ca.pem"
        path.write_bytes(self._ca.pem)
        return path

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, context: ssl.SSLContext, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Relay)
        self.context = context
        self.port = port


class _Relay(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        with (
            contextlib.suppress(OSError),
            self.server.context.wrap_socket(self.request, server_side=True) as outer,
            socket.create_connection(("127.0.0.1", self.server.port)) as inner,
        ):
            back = threading.Thread(target=_copy, args=(inner, outer), daemon=True)
            back.start()
            _copy(outer, inner)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy until the source ends, and tell the target."""
    with contextlib.suppress(OSError):
        while chunk := source.recv(CHUNK_BYTES):
            target.sendall(chunk)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
