from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, NoReturn

import pytest

from opencode_magic.local.peers import owner_of
from opencode_magic.local.ports import PublishedPort
from tests.local.readable import drop, open_python

if TYPE_CHECKING:
    from collections.abc import Iterator


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


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.mark.parametrize("mapped", ["", "::ffff:"])
def test_owner_of_a_connection(listener: socket.socket, mapped: str) -> None:
    """It is the user at the other end, also where that is an IPv6 socket; unknown once it ended."""
    host, port = listener.getsockname()
    with socket.create_connection((mapped + host, port)):
        accepted, _ = listener.accept()
        while_open = owner_of(accepted)
    with accepted:
        assert while_open == os.geteuid()
        assert owner_of(accepted) is None


def test_another_users_connection_is_refused() -> None:
    """A published port serves its own user: another one gets an error, and nothing inside."""
    calls: list[int] = []
    code = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5) as sock:
    print(sock.recv(1000).decode())
"""
    # Root can become another user; everybody else has a port of somebody else made.
    owner_uid = os.geteuid() if os.geteuid() == 0 else os.geteuid() + 1
    python = [*drop(), open_python()] if os.geteuid() == 0 else [sys.executable]
    with contextlib.closing(PublishedPort(lambda: refuse(calls), owner_uid=owner_uid)) as port:
        argv = [*python, "-c", code, str(port.host_port)]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)

    assert done.stdout.startswith("HTTP/1.1 403 ")
    assert "another user" in done.stdout
    assert not calls


def test_who_has_gone_is_not_served() -> None:
    """A program that ends before it is looked at could be anybody's."""
    calls: list[int] = []
    with contextlib.closing(PublishedPort(lambda: refuse(calls))) as port:
        client = socket.socket()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            client.connect(("127.0.0.1", port.host_port))
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            client.close()
            time.sleep(0.1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with connected_to(port) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 502 ")

    assert len(calls) == 1


def refuse(calls: list[int]) -> NoReturn:
    calls.append(1)
    raise ConnectionRefusedError
