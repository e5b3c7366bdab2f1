from __future__ import annotations

import http.client
import random
import time
from typing import TYPE_CHECKING

import pytest

from tests.local.firewall.outside import Outside, ask, firewall

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable


HOST = "api.example.com"
INJECT = {HOST: [{"transform": [{"headers": {"authorization": "Bearer SECRET"}}]}]}
BODY = random.Random(7).randbytes(3_000_017)  # noqa: S311 - bytes that compress and repeat nowhere

HEAD = b"HTTP/1.1 200 OK\r\n"
SHORT = HEAD + b"content-length: 2\r\n\r\nok"
WITH_LENGTH = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = b"".join(
    (
        HEAD + b"transfer-encoding: chunked\r\n\r\n",
        *(
            b"%x\r\n%b\r\n" % (len(piece), piece)
            for at in range(0, len(BODY), 70_001)
            if (piece := BODY[at : at + 70_001])
        ),
        b"0\r\n\r\n",
    )
)
CHUNKED_WITH_LENGTH = CHUNKED.replace(HEAD, HEAD + b"content-length: %d\r\n" % len(CHUNKED), 1)
UNTIL_CLOSE = HEAD + b"connection: close\r\n\r\n" + BODY


def answering(answer: bytes, step: int) -> Callable[[socket.socket], None]:
    """Give an upstream that answers once, in writes of this size, and ends."""

    def talk(sock: socket.socket) -> None:
        sock.recv(4096)
        for at in range(0, len(answer), step):
            sock.sendall(answer[at : at + step])

    return talk


def serving(outside: Outside, answers: list[bytes], seen: list[int]) -> None:
    """Give an upstream that answers with these in turn, and notes its connection each time."""

    def talk(sock: socket.socket) -> None:
        while sock.recv(4096):
            seen.append(id(sock))
            sock.sendall(answers[len(seen) - 1])

    outside.serve_raw(HOST, talk)


@pytest.mark.parametrize("answer", [WITH_LENGTH, CHUNKED, CHUNKED_WITH_LENGTH, UNTIL_CLOSE])
@pytest.mark.parametrize("step", [1 << 20, 16_384, 9_973])
def test_a_large_answer_arrives_byte_for_byte(outside: Outside, answer: bytes, step: int) -> None:
    """Every framing passes whole, however the upstream cuts its TLS records."""
    outside.serve_raw(HOST, answering(answer, step))
    with firewall(outside, {"allow": INJECT}) as wall:
        status, body = wall.ask(HOST)

    assert status == 200
    assert body == BODY


def test_a_slow_program_gets_the_whole_answer(outside: Outside) -> None:
    """What a program does not take at once waits unchanged, though it asks on meanwhile."""
    long_body = BODY * 8  # more than the sockets' buffers hold
    long_answer = HEAD + b"content-length: %d\r\n\r\n" % len(long_body) + long_body
    serving(outside, [long_answer, SHORT], [])
    request = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    with firewall(outside, {"allow": INJECT}) as wall, wall.open_tls(HOST) as sock:
        sock.sendall(request)
        time.sleep(0.3)
        sock.sendall(request)
        time.sleep(0.1)
        size, taken = len(long_answer) + len(SHORT), bytearray()
        while len(taken) < size and (piece := sock.recv(300_007)):
            taken += piece
            time.sleep(0.0005)

    assert taken.lower() == (long_answer + SHORT).lower()


def test_large_uploads_arrive_byte_for_byte(outside: Outside) -> None:
    """Bodies of several buffers come back as they were sent, one after the other."""
    outside.serve_http(HOST)
    with firewall(outside, {"allow": INJECT}) as wall, wall.open_tls(HOST) as sock:
        client = wall.client(sock, HOST)
        answers = [ask(client, method="POST", body=BODY[start:]) for start in (0, 1_000_003)]

    assert [body.partition(b"\n")[2] for _, body in answers] == [BODY, BODY[1_000_003:]]


@pytest.mark.parametrize("answer", [WITH_LENGTH, CHUNKED])
def test_a_large_answer_that_is_cut_short_is_told(outside: Outside, answer: bytes) -> None:
    """The program sees an error and not an end, and the reason is on record."""
    outside.serve_raw(HOST, answering(answer[:-3], 1 << 20))
    with firewall(outside, {"allow": INJECT}) as wall, wall.open_tls(HOST) as sock:
        client = wall.client(sock, HOST)
        with pytest.raises((OSError, http.client.IncompleteRead)):
            ask(client)
        records = wall.records(2)

    assert records[1].reason == "it closed the connection in the middle of its answer"


def test_a_connection_is_kept_after_a_long_answer(outside: Outside) -> None:
    """The upstream is asked again where it was, for a long answer, a short one and a long one."""
    seen: list[int] = []
    serving(outside, [WITH_LENGTH, SHORT, WITH_LENGTH], seen)
    with firewall(outside, {"allow": INJECT}) as wall, wall.open_tls(HOST) as sock:
        client = wall.client(sock, HOST)
        bodies = [ask(client)[1] for _ in range(3)]
        records = wall.records(6)

    assert bodies == [BODY, b"ok", BODY]
    assert len(set(seen)) == 1
    ended = [record for record in records if record.is_end and record.status_code]
    assert ended[0].bytes_in == ended[2].bytes_in == len(WITH_LENGTH)


def test_a_long_answer_that_ends_the_connection_ends_it(outside: Outside) -> None:
    """Where the upstream says that it closes, so does the firewall, after the whole answer."""
    closing = WITH_LENGTH.replace(HEAD, HEAD + b"connection: close\r\n", 1)
    serving(outside, [closing], [])
    with firewall(outside, {"allow": INJECT}) as wall, wall.open_tls(HOST) as sock:
        sock.sendall(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        taken = b"".join(iter(lambda: sock.recv(65_536), b""))

    assert taken.lower() == closing.lower()


def test_more_than_a_long_length_is_not_passed_on(outside: Outside) -> None:
    """Bytes after a long answer's end reach no program, and end the upstream connection."""
    seen: list[int] = []
    serving(outside, [WITH_LENGTH + b"HTTP/1.1 200", WITH_LENGTH], seen)
    with firewall(outside, {"allow": INJECT}) as wall, wall.open_tls(HOST) as sock:
        client = wall.client(sock, HOST)
        bodies = [ask(client)[1] for _ in range(2)]

    assert bodies == [BODY, BODY]
    assert len(set(seen)) == 2


def test_more_than_the_length_is_not_passed_on(outside: Outside) -> None:
    """Bytes after an answer's end reach no program, and end the upstream connection."""
    outside.serve_raw(HOST, answering(SHORT + b"HTTP/1.1 200", 1 << 20))
    with firewall(outside, {"allow": INJECT}) as wall, wall.open_tls(HOST) as sock:
        client = wall.client(sock, HOST)
        first = ask(client)
        second = ask(client)

    assert first == second == (200, b"ok")
