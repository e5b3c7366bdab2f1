from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from typing import NoReturn

from opencode_magic.local.ports import PublishedPort


def nothing_listens() -> NoReturn:
    raise ConnectionRefusedError


def test_port_outlives_a_moment_without_files() -> None:
    """A server that has no file left for a moment takes the connection later, and lives on."""
    with contextlib.closing(PublishedPort(nothing_listens)) as port, socket.socket() as client:
        client.settimeout(5)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            client.connect(("127.0.0.1", port.host_port))
            time.sleep(0.1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")

        assert client.recv(1000).startswith(b"HTTP/1.1 502 ")


def test_port_outlives_a_moment_without_threads() -> None:
    """A connection that no thread can be had for is closed; later ones are served."""
    echo = socket.create_server(("127.0.0.1", 0))
    with echo, contextlib.closing(PublishedPort(lambda: connected(echo))) as port:
        usual = threading.stack_size(1 << 46)  # no machine has room for such a thread
        try:
            with connected_to(port) as client:
                assert client.recv(1) == b""
        finally:
            threading.stack_size(usual)
        with connected_to(port) as client:
            inside, _ = echo.accept()
            with inside:
                client.sendall(b"hello")
                assert inside.recv(5) == b"hello"


def connected(listener: socket.socket) -> socket.socket:
    return socket.create_connection(listener.getsockname(), timeout=5)


def connected_to(port: PublishedPort) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port.host_port), timeout=5)


def test_closed_port_refuses() -> None:
    """After the close nobody answers, and closing again is harmless."""
    port = PublishedPort(nothing_listens)
    port.close()
    port.close()
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port.host_port)) != 0
