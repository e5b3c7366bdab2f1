"""Plain answers of a hostile agent server: each ends in its time, with one of our errors."""

from __future__ import annotations

import base64
import contextlib
import itertools
import threading
import time
from typing import TYPE_CHECKING

import pytest

from opencode_magic.agent.server import OpenCodeServer
from opencode_magic.core.prompt import Prompt
from opencode_magic.errors import AgentConnectionError, AgentError
from tests.agent.hostile import ENDLESS, PASSWORD, client_of, head, hostile_server, says
from tests.agent.running import choice_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opencode_magic.agent.client import AgentClient
    from tests.agent.hostile import HostileServer


def drip(piece: bytes) -> Iterator[bytes]:
    """Say this, pause, and say it again, for ever."""
    return itertools.cycle((piece, b""))


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
DRIPPING_HEADS: dict[str, Callable[[], Iterable[bytes]]] = {
    "head": lambda: itertools.chain([b"HTTP/1.1 200 OK\r\nx: "], drip(b"a")),
    "100 Continue": lambda: drip(CONTINUE),
    "100 Continue at once": lambda: ENDLESS(CONTINUE * 1000),
}
DRIPPING_BODIES: dict[str, Callable[[], Iterable[bytes]]] = {
    "slow body": lambda: itertools.chain([head()], drip(b" ")),
    "chunk's size": lambda: itertools.chain([CHUNKED + b"1;a="], drip(b"a")),
}
DRIPS = DRIPPING_HEADS | DRIPPING_BODIES
CALLS: dict[str, Callable[[AgentClient], object]] = {
    "session": lambda client: client.create_session("x"),
    "messages": lambda client: client.messages("ses_1"),
    "last": lambda client: client.last_message_id("ses_1"),
    "busy": lambda client: client.busy_sessions(),
    "children": lambda client: client.children("ses_1"),
    "permissions": lambda client: client.permissions(),
    "reject": lambda client: client.reject_question("que_1"),
    "abort": lambda client: client.abort("ses_1", timeout_s=0.5),
    "health": lambda client: client.health(),
    "models": lambda client: client.models(),
}
STREAM: dict[str, Callable[[AgentClient], object]] = {
    "events": lambda client: client.events().__enter__(),
}


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with hostile_server() as server:
        yield server


def answer_all(server: HostileServer, speech: Callable[[], Iterable[bytes]]) -> None:
    for method in ("GET", "POST", "PATCH"):
        server.on(method, "", speech)


@pytest.mark.parametrize(
    ("way", "call"),
    [
        *itertools.product(DRIPS, ("session", "messages", "last", "abort")),
        *itertools.product(DRIPPING_HEADS, STREAM),
    ],
)
def test_a_call_ends_in_its_time(server: HostileServer, way: str, call: str) -> None:
    """However the bytes drip: below each read's limit, the whole passes the call's."""
    answer_all(server, DRIPS[way])
    started = time.monotonic()

    with (
        client_of(server, timeout_s=0.5) as client,
        pytest.raises(AgentConnectionError, match="in time"),
    ):
        (CALLS | STREAM)[call](client)

    assert time.monotonic() - started < 10


DEEP = b"[" * 100_000
HURTFUL = {
    "deep list": head() + DEEP,
    "deep list that ends": head() + DEEP + b"]" * 100_000,
    "deep object": head() + b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep refusal": head(500) + DEEP + b"]" * 100_000,
    "deep reason": head(400)
    + b'{"data":{"issues":[{"path":['
    + b"[" * 900
    + b"]" * 900
    + b'],"message":"m"}]}}',
    "long number": head() + b"9" * 1_000_000,
    "long number in a refusal": head(500) + b"9" * 1_000_000,
    "no UTF-8": head() + b'{"id": "\xff\xfe\xff',
    "codec for packing": head(500, kind="text/plain; charset=bz2_codec") + b"x" * 1000,
    "codec without replacement": head(500, kind="text/plain; charset=idna") + b"\xff" * 1000,
    "length of digits": b"HTTP/1.1 200 OK\r\ncontent-length: " + b"9" * 5000 + b"\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
    "negative length": b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n{}",
    "huge chunk": CHUNKED + b"f" * 20 + b"\r\n{}",
    "no chunk": CHUNKED + b"zz\r\n{}",
    "status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "status 999": b"HTTP/1.1 999 OK\r\nconnection: close\r\n\r\n{}",
    "switching protocols": b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n" + b"x" * 1000,
    "HTTP/0.9": b"{}",
    "head of megabytes": b"HTTP/1.1 200 OK\r\n" + b"x: " + b"a" * 4_000_000 + b"\r\n\r\n{}",
    "many heads": b"HTTP/1.1 200 OK\r\n" + b"x: a\r\n" * 1_000_000 + b"\r\n{}",
}


@pytest.mark.parametrize("way", HURTFUL)
def test_a_hurtful_answer_is_one_clear_error(server: HostileServer, way: str) -> None:
    """No call raises anything else, whatever the server writes."""
    answer_all(server, lambda: [HURTFUL[way]])

    with client_of(server, timeout_s=5.0) as client:
        for call in (CALLS | STREAM).values():
            with contextlib.suppress(AgentError):
                call(client)
        with pytest.raises(AgentError) as caught:
            client.create_session("x")

    assert len(str(caught.value)) < 1500


WRONG: list[object] = [
    None,
    True,
    1,
    -1.5,
    "x",
    [],
    {},
    [[]],
    [None],
    [{"id": []}],
    {"id": {}},
    [{"info": 1}],
]


@pytest.mark.parametrize("value", [*WRONG, {"providers": [{"models": WRONG}], "ses_1": WRONG}])
def test_wrong_types_are_no_error_of_ours(server: HostileServer, value: object) -> None:
    """Each call gives what it could read, or says that it could not."""
    answer_all(server, lambda: says(value))

    with client_of(server) as client:
        for call in CALLS.values():
            with contextlib.suppress(AgentError):
                call(client)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_takes_nothing_along(server: HostileServer, status: int) -> None:
    """It is not followed, by any call: where it points to sees neither request nor password."""
    with hostile_server() as other:
        answer_all(server, lambda: [head(status, f"location: {other.url}/taken")])
        with client_of(server) as client:
            for call in (CALLS | STREAM).values():
                with contextlib.suppress(AgentError):
                    call(client)
        poller = OpenCodeServer(choice_for("http://unused.example"), PASSWORD)
        assert poller.poll_health(server.url) is None
        poller.close()

        assert other.requests == []


def test_no_cookie_is_kept(server: HostileServer) -> None:
    """A server cannot have us carry what it says."""
    cookies = [f"set-cookie: c{index}={'x' * 500}; path=/" for index in range(100)]
    answer_all(server, lambda: [head(200, *cookies), b'{"id": "ses_1"}'])

    with client_of(server) as client:
        for _ in range(3):
            client.create_session("x")

        assert len(client._http.cookies) == 0
    assert all("cookie" not in text.lower() for text in server.heads)


@pytest.mark.parametrize(
    "hostile_id",
    ["", "../../x", "a/b", "a?b=c", "a#b", "a b", "a\nb", "ä", "\ud800", "x" * 10_000, "..", "%2e"],
)
def test_an_id_that_would_change_a_path_is_refused(server: HostileServer, hostile_id: str) -> None:
    """Ids of the server become parts of later paths: only those that are one are sent."""
    server.on("POST", "/session?", lambda: says({"id": hostile_id}))

    with client_of(server) as client:
        calls: list[Callable[[], object]] = [
            lambda: client.create_session("x"),
            lambda: client.reject_question(hostile_id),
            lambda: client.messages(hostile_id),
            lambda: client.abort(hostile_id),
        ]
        for call in calls:
            with pytest.raises(AgentError):
                call()

    assert {path.partition("?")[0] for _, path in server.requests} <= {"/session"}


@pytest.mark.parametrize("way", DRIPS)
def test_a_health_poll_is_short(server: HostileServer, way: str) -> None:
    """What drips is not healthy, and holds up no launch."""
    server.on("GET", "/global/health", DRIPS[way])
    poller = OpenCodeServer(choice_for("http://unused.example"), PASSWORD)
    started = time.monotonic()

    assert poller.poll_health(server.url) is None

    assert time.monotonic() - started < 10
    poller.close()


@pytest.mark.parametrize("way", HURTFUL)
def test_a_hurtful_health_answer_is_one_clear_error_or_none(
    server: HostileServer, way: str
) -> None:
    """A launch waits, or says that it is not OpenCode."""
    server.on("GET", "", lambda: [HURTFUL[way]])
    poller = OpenCodeServer(choice_for("http://unused.example"), PASSWORD)

    with contextlib.suppress(AgentError):
        assert poller.poll_health(server.url) is None
    poller.close()


@pytest.mark.parametrize(
    "version", ["1." + "9" * 1_000_000, "1.\n\x1b[2J", "1.18\u202e", "1.\ud800"]
)
def test_a_version_that_is_none_is_not_shown(server: HostileServer, version: str) -> None:
    """It goes into the launch's steps: only a short plain one is taken for one."""
    server.on("GET", "/global/health", lambda: says({"version": version}))
    poller = OpenCodeServer(choice_for("http://unused.example"), PASSWORD)

    with pytest.raises(AgentConnectionError, match="is not OpenCode"):
        poller.poll_health(server.url)
    poller.close()


def test_the_password_is_in_no_path_and_no_error(server: HostileServer) -> None:
    """It goes in the head of a request to this one server."""
    answer_all(server, lambda: [HURTFUL["no UTF-8"]])
    secrets = (PASSWORD, base64.b64encode(f"opencode:{PASSWORD}".encode()).decode())

    with client_of(server) as client, pytest.raises(AgentError) as caught:
        client.create_session("x")

    assert all(secret not in f"{caught.value!r}{server.requests}" for secret in secrets)


def test_closing_ends_a_prompt_that_is_never_answered(server: HostileServer) -> None:
    """The thread that waits for it does not stay for as long as the kernel lives."""
    ended: list[AgentError] = []

    def ask() -> None:
        try:
            client.prompt("ses_1", Prompt("x"))
        except AgentError as error:
            ended.append(error)

    with client_of(server) as client:
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        assert server.prompted.wait(10)
        time.sleep(0.5)  # until it waits for the body

    thread.join(10)
    assert len(ended) == 1


def test_a_health_answer_is_short(server: HostileServer) -> None:
    """Several polls run at once: each reads far less than a message may have."""
    server.on("GET", "", lambda: [head(), b" " * 2_000_000])
    poller = OpenCodeServer(choice_for("http://unused.example"), PASSWORD)

    with pytest.raises(AgentConnectionError, match="longer than 1 MB"):
        poller.poll_health(server.url)
    poller.close()
