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
UNTIL_CLOSE = HEAD + b"connection: close\r\n\r\n" + BODY


def answering(answer: bytes, step: int) -> Callable[[socket.socket], None]:
    """Give an upstream that answers once, in writes of this size, and ends."""

    def talk(sock: socket.socket) -> None:
        sock.recv(4096)
        for at in range(0, len(answer), step):
            sock.sendall(answer[at : at + step])

    return talk


@pytest.mark.parametrize("answer", [WITH_LENGTH, CHUNKED, UNTIL_CLOSE])
@pytest.mark.parametrize("step", [1 << 20, 16_384, 9_973])
def test_a_large_answer_arrives_byte_for_byte(outside: Outside, answer: bytes, step: int) -> None:
    """Every framing passes whole, however the upstream cuts its TLS records."""
    outside.serve_raw(HOST, answering(answer, step))
    with firewall(outside, {"allow": INJECT}) as wall:
        status, body = wall.ask(HOST)

    assert status == 200
    assert body == BODY


def test_a_slow_program_gets_the_whole_answer(outside: Outside) -> None:
    """What a program does not take at once waits unchanged, while more comes behind it."""
    outside.serve_raw(HOST, answering(WITH_LENGTH, 1 << 20))
    with firewall(outside, {"allow": INJECT}) as wall, wall.open_tls(HOST) as sock:
        client = wall.client(sock, HOST)
        client.request("GET", "/")
        time.sleep(0.3)
        answer = client.getresponse()
        body = answer.read(100_000)
        time.sleep(0.2)
        body += answer.read()

    assert body == BODY


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


def test_more_than_the_length_is_not_passed_on(outside: Outside) -> None:
    """Bytes after an answer's end reach no program, and end the upstream connection."""
    outside.serve_raw(HOST, answering(HEAD + b"content-length: 2\r\n\r\nokHTTP/1.1 200", 1 << 20))
    with firewall(outside, {"allow": INJECT}) as wall, wall.open_tls(HOST) as sock:
        client = wall.client(sock, HOST)
        first = ask(client)
        second = ask(client)

    assert first == second == (200, b"ok")
