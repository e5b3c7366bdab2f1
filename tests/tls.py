"""TLS in front of a plain server on loopback, under any name: a test's public host."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import TYPE_CHECKING

from opencode_magic.local.firewall.ca import SandboxCA

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHUNK_BYTES = 64 * 1024


class TlsFront:
    """Ends TLS with a certificate for whatever name is asked for, and passes the bytes on."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._ca = SandboxCA.create("opencode-magic tests")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.sni_callback = self._choose
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.names: list[str] = []
        """The names that were asked for, oldest first."""
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def upstream(self, host: str) -> str:
        """The option that leads a host to this front."""
        return f"{host}=127.0.0.1:{self.port}"

    def write_ca(self, folder: Path) -> Path:
        """Write the authority that signs its certificates."""
        path = folder / "front-ca.pem"
        path.write_bytes(self._ca.pem)
        return path

    def close(self) -> None:
        """Stop listening."""
        # A thread that waits in accept is woken by shutdown, not by close.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _choose(self, sock: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        self.names.append(name or "")
        sock.context = self._ca.context_for(name or "unnamed.example")

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        with contextlib.suppress(OSError), raw:
            client = self._context.wrap_socket(raw, server_side=True)
            server = socket.create_connection(("127.0.0.1", self._target_port))
            with client, server:
                back = threading.Thread(target=_copy, args=(server, client), daemon=True)
                back.start()
                _copy(client, server)
                back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(CHUNK_BYTES):
            sink.sendall(chunk)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def tls_front(target_port: int) -> Iterator[TlsFront]:
    """Give a front that ends with the block."""
    front = TlsFront(target_port)
    try:
        yield front
    finally:
        front.close()
