"""Calls to the real OpenCode, and what becomes of answers that are no answers."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import httpx
import pytest

from opencode_magic.agent import client as client_module
from opencode_magic.agent.client import AgentClient
from opencode_magic.agent.turn import run_turn
from opencode_magic.core.prompt import Prompt
from opencode_magic.errors import AgentApiError, AgentConnectionError, AgentError
from tests.agent.running import choice_for, free_port, running_opencode
from tests.agent.views import RememberingView, ToldApprover
from tests.faults import Answer, Cut, Garbage, Truncate, fault_proxy
from tests.scripted import script, scripted_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.agent.running import Running
    from tests.faults import Fault, FaultProxy


@pytest.fixture(scope="module")
def opencode(opencode_binary: Path) -> Iterator[Running]:
    with (
        scripted_model() as model,
        running_opencode(opencode_binary, choice_for(model.base_url)) as running,
    ):
        yield running


@pytest.fixture
def wire() -> Iterator[FaultProxy]:
    with fault_proxy(f"http://127.0.0.1:{free_port()}") as proxy:
        yield proxy


def say(opencode: Running, session_id: str, text: str) -> None:
    run_turn(
        opencode.client,
        opencode.reader,
        session_id,
        Prompt(script(f"say {text}")),
        view=RememberingView(),
        approver=ToldApprover(),
    )


def test_messages_are_read_over_all_pages(
    opencode: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one page, oldest first, or only those after a message."""
    monkeypatch.setattr(client_module, "MESSAGES_LIMIT", 4)
    session_id = opencode.client.create_session("pages")
    for number in range(5):
        say(opencode, session_id, str(number))

    messages = opencode.client.messages(session_id)

    texts = [message.parts for message in messages if message.role == "assistant"]
    assert len(messages) == 10
    assert len(texts) == 5
    ids = [message.message_id for message in messages]
    assert ids == sorted(ids)
    assert opencode.client.last_message_id(session_id) == ids[-1]
    assert opencode.client.messages(session_id, after_id=ids[-3]) == messages[-2:]


def test_a_fork_holds_what_was_before_a_message(opencode: Running) -> None:
    """The copy has its own ids; the old session keeps everything."""
    session_id = opencode.client.create_session("fork")
    for text in ("One.", "Two."):
        say(opencode, session_id, text)
    second = opencode.client.messages(session_id)[2].message_id

    copy_id = opencode.client.fork_session(session_id, before_id=second)

    assert len(opencode.client.messages(copy_id)) == 2
    assert len(opencode.client.messages(session_id)) == 4
    opencode.client.delete_session(copy_id)
    with pytest.raises(AgentApiError, match="Session not found"):
        opencode.client.messages(copy_id)


def test_an_idle_session_can_be_aborted(opencode: Running) -> None:
    """Stopping what does not run is no error."""
    session_id = opencode.client.create_session("idle")

    opencode.client.abort(session_id)

    assert opencode.client.last_message_id(session_id) == ""
    assert opencode.client.busy_sessions() == frozenset()
    assert opencode.client.permissions() == ()


def test_a_wrong_password_is_said(opencode: Running) -> None:
    """The error names what to do, and holds no password."""
    client = AgentClient(opencode.url, "wrong-password", opencode.place.workspace)

    with pytest.raises(AgentApiError) as caught:
        client.create_session("x")

    client.close()
    assert caught.value.status_code == 401
    assert "%opencode_up" in str(caught.value)
    assert "wrong-password" not in f"{caught.value!r} {client!r}"


@pytest.mark.parametrize(
    ("fault", "kind", "line"),
    [
        (Answer(200, {"content-type": "text/html"}, b"<html>"), AgentApiError, "with JSON"),
        (Answer(500, body=b""), AgentApiError, "HTTP 500"),
        (Answer(415, body=b"Unsupported"), AgentApiError, "Unsupported"),
        (Answer(400, body=b'{"_tag": "BadRequest"}'), AgentApiError, "BadRequest"),
        (Garbage(), AgentConnectionError, "broke"),
        (Cut(), AgentConnectionError, "broke"),
    ],
)
def test_an_answer_that_is_none_is_one_clear_error(
    wire: FaultProxy, fault: Fault, kind: type[AgentError], line: str
) -> None:
    """Pages, empty bodies, plain text, garbage and cuts are ours to explain."""
    wire.add(fault)
    client = AgentClient(wire.url, "pw", "/work")

    with pytest.raises(kind, match=line):
        client.create_session("x")

    client.close()


def test_a_server_that_is_not_there_is_one_clear_error() -> None:
    """Every call says the same, and says what to do."""
    client = AgentClient(f"http://127.0.0.1:{free_port()}", "pw", "/work")

    with pytest.raises(AgentConnectionError, match=r"cannot be reached.*%opencode_up"):
        client.create_session("x")
    with pytest.raises(AgentConnectionError, match="cannot be reached"), client.events():
        pass
    client.close()
    with pytest.raises(AgentConnectionError):
        client.create_session("x")


def test_a_proxy_in_the_environment_is_not_asked(
    opencode: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loopback is ours, whatever HTTP_PROXY says."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    client = AgentClient(opencode.url, opencode.password, opencode.place.workspace)

    assert client.health().startswith("1.")
    client.close()


def transport_errors() -> list[type[httpx.TransportError]]:
    found = (value for value in vars(httpx).values() if inspect.isclass(value))
    return [value for value in found if issubclass(value, httpx.TransportError)]


@pytest.mark.parametrize("error", transport_errors())
def test_every_transport_error_of_httpx_becomes_ours(error: type[httpx.TransportError]) -> None:
    """None crosses our boundary, also one that httpx has not today."""

    def fail(_request: httpx.Request) -> httpx.Response:
        message = "broken"
        raise error(message)

    client = AgentClient("http://127.0.0.1:1", "pw", "/work")
    client._http = httpx.Client(base_url=client.url, transport=httpx.MockTransport(fail))
    calls: list[Callable[[], object]] = [
        client.health,
        lambda: client.prompt("ses_1", Prompt("x")),
        lambda: client.events().__enter__(),
    ]

    for call in calls:
        with pytest.raises(AgentConnectionError):
            call()
    client.close()


def test_a_truncated_answer_is_no_answer(opencode: Running) -> None:
    """JSON that ends too early is not read as far as it goes."""
    with fault_proxy(opencode.url) as wire:
        client = AgentClient(wire.url, opencode.password, opencode.place.workspace)
        wire.add(Truncate(10))

        with pytest.raises(AgentApiError, match="with JSON"):
            client.create_session("x")

        client.close()
