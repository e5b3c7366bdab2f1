from __future__ import annotations

import queue
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from opencode_magic.local.firewall.connections import Connection
from opencode_magic.local.firewall.record import Attempt
from opencode_magic.local.firewall.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_S = 10.0


class Spliced:
    """A program and an upstream, with a relay between them."""

    def __init__(self, relay: Relay) -> None:
        self.program, inner = _pair()
        outer, self.upstream = _pair()
        self.connection = Connection(Attempt("tls", "a.example", 443), inner)
        self.connection.own(outer)
        self.ends: queue.SimpleQueue[str] = queue.SimpleQueue()
        relay.add(self.connection, inner, outer, self._end)

    def _end(self, connection: Connection, reason: str) -> None:
        connection.close(is_abort=bool(reason))
        self.ends.put(reason)

    def close(self) -> None:
        """Close both outer ends."""
        self.program.close()
        self.upstream.close()


@pytest.fixture
def relay() -> Iterator[Relay]:
    """A running relay."""
    made = Relay()
    made.start()
    yield made
    made.close()


@pytest.fixture
def spliced(relay: Relay) -> Iterator[Spliced]:
    """One spliced connection."""
    made = Spliced(relay)
    yield made
    made.close()


def test_bytes_go_both_ways(spliced: Spliced) -> None:
    """What one side sends the other receives, and both are counted."""
    spliced.program.sendall(b"ping")
    out = spliced.upstream.recv(10)
    spliced.upstream.sendall(b"answer")
    back = spliced.program.recv(10)

    assert (out, back) == (b"ping", b"answer")
    assert (spliced.connection.bytes_out, spliced.connection.bytes_in) == (4, 6)


def test_nothing_is_copied_while_the_relay_rests(relay: Relay, spliced: Spliced) -> None:
    """What is sent in the meantime arrives afterwards."""
    spliced.upstream.settimeout(0.05)
    with relay.resting():
        spliced.program.sendall(b"later")
        with pytest.raises(TimeoutError):
            spliced.upstream.recv(10)
    spliced.upstream.settimeout(LIMIT_S)

    assert spliced.upstream.recv(10) == b"later"


def test_half_closed_connections_go_on(spliced: Spliced) -> None:
    """After the program has ended its side, the upstream's answer still arrives."""
    spliced.program.sendall(b"question")
    spliced.program.shutdown(socket.SHUT_WR)
    asked = b"".join(iter(lambda: spliced.upstream.recv(100), b""))
    spliced.upstream.sendall(b"answer")
    spliced.upstream.close()
    answer = b"".join(iter(lambda: spliced.program.recv(100), b""))

    assert (asked, answer) == (b"question", b"answer")
    assert spliced.ends.get(timeout=LIMIT_S) == ""


def test_a_side_that_does_not_read_holds_only_itself_up(relay: Relay, spliced: Spliced) -> None:
    """Megabytes in both directions at once arrive whole, whoever reads late."""
    data = bytes(range(256)) * 40_000
    other = Spliced(relay)
    threads = [
        threading.Thread(target=sock.sendall, args=(data,))
        for sock in (spliced.program, spliced.upstream)
    ]
    for thread in threads:
        thread.start()
    other.program.sendall(b"quick")
    quick = other.upstream.recv(10)
    received = [_read(sock, len(data)) for sock in (spliced.program, spliced.upstream)]
    for thread in threads:
        thread.join(LIMIT_S)
    other.close()

    assert quick == b"quick"
    assert received == [data, data]


def test_a_reset_is_passed_on(spliced: Spliced) -> None:
    """When the upstream resets, the program sees a reset, after what came before it."""
    spliced.upstream.sendall(b"last words")
    assert spliced.program.recv(100) == b"last words"
    spliced.upstream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    spliced.upstream.close()

    assert spliced.ends.get(timeout=LIMIT_S) == "it was reset"
    with pytest.raises(ConnectionResetError):
        spliced.program.recv(1)


def test_a_cut_ends_both_sides(spliced: Spliced) -> None:
    """Cutting works once, from any thread, and both sides notice."""
    assert spliced.connection.cut("cut: enough")
    assert not spliced.connection.cut("cut: again")

    assert spliced.ends.get(timeout=LIMIT_S) == "cut: enough"


def test_idle_connections_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without traffic ends when its time is over."""
    monkeypatch.setattr("opencode_magic.local.firewall.relay._SWEEP_S", 0.05)
    relay = Relay(idle_timeout_s=0.1)
    relay.start()
    spliced = Spliced(relay)
    try:
        assert spliced.ends.get(timeout=LIMIT_S) == "nothing was sent for a long time"
    finally:
        spliced.close()
        relay.close()


def test_closing_the_relay_ends_what_it_carries(relay: Relay) -> None:
    """After close no pair is left, and a late one ends at once."""
    spliced = Spliced(relay)
    spliced.program.sendall(b"x")
    spliced.upstream.recv(1)
    relay.close()
    late = Spliced(relay)

    assert spliced.ends.get(timeout=LIMIT_S) == "the sandbox ended"
    assert late.ends.get(timeout=LIMIT_S) == "the firewall ended"
    spliced.close()
    late.close()


def _pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    near.settimeout(LIMIT_S)
    far.settimeout(LIMIT_S)
    return near, far


def _read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += sock.recv(1 << 20)
    return data
