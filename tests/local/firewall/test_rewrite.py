from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.local.firewall.outside import firewall

if TYPE_CHECKING:
    import socket

    from tests.local.firewall.outside import Outside

HOST = "api.example.com"
INJECT = {HOST: [{"transform": [{"headers": {"authorization": "Bearer SECRET"}}]}]}


@pytest.mark.parametrize(
    ("upgrade", "connection", "passed"),
    [
        ("h2c", "Upgrade, HTTP2-Settings", []),
        ("h2c", "close, upgrade", [b"connection: close"]),
        ("websocket, h2c", "Upgrade", []),
        ("websocket", "keep-alive", [b"connection: keep-alive"]),
        ("WebSocket", "keep-alive, Upgrade", [b"connection: keep-alive, upgrade"]),
    ],
)
def test_only_websocket_may_be_asked_for(
    outside: Outside, upgrade: str, connection: str, passed: list[bytes]
) -> None:
    """After an upgrade nothing is decided any more: only WebSocket may get one."""
    seen: list[bytes] = []

    def upstream(sock: socket.socket) -> None:
        seen.extend(sock.recv(4096).lower().split(b"\r\n"))
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    outside.serve_raw(HOST, upstream)
    headers = {"Upgrade": upgrade, "Connection": connection, "HTTP2-Settings": "AAMAAABk"}
    with firewall(outside, {"allow": INJECT}) as wall:
        answer = wall.ask(HOST, headers=headers)

    asked = [line for line in seen if line.startswith((b"upgrade:", b"http2-settings:"))]
    is_websocket = passed == [b"connection: keep-alive, upgrade"]
    assert answer == (200, b"ok")
    assert [line for line in seen if line.startswith(b"connection:")] == passed
    assert asked == ([b"upgrade: websocket"] if is_websocket else [])


@pytest.mark.parametrize(
    ("asked", "answered"),
    [("h2c", "h2c"), ("h2c", "websocket"), ("", "websocket"), ("websocket", "h2c")],
)
def test_an_upgrade_that_was_not_asked_for_is_no_answer(
    outside: Outside, asked: str, answered: str
) -> None:
    """No upstream takes a connection out of the firewall's hands by itself."""

    def upstream(sock: socket.socket) -> None:
        sock.recv(4096)
        sock.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
            b"Upgrade: %s\r\n\r\nfree" % answered.encode()
        )
        sock.recv(4096)

    outside.serve_raw(HOST, upstream)
    headers = {"Upgrade": asked, "Connection": "Upgrade"} if asked else {}
    with firewall(outside, {"allow": INJECT}) as wall:
        status, body = wall.ask(HOST, headers=headers)

    assert status == 502
    assert b"free" not in body
