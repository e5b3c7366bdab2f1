from __future__ import annotations

import contextlib
import resource
import socket
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


def test_closed_port_refuses() -> None:
    """After the close nobody answers, and closing again is harmless."""
    port = PublishedPort(nothing_listens)
    port.close()
    port.close()
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port.host_port)) != 0
