from __future__ import annotations

import socket

from opencode_magic.local.firewall.peer import Peer


def test_what_is_passed_on_arrives_though_its_buffer_is_used_again() -> None:
    """The rest of what did not go at once is a copy: the next read writes over the buffer."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = Peer(ours)
        buffer = bytearray(b"a" * 4_000_000)
        peer.pass_on(memoryview(buffer))
        assert peer.has_unsent
        buffer[:] = b"b" * len(buffer)
        peer.pass_on(memoryview(buffer))
        buffer[:] = b"c" * len(buffer)

        taken = bytearray()
        while len(taken) < 2 * len(buffer):
            peer.flush()
            taken += theirs.recv(1_000_000)

    assert not peer.has_unsent
    assert taken == b"a" * len(buffer) + b"b" * len(buffer)
