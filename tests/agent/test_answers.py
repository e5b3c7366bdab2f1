"""Answers of a program that has taken the agent server's place: they fill no memory."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import zlib
from typing import TYPE_CHECKING

import pytest

from opencode_magic.agent.answers import ANSWER_LIMIT_BYTES
from opencode_magic.agent.client import AgentClient
from opencode_magic.errors import AgentConnectionError

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024 * 1024
HEAD = b"HTTP/1.1 %d OK\r\ncontent-type: application/json\r\nconnection: close\r\n"


def bomb() -> bytes:
    """Give half a gigabyte of nothing, packed."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(bytes(MIB)) for _ in range(512)) + packer.flush()


@contextlib.contextmanager
def answering(head: bytes, body: bytes, times: int) -> Iterator[AgentClient]:
    """Give a client of a server that answers everything with so many times this body."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with sock, contextlib.suppress(OSError):
                    sock.recv(65536)
                    sock.sendall(head + b"\r\n")
                    for _ in range(times):
                        sock.sendall(body)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    client = AgentClient(f"http://127.0.0.1:{listener.getsockname()[1]}", "password", "/w")
    try:
        yield client
    finally:
        client.close()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize(
    ("more", "body", "times"),
    [(b"", bytes(MIB), 4096), (b"content-encoding: gzip\r\n", bomb(), 1)],
)
def test_an_answer_without_end_is_not_kept(
    status: int, more: bytes, body: bytes, times: int
) -> None:
    """It ends with one clear line at the limit, and what is packed is not unpacked."""
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with answering(HEAD % status + more, body, times) as client:
        with pytest.raises(AgentConnectionError, match="packed, or longer than 64 MB"):
            client.permissions()
        if status != 200:  # a stream may be as long as it likes: its events have their own limit
            with pytest.raises(AgentConnectionError, match="longer than 64 MB"), client.events():
                pass

    taken_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    assert taken_kb < 3 * ANSWER_LIMIT_BYTES // 1024
