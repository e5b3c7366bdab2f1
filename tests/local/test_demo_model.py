"""The scripted model's server, over HTTP, in each of its protocols."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import httpx
import pytest

from opencode_magic.local.demo_model import BODIES_BYTES, LARGEST_BODY_BYTES, DemoModel
from tests.scripted import script, scripted_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/v3/ai/language-model")


@pytest.fixture(scope="module")
def model() -> Iterator[DemoModel]:
    with scripted_model() as model:
        yield model


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=5) as client:
        yield client


def body(path: str, text: str) -> Mapping[str, object]:
    said = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    key = {"/v1/responses": "input", "/v3/ai/language-model": "prompt"}.get(path, "messages")
    return {"model": "scripted", "stream": True, key: said}


def said(path: str, content: str) -> str:
    """Join the text of a stream, as each protocol carries it."""
    texts = []
    for line in content.splitlines():
        if not line.startswith("data: {"):
            continue
        event = json.loads(line[6:])
        match path:
            case "/v1/chat/completions":
                texts += [choice["delta"].get("content", "") for choice in event["choices"]]
            case "/v1/messages":
                texts.append(event.get("delta", {}).get("text", ""))
            case _:
                texts.append(event.get("delta", "") if "text" in event["type"] else "")
    return "".join(texts)


@pytest.mark.parametrize("path", PATHS)
def test_every_protocol_says_the_same(model: DemoModel, client: httpx.Client, path: str) -> None:
    """One script, four ways to stream it."""
    response = client.post(f"{model.url}{path}", json=body(path, script("reply 500")))

    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["x-scripted-model"] == "1"
    assert len(said(path, response.text)) == 500


@pytest.mark.parametrize("path", PATHS)
def test_every_protocol_refuses_and_fails(client: httpx.Client, path: str) -> None:
    """401 without the key, and the status that a directive asks for."""
    with scripted_model(key="the-key") as model:
        url = f"{model.url}{path}"
        limited = body(path, script("status 429 3600"))
        no_key = client.post(url, json=limited)
        bearer = client.post(url, json=limited, headers={"authorization": "Bearer the-key"})
        x_key = client.post(url, json=limited, headers={"x-api-key": "the-key"})

    assert [r.status_code for r in (no_key, bearer, x_key)] == [401, 429, 429]
    assert bearer.headers["retry-after"] == "3600"
    assert "error" in no_key.json()
    assert "the-key" not in repr(model.seen)


BODIES = (b"", b"[]", b"{", b'{"messages": 7}', b"\xff")


def test_a_body_that_is_none_is_answered_too(model: DemoModel, client: httpx.Client) -> None:
    """As if nothing had been asked; all at the same time."""
    cases = [(path, content) for path in PATHS for content in BODIES]
    with ThreadPoolExecutor(len(cases)) as pool:
        responses = list(
            pool.map(lambda case: client.post(f"{model.url}{case[0]}", content=case[1]), cases)
        )

    assert [response.status_code for response in responses] == [200] * len(cases)
    assert all("scripted" in response.text for response in responses)


@pytest.mark.parametrize("length", ["-1", "x", str(LARGEST_BODY_BYTES + 1)])
def test_a_body_without_end_is_not_read(model: DemoModel, length: str) -> None:
    """It shares a process with the firewall: no program fills that one's memory."""
    port = int(model.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        head = f"POST {PATHS[0]} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        sock.sendall(head.encode())

        assert sock.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_many_bodies_at_once_are_too_much(model: DemoModel, client: httpx.Client) -> None:
    """Bodies that are on their way take the room of others, and give it back."""
    port = int(model.url.rpartition(":")[2])
    head = f"POST {PATHS[0]} HTTP/1.1\r\nHost: x\r\nContent-Length: {LARGEST_BODY_BYTES}\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(BODIES_BYTES // LARGEST_BODY_BYTES):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            sock.sendall(head.encode())
        statuses = _statuses_until(413, model, client)

    assert statuses[-1] == 413
    assert _statuses_until(200, model, client)[-1] == 200


def _statuses_until(wanted: int, model: DemoModel, client: httpx.Client) -> list[int]:
    """Ask until the status comes, at most so long; gives all statuses."""
    statuses: list[int] = []
    deadline = time.monotonic() + 5
    while wanted not in statuses and time.monotonic() < deadline:
        answer = client.post(f"{model.url}{PATHS[0]}", json=body(PATHS[0], script("say hi")))
        statuses.append(answer.status_code)
    return statuses


def test_other_paths_say_what_this_is(model: DemoModel, client: httpx.Client) -> None:
    """A list of one model, a page about itself, and 404 for what cannot be asked."""
    assert client.get(f"{model.base_url}/models").json()["data"][0]["id"] == "scripted"
    assert client.get(model.url).json()["scripted"] is True
    assert client.post(f"{model.url}/v1/embeddings", json={}).status_code == 404


def test_an_answer_that_is_cut_is_no_whole_answer(model: DemoModel, client: httpx.Client) -> None:
    """The connection closes in the middle."""
    with pytest.raises(httpx.TransportError):
        client.post(f"{model.url}{PATHS[0]}", json=body(PATHS[0], script("cut", "reply 2KB")))


@pytest.mark.parametrize("trouble", ["hang", "stall", "slow 500 50ms", "wait 60s"])
def test_closing_ends_every_open_answer(trouble: str) -> None:
    """No thread and no connection is left of it."""
    model = DemoModel()
    model.start()
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(trust_env=False, timeout=30) as client:
            try:
                path = PATHS[0]
                client.post(f"{model.url}{path}", json=body(path, script(trouble, "say a")))
            except httpx.TransportError:
                pass
            done.set()

    threading.Thread(target=ask, daemon=True).start()
    until = time.monotonic() + 5
    while not model.seen and time.monotonic() < until:
        time.sleep(0.01)
    model.close()
    model.close()

    assert done.wait(5)
    assert model.url == ""
