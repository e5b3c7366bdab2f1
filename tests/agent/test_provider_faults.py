"""Providers that refuse, fail, wait, hang up or fall silent, behind the real OpenCode."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from opencode_magic.agent.client import AgentClient
from opencode_magic.agent.config import ServerOptions
from opencode_magic.agent.turn import TurnOptions, run_turn
from opencode_magic.core.prompt import Prompt
from tests.agent.running import choice_for, running_opencode
from tests.agent.views import RememberingView, ToldApprover
from tests.faults import Answer, Cut, Fault, Garbage, Hang, Silence, fault_proxy
from tests.scripted import script, scripted_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from opencode_magic.core.conversation import Turn
    from tests.agent.running import Running
    from tests.faults import FaultProxy

COMPLETIONS = "/chat/completions"


@pytest.fixture(scope="module")
def shared_provider() -> Iterator[FaultProxy]:
    with scripted_model() as model, fault_proxy(model.url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def opencode(opencode_binary: Path, shared_provider: FaultProxy) -> Iterator[Running]:
    options = ServerOptions(header_timeout_s=1.0, chunk_timeout_s=1.0, has_snapshots=False)
    model = choice_for(f"{shared_provider.url}/v1")
    with running_opencode(opencode_binary, model, options=options) as running:
        yield running


@pytest.fixture
def provider(shared_provider: FaultProxy) -> Iterator[FaultProxy]:
    yield shared_provider
    shared_provider.clear()


def ask(opencode: Running, text: str, *, view: RememberingView | None = None) -> Turn:
    return run_turn(
        opencode.client,
        opencode.reader,
        opencode.client.create_session("test"),
        Prompt(text),
        view=view or RememberingView(),
        approver=ToldApprover(),
        options=TurnOptions(retry_wait_s=60),
    )


def fail(
    provider: FaultProxy, opencode: Running, fault: Fault, *, times: int | None = None
) -> Turn:
    provider.add(fault, path=COMPLETIONS, times=times)
    return ask(opencode, script("say Hello to you all."))


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (400, "the provider did not accept the request (400): answered by the fault proxy"),
        (401, "the provider refused the key (401): answered by the fault proxy"),
        (403, "the provider refused access (403): answered by the fault proxy"),
        (404, "the provider does not know the model (404): answered by the fault proxy"),
    ],
)
def test_a_provider_that_refuses_fails_the_turn_at_once(
    provider: FaultProxy, opencode: Running, status: int, line: str
) -> None:
    """OpenCode answers HTTP 200 with an error inside; the turn failed and says why."""
    turn = fail(provider, opencode, Answer(status))

    assert (turn.state, turn.error, turn.text) == ("failed", line, "")
    assert turn.fault is not None
    assert turn.fault.status_code == status


def test_an_hour_of_retry_after_is_a_clear_failure(provider: FaultProxy, opencode: Running) -> None:
    """Nobody waits in silence for an hour: the turn says what the provider asks for, and ends."""
    started = time.monotonic()

    turn = fail(provider, opencode, Answer(429, {"retry-after": "3600"}))

    assert turn.state == "failed"
    assert turn.error.startswith("the provider asks to wait 60 min before the next try: ")
    assert turn.next_step.startswith("wait and ask again")
    assert time.monotonic() - started < 10
    assert turn.session_id not in opencode.client.busy_sessions()


def test_a_provider_that_fails_once_is_asked_again(provider: FaultProxy, opencode: Running) -> None:
    """While OpenCode waits, the view is told; then the answer comes."""
    provider.add(Answer(500), path=COMPLETIONS, times=1)
    view = RememberingView()

    turn = ask(opencode, script("say Hello."), view=view)

    assert (turn.state, turn.text, turn.retry) == ("done", "Hello.", None)
    assert any(shown.retry for shown in view.turns)


def test_a_provider_that_hangs_up_is_asked_again(provider: FaultProxy, opencode: Running) -> None:
    """What the broken attempt said is not said twice."""
    provider.add(Cut(after_bytes=900), path=COMPLETIONS, times=1)
    view = RememberingView()

    turn = ask(opencode, script("slow 8 30ms"), view=view)

    assert (turn.state, turn.text.split()) == ("done", [f"word{index}" for index in range(8)])
    assert any("word0" in shown.text and shown.retry for shown in view.turns)


@pytest.mark.parametrize("fault", [Hang(), Silence(after_bytes=900)])
def test_a_silent_provider_is_noticed(
    provider: FaultProxy, opencode: Running, fault: Fault
) -> None:
    """A provider that never answers, or stops answering, is asked again after the time limit."""
    turn = fail(provider, opencode, fault, times=1)

    assert (turn.state, turn.text) == ("done", "Hello to you all.")


def test_a_provider_that_answers_garbage_fails_or_is_asked_again(
    provider: FaultProxy, opencode: Running
) -> None:
    """Bytes that are no HTTP never break the client."""
    turn = fail(provider, opencode, Garbage(), times=1)

    assert turn.state in {"done", "failed"}
    assert turn.state == "done" or turn.error


class WrongModelClient(AgentClient):
    """Asks for a model that the configuration does not have."""

    def prompt_body(self, prompt: Prompt) -> Mapping[str, object]:
        """Name the model."""
        model = {"providerID": "demo", "modelID": "nope"}
        return {**super().prompt_body(prompt), "model": model}


def test_an_unknown_model_is_named(opencode: Running) -> None:
    """OpenCode answers HTTP 500 without a reason; the reason comes from its event."""
    client = WrongModelClient(opencode.url, opencode.password, opencode.place.workspace)

    turn = run_turn(
        client,
        opencode.reader,
        client.create_session("test"),
        Prompt("hi"),
        view=RememberingView(),
        approver=ToldApprover(),
    )
    client.close()

    assert turn.state == "failed"
    assert turn.error == "OpenCode does not know the model: Model not found: demo/nope."
