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


def test_no_connection_option_takes_an_injected_header_away(outside: Outside) -> None:
    """A proxy before the upstream drops what such an option names: it may name none of ours."""
    server = outside.serve_http(HOST)
    options = {"Connection": "keep-alive, Authorization,X-Other , TE", "X-Other": "1"}
    with firewall(outside, {"allow": INJECT}) as wall:
        wall.ask(HOST, headers=options)
        wall.ask(HOST, headers={"Connection": "authorization"})

    first, second = (headers for _, _, headers, _ in server.seen)
    assert first["Connection"] == "keep-alive, TE"
    assert "Connection" not in second
    assert first["authorization"] == second["authorization"] == "Bearer SECRET"


def test_an_injected_header_has_no_second_spelling(outside: Outside) -> None:
    """Many servers read an underscore as a dash: such a header of the program's goes too."""
    server = outside.serve_http(HOST)
    rule = {"transform": [{"headers": {"x-api-key": "SECRET", "x_team": "ours"}}]}
    mine = {"X_Api_Key": "mine", "X-Api_Key": "mine", "X-Team": "mine", "X_Other": "kept"}
    with firewall(outside, {"allow": {HOST: [rule]}}) as wall:
        wall.ask(HOST, headers=mine)

    [(_, _, headers, _)] = server.seen
    assert "mine" not in headers.values()
    assert (headers["x-api-key"], headers["x_team"]) == ("SECRET", "ours")
    assert headers["X_Other"] == "kept"
