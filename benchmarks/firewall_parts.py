"""The parts of the firewall benchmark that run in processes of their own."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from opencode_magic.core.policy_wire import parse_policy
from opencode_magic.local.firewall.ca import SandboxCA
from opencode_magic.local.firewall.engine import Firewall
from opencode_magic.local.firewall.record import EgressLog

if TYPE_CHECKING:
    import ssl

HOST = "upstream.example.com"
SPLICED = "spliced.example.com"
PIECE = b"\0" * (256 * 1024)
TINY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def serve_upstream(authority: str) -> None:
    """Answer ``GET /N`` with N bytes over TLS, and a ClientHello with ``N RAW!`` after it raw."""
    ca = SandboxCA.create("outside")
    Path(authority).write_bytes(ca.pem)
    contexts = {name: ca.context_for(name) for name in (HOST, SPLICED)}
    context = contexts[HOST]

    def choose(tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        tls.context = contexts.get(name or "", context)

    context.sni_callback = choose
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_answer, args=(sock, context), daemon=True).start()


def _answer(sock: socket.socket, context: ssl.SSLContext) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError), sock:
        if sock.recv(1024, socket.MSG_PEEK)[-4:] == b"RAW!":
            head = sock.recv(1024)
            _send(sock, int(head.split(b" ")[-2]))
            return
        with context.wrap_socket(sock, server_side=True) as tls:
            buffer = b""
            while data := tls.recv(65536):
                buffer += data
                while b"\r\n\r\n" in buffer:
                    head, _, buffer = buffer.partition(b"\r\n\r\n")
                    size = int(head.split(b" ")[1][1:])
                    if size:
                        tls.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
                        _send(tls, size)
                    else:
                        tls.sendall(TINY)


def _send(sock: socket.socket, size: int) -> None:
    while size > 0:
        sock.sendall(PIECE[:size])
        size -= len(PIECE)


def serve_firewall(upstream_port: int, authority: str) -> None:
    """Run a firewall that splices one name and terminates the other."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    ca = SandboxCA.create()
    inject = [{"transform": [{"headers": {"authorization": "Bearer key"}}]}]
    upstream = ("127.0.0.1", upstream_port)
    firewall = Firewall(
        {"tls4": listener},
        parse_policy({"allow": {SPLICED: [], HOST: inject}}),
        ca=ca,
        record=EgressLog(),
        upstreams={SPLICED: upstream, HOST: upstream},
        upstream_ca=Path(authority),
    )
    firewall.start()
    pem = Path(authority).with_name("sandbox.pem")
    pem.write_bytes(ca.pem)
    print(listener.getsockname()[1], flush=True)
    signal.pause()


if __name__ == "__main__":
    match sys.argv[1]:
        case "upstream":
            serve_upstream(sys.argv[2])
        case _:
            serve_firewall(int(sys.argv[2]), sys.argv[3])
