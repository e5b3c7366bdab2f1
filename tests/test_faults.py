"""The fault proxy itself: each fault does what it says, and nothing else."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.faults import (
    Answer,
    Cut,
    Delay,
    Duplicate,
    FaultProxy,
    Garbage,
    Hang,
    Reorder,
    Silence,
    Truncate,
    fault_proxy,
)
from tests.scripted import script, scripted_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults import Fault


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    with scripted_model() as model, fault_proxy(model.url) as proxy:
        yield proxy


def ask(proxy: FaultProxy, text: str = "say one", *, timeout_s: float = 5) -> httpx.Response:
    with httpx.Client(trust_env=False, timeout=timeout_s) as client:
        body = {"messages": [{"role": "user", "content": script(text)}]}
        return client.post(f"{proxy.url}/v1/chat/completions", json=body)


def test_without_a_rule_everything_passes(proxy: FaultProxy) -> None:
    """The answer is the server's, and the request is noted."""
    response = ask(proxy)

    assert response.status_code == 200
    assert response.headers["x-scripted-model"] == "1"
    assert response.text.endswith("data: [DONE]\n\n")
    assert list(proxy.requests) == ["POST /v1/chat/completions"]


def test_an_answer_is_given_so_often_as_it_is_meant(proxy: FaultProxy) -> None:
    """Then the server is asked again; other paths are not touched."""
    proxy.add(Answer(429, {"retry-after": "3600"}), path="/other")
    proxy.add(Answer(503), path="/chat", times=1)

    assert [ask(proxy).status_code for _ in range(2)] == [503, 200]


@pytest.mark.parametrize("fault", [Cut(), Cut(after_bytes=50), Garbage()])
def test_a_connection_that_breaks_is_an_error(proxy: FaultProxy, fault: Fault) -> None:
    """No client can take it for a whole answer."""
    proxy.add(fault)

    with pytest.raises(httpx.TransportError):
        ask(proxy)


@pytest.mark.parametrize("fault", [Hang(), Silence(after_bytes=50)])
def test_silence_is_silence(proxy: FaultProxy, fault: Fault) -> None:
    """The connection stays, and nothing comes."""
    proxy.add(fault)

    with pytest.raises(httpx.ReadTimeout):
        ask(proxy, timeout_s=0.3)


def test_a_truncated_answer_ends_properly(proxy: FaultProxy) -> None:
    """It is shorter, and looks whole."""
    proxy.add(Truncate(after_bytes=50))

    assert len(ask(proxy).content) == 50


def test_a_delay_takes_its_time(proxy: FaultProxy) -> None:
    """At least once, before the head."""
    proxy.add(Delay(0.1))
    started = time.monotonic()

    assert ask(proxy).status_code == 200
    assert time.monotonic() - started > 0.1


def test_events_are_doubled_and_swapped(proxy: FaultProxy) -> None:
    """Whole events, none lost."""
    plain = ask(proxy).text.split("\n\n")[:-1]
    proxy.add(Duplicate(), times=1)
    doubled = ask(proxy).text.split("\n\n")[:-1]
    proxy.add(Reorder(), times=1)
    swapped = ask(proxy).text.split("\n\n")[:-1]

    assert doubled == [event for event in plain for _ in range(2)]
    assert swapped[:3] == [plain[0], plain[2], plain[1]]
    assert sorted(swapped) == sorted(plain)


def test_open_connections_can_be_cut(proxy: FaultProxy) -> None:
    """Only those whose path holds the text."""
    with httpx.Client(trust_env=False) as client:
        body = {"messages": [{"role": "user", "content": script("slow 100 50ms")}]}
        url = f"{proxy.url}/v1/chat/completions"
        with client.stream("POST", url, json=body) as response:
            assert proxy.cut("/other") == 0
            assert proxy.cut("/chat") == 1
            with pytest.raises(httpx.TransportError):
                response.read()


def test_connections_can_be_refused(proxy: FaultProxy) -> None:
    """And accepted again."""
    proxy.is_refusing = True
    with pytest.raises(httpx.TransportError):
        ask(proxy)
    proxy.is_refusing = False

    assert ask(proxy).status_code == 200
