"""Event streams and prompts that break between us and the real OpenCode."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from opencode_magic.agent.client import AgentClient
from opencode_magic.agent.reader import EventReader
from opencode_magic.agent.turn import run_turn
from opencode_magic.core.prompt import Prompt
from opencode_magic.errors import AgentConnectionError
from tests.agent.running import choice_for, running_opencode
from tests.agent.views import RememberingView, ToldApprover
from tests.faults import Answer, Delay, Duplicate, Garbage, Reorder, Truncate, fault_proxy
from tests.scripted import script, scripted_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from opencode_magic.core.conversation import Turn
    from tests.agent.running import Running
    from tests.faults import Fault, FaultProxy

WORDS = "".join(f"word{index} " for index in range(30))


@pytest.fixture(scope="module")
def opencode(opencode_binary: Path) -> Iterator[Running]:
    with (
        scripted_model() as model,
        running_opencode(opencode_binary, choice_for(model.base_url)) as running,
    ):
        yield running


@pytest.fixture
def wire(opencode: Running) -> Iterator[FaultProxy]:
    with fault_proxy(opencode.url) as proxy:
        yield proxy


@pytest.fixture
def client(opencode: Running, wire: FaultProxy) -> Iterator[AgentClient]:
    client = AgentClient(wire.url, opencode.password, opencode.place.workspace)
    yield client
    client.close()


def ask(
    client: AgentClient, text: str, *, on_show: Callable[[Turn], None] | None = None
) -> tuple[Turn, RememberingView]:
    """Ask through the proxy, with a reader of its own."""
    reader = EventReader(client)
    reader.start()
    view = RememberingView(on_show=on_show or (lambda _turn: None))
    try:
        turn = run_turn(
            client,
            reader,
            client.create_session("test"),
            Prompt(text),
            view=view,
            approver=ToldApprover(),
        )
    finally:
        reader.close()
    return turn, view


def once(action: Callable[[], object], *, when: Callable[[Turn], bool]) -> Callable[[Turn], None]:
    """Do something the first time that a turn looks so."""
    is_done = threading.Event()

    def on_show(turn: Turn) -> None:
        if not is_done.is_set() and when(turn):
            is_done.set()
            action()

    return on_show


def test_a_stream_that_is_cut_is_resumed(wire: FaultProxy, client: AgentClient) -> None:
    """Nothing is missing and nothing comes twice, and words go on coming after the cut."""
    cut = once(lambda: wire.cut("/event"), when=lambda turn: "word5 " in turn.text)

    turn, view = ask(client, script("slow 30 40ms"), on_show=cut)

    assert (turn.state, turn.text) == ("done", WORDS)
    assert sum("GET /event" in seen for seen in wire.requests) >= 2
    assert any("word20 " in shown.text for shown in view.turns if shown.state == "running")


def test_a_stream_that_stays_away_loses_no_text(wire: FaultProxy, client: AgentClient) -> None:
    """The stored messages have the whole answer, whatever the stream does."""

    def lose() -> None:
        wire.add(Answer(503), path="/event")
        wire.cut("/event")

    turn, _ = ask(
        client, script("slow 30 20ms"), on_show=once(lose, when=lambda turn: bool(turn.text))
    )

    assert (turn.state, turn.text) == ("done", WORDS)


@pytest.mark.parametrize("fault", [Duplicate(), Reorder(), Delay(0.02)])
def test_a_stream_that_misbehaves_ends_in_the_same_text(
    wire: FaultProxy, client: AgentClient, fault: Fault
) -> None:
    """Doubled, swapped and late events end in the text that was said."""
    wire.add(fault, path="/event")

    turn, _ = ask(client, script("say Before.", "bash echo hi", "slow 30 5ms"))

    assert (turn.state, turn.text) == ("done", f"Before.\n\n{WORDS}")
    assert [tool.output for tool in turn.tools] == ["hi\n"]


def test_garbage_instead_of_a_stream_is_tried_again(wire: FaultProxy, client: AgentClient) -> None:
    """The reader opens the stream until it is one."""
    wire.add(Garbage(), path="/event", times=2)
    wire.add(Truncate(100), path="/event", times=1)

    turn, _ = ask(client, script("say Hello."))

    assert (turn.state, turn.text) == ("done", "Hello.")


def test_a_prompt_whose_connection_breaks_is_followed_to_its_end(
    wire: FaultProxy, client: AgentClient
) -> None:
    """The turn goes on without the POST; its end is found in the store."""
    cut = once(lambda: wire.cut("/message"), when=lambda turn: "word5 " in turn.text)

    turn, _ = ask(client, script("slow 30 40ms"), on_show=cut)

    assert (turn.state, turn.error, turn.text) == ("done", "", WORDS)


def test_no_stream_at_all_is_one_clear_line(wire: FaultProxy, client: AgentClient) -> None:
    """Where no event ever comes, nothing is sent."""
    wire.add(Answer(502), path="/event")
    reader = EventReader(client)
    reader.start()

    with pytest.raises(AgentConnectionError, match="sends no events"):
        reader.wait_ready(timeout_s=0.3)

    reader.close()
    assert not any("POST" in seen for seen in wire.requests)


def test_a_reader_closes_at_once(client: AgentClient) -> None:
    """Closing wakes the thread that waits for bytes."""
    reader = EventReader(client)
    reader.start()
    reader.wait_ready(timeout_s=5)
    started = time.monotonic()

    reader.close()
    reader.close()

    assert time.monotonic() - started < 1


def test_opencode_killed_in_the_middle_keeps_what_came(opencode_binary: Path) -> None:
    """The turn failed within a few seconds, with the partial answer and one line."""
    with (
        scripted_model() as model,
        running_opencode(opencode_binary, choice_for(model.base_url)) as running,
    ):
        killed: list[float] = []

        def kill() -> None:
            running.kill()
            killed.append(time.monotonic())

        view = RememberingView(on_show=once(kill, when=lambda turn: "word5 " in turn.text))
        turn = run_turn(
            running.client,
            running.reader,
            running.client.create_session("test"),
            Prompt(script("slow 300 40ms")),
            view=view,
            approver=ToldApprover(),
        )

    assert turn.state == "failed"
    assert turn.error.startswith("OpenCode ended in the middle of the turn")
    assert turn.text.startswith("word0 word1 word2 word3 word4 word5 ")
    assert time.monotonic() - killed[0] < 10
