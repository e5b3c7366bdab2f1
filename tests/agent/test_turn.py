"""Turns against the real OpenCode with the scripted model behind it."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from opencode_magic.agent.config import ServerOptions
from opencode_magic.agent.turn import TurnOptions, run_turn
from opencode_magic.core.conversation import ReasoningPart
from opencode_magic.core.limits import Budget
from opencode_magic.core.permissions import PermissionReply
from opencode_magic.core.prompt import Prompt, parse_prompt
from opencode_magic.errors import SessionBusyError
from tests.agent.running import choice_for, running_opencode
from tests.agent.views import RememberingView, ToldApprover
from tests.scripted import markdown, script, scripted_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opencode_magic.core.conversation import Turn
    from tests.agent.running import Running


@pytest.fixture(scope="module")
def opencode(opencode_binary: Path) -> Iterator[Running]:
    with (
        scripted_model() as model,
        running_opencode(
            opencode_binary,
            choice_for(model.base_url),
            options=ServerOptions(asks=("edit",), has_snapshots=False),
        ) as running,
    ):
        yield running


@pytest.fixture
def session_id(opencode: Running) -> str:
    return opencode.client.create_session("test")


def ask(
    opencode: Running,
    session_id: str,
    text: str,
    *,
    view: RememberingView | None = None,
    approver: ToldApprover | None = None,
    options: TurnOptions | None = None,
    stop: threading.Event | None = None,
) -> Turn:
    return run_turn(
        opencode.client,
        opencode.reader,
        session_id,
        Prompt(text),
        view=view or RememberingView(),
        approver=approver or ToldApprover(),
        options=options,
        stop=stop,
    )


def test_the_whole_turn_is_collected(opencode: Running, session_id: str) -> None:
    """Text before a tool call, the call and the text after it are all in the turn."""
    view = RememberingView()

    turn = ask(opencode, session_id, script("say Before.", "bash echo hi", "say After."), view=view)

    assert (turn.state, turn.error, turn.text) == ("done", "", "Before.\n\nAfter.")
    assert [(t.tool, t.status, t.output, t.exit_code) for t in turn.tools] == [
        ("bash", "completed", "hi\n", 0)
    ]
    assert (turn.model, view.finals, view.last) == ("demo/scripted", 1, turn)
    assert turn.tokens.output > 0


def test_a_second_turn_holds_only_its_own_messages(opencode: Running, session_id: str) -> None:
    """A turn starts after the last message before it."""
    ask(opencode, session_id, script("say First."))

    turn = ask(opencode, session_id, script("say Second."))

    assert turn.text == "Second."


def test_a_large_reply_comes_in_few_frames(opencode: Running, session_id: str) -> None:
    """4,500 deltas in a burst are shown at most once a frame, and none is lost."""
    view = RememberingView()

    turn = ask(opencode, session_id, script("reply 36KB"), view=view)

    assert (turn.state, len(turn.text)) == ("done", 36_000)
    assert len(view.turns) < 2 + 25 * turn.duration_s


def test_a_reply_grows_while_it_is_written(opencode: Running, session_id: str) -> None:
    """What was shown is always the beginning of what is shown next."""
    view = RememberingView()

    ask(opencode, session_id, script("slow 12 40ms"), view=view)

    texts = [turn.text for turn in view.turns]
    assert all(later.startswith(text) for text, later in itertools.pairwise(texts))
    assert len(set(texts)) > 4


@pytest.mark.parametrize(
    "text",
    ['{"a": {"b": "{c}"}} $HOME ${x} {{y}} %s \\n', "\u2028 \u0085 \x00 \r\n \u202e é 日本 🎈"],
)
def test_a_prompt_arrives_as_it_stands(opencode: Running, session_id: str, text: str) -> None:
    """Braces, JSON, dollars, separators and controls reach the model unchanged."""
    prompt = f"{text}\n{script('digest')}"

    turn = ask(opencode, session_id, prompt)

    assert turn.text == digest(prompt)


def test_an_answer_arrives_as_it_was_said(opencode: Running, session_id: str) -> None:
    """Line separators in the answer are text, not ends of events."""
    said = "a\u2028b\u0085c\r\nd\x0be {x} $y 🎈"

    turn = ask(opencode, session_id, script(markdown(said)))

    assert turn.text == said


def test_a_prompt_of_ten_megabytes_is_answered(opencode: Running, session_id: str) -> None:
    """Ten megabytes go through; what is shown does not grow with them."""
    prompt = parse_prompt(f"{script('digest')}\n" + "x" * 10_000_000)

    turn = ask(opencode, session_id, prompt.text)

    assert (turn.state, turn.text) == ("done", digest(prompt.text))


def digest(text: str) -> str:
    return f"{len(text)} characters, sha256 {hashlib.sha256(text.encode()).hexdigest()}"


def test_reasoning_is_no_answer(opencode: Running, session_id: str) -> None:
    """What the model thinks is a part of its own."""
    turn = ask(opencode, session_id, script("think Hm.", "say Yes."))

    assert turn.text == "Yes."
    kinds = [part for part in turn.parts if isinstance(part, ReasoningPart)]
    assert [part.text for part in kinds] in (["Hm."], [])


def test_no_answer_to_a_permission_is_a_refusal(opencode: Running, session_id: str) -> None:
    """The turn ends as refused, and the file is not written."""
    approver = ToldApprover(reply=None)

    turn = ask(opencode, session_id, script("write no.txt x", "say Done."), approver=approver)

    assert (turn.state, turn.error) == ("refused", "no leave was given for edit: no.txt")
    assert [request.permission for request in approver.asked] == ["edit"]
    assert [tool.status for tool in turn.tools] == ["error"]


def test_a_permission_given_once_lets_the_turn_go_on(opencode: Running, session_id: str) -> None:
    """The request is shown while it waits, then the tool runs."""
    view = RememberingView()

    turn = ask(
        opencode,
        session_id,
        script("write yes.txt x", "say Done."),
        view=view,
        approver=ToldApprover(PermissionReply("once")),
    )

    assert (turn.state, turn.text) == ("done", "Done.")
    assert any(shown.permissions for shown in view.turns)
    assert turn.permissions == ()


def test_a_session_asks_and_does_not_ask_as_it_is_told(opencode: Running, session_id: str) -> None:
    """The last setting counts; while it asks there are no sub-agents, who would not ask."""
    approver = ToldApprover(PermissionReply("once"))

    opencode.client.set_permissions(session_id, {"bash": "ask", "edit": "ask"})
    ask(opencode, session_id, script("bash echo hi", "write a.txt x"), approver=approver)
    asked = [request.permission for request in approver.asked]
    turn = ask(opencode, session_id, script('tool task {"prompt": "x"}', "results"))
    opencode.client.set_permissions(session_id, {"bash": "allow", "edit": "allow"})
    ask(opencode, session_id, script("bash echo hi", "write a.txt x"), approver=approver)

    assert asked == ["bash", "edit"]
    assert len(approver.asked) == len(asked)
    assert turn.tools[0].tool == "invalid"


def test_a_refusal_with_a_reason_lets_the_agent_go_on(opencode: Running, session_id: str) -> None:
    """The model reads the reason and answers."""
    approver = ToldApprover(PermissionReply("reject", "use another name"))

    turn = ask(opencode, session_id, script("write no.txt x", "results"), approver=approver)

    assert turn.state == "done"
    assert "use another name" in turn.text


@pytest.mark.parametrize("said", ["", "word0 ", "word9 "])
def test_interrupt_stops_the_turn_on_the_server(
    opencode: Running, session_id: str, said: str
) -> None:
    """Whenever it comes: the POST has returned, the session is idle, the partial answer stays."""

    def interrupt(turn: Turn) -> None:
        if said in turn.text:
            view.on_show = lambda _turn: None
            raise KeyboardInterrupt

    view = RememberingView(on_show=interrupt)
    with pytest.raises(KeyboardInterrupt):
        ask(opencode, session_id, script("slow 400 20ms"), view=view)

    assert (view.last.state, view.last.error, view.finals) == ("stopped", "", 1)
    assert session_id not in opencode.client.busy_sessions()
    assert said in view.last.text
    assert ask(opencode, session_id, script("say Next.")).text == "Next."


def test_a_stop_before_the_first_prompt_spoils_nothing(opencode_binary: Path) -> None:
    """A server that is still loading its models keeps what an abort does to it for ever."""
    with (
        scripted_model() as model,
        running_opencode(opencode_binary, choice_for(model.base_url)) as running,
    ):
        session_id = running.client.create_session("test")
        stop = threading.Event()
        stop.set()
        stopped = ask(running, session_id, script("slow 100 20ms"), stop=stop)
        turn = ask(running, session_id, script("say Hello."))

    assert (stopped.state, stopped.error, stopped.text) == ("stopped", "", "")
    assert (turn.state, turn.text) == ("done", "Hello.")


def test_a_real_interrupt_arrives_while_nothing_comes(opencode: Running, session_id: str) -> None:
    """SIGINT reaches the waiting main thread at once, also while the model is silent."""
    sent: list[float] = []

    def interrupt() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    def interrupt_soon(turn: Turn) -> None:
        if is_running(turn):
            view.on_show = lambda _turn: None
            threading.Timer(0.5, interrupt).start()

    view = RememberingView(on_show=interrupt_soon)
    with pytest.raises(KeyboardInterrupt):
        ask(opencode, session_id, script("say One.", "bash sleep 60", "say No."), view=view)

    assert time.monotonic() - sent[0] < 20
    assert (view.last.state, view.last.text) == ("stopped", "One.")


def test_interrupt_ends_a_running_command(opencode: Running, session_id: str) -> None:
    """A command that sleeps is stopped within a second or two."""
    stop = threading.Event()
    view = RememberingView(on_show=lambda turn: stop.set() if is_running(turn) else None)
    started = time.monotonic()

    turn = ask(opencode, session_id, script("bash sleep 60", "say No."), view=view, stop=stop)

    assert turn.state == "stopped"
    assert time.monotonic() - started < 30


def is_running(turn: Turn) -> bool:
    return any(tool.status == "running" for tool in turn.tools)


def test_a_stop_that_is_not_confirmed_calls_for_help(opencode: Running, session_id: str) -> None:
    """Where the abort does nothing in time, the caller is asked to cut the model off."""
    calls: list[float] = []
    stop = threading.Event()
    view = RememberingView(on_show=lambda turn: stop.set() if turn.text else None)

    turn = run_turn(
        opencode.client,
        opencode.reader,
        session_id,
        Prompt(script("slow 400 20ms")),
        view=view,
        approver=ToldApprover(),
        options=TurnOptions(stop_grace_s=-10),
        on_stuck=lambda: calls.append(time.monotonic()),
        stop=stop,
    )

    assert (turn.state, len(calls)) == ("stopped", 1)
    assert turn.text.startswith("word0 ")


def test_a_busy_session_is_a_clear_error(opencode: Running, session_id: str) -> None:
    """A second prompt is not sent while a turn runs."""
    errors: list[BaseException] = []

    def ask_too(_turn: Turn) -> None:
        view.on_show = lambda _turn: None
        try:
            ask(opencode, session_id, script("say Two."))
        except SessionBusyError as error:
            errors.append(error)

    view = RememberingView(on_show=ask_too)
    turn = ask(opencode, session_id, script("say One."), view=view)

    assert (turn.text, len(errors)) == ("One.", 1)


def test_a_budget_ends_the_turn(opencode: Running, session_id: str) -> None:
    """The turn that is over its limit fails with that reason and keeps what it had."""
    options = TurnOptions(budget=Budget(time_s=0.5))

    turn = ask(opencode, session_id, script("slow 400 20ms"), options=options)

    assert turn.state == "failed"
    assert turn.error == "the turn took longer than its limit of 0.5 s"
    assert session_id not in opencode.client.busy_sessions()


def test_a_sub_agent_is_part_of_the_turn(opencode: Running, session_id: str) -> None:
    """What a sub-agent asks leave for is asked here; its end is not the turn's end."""
    task = {
        "description": "Write a file",
        "prompt": script("write sub.txt x", "say Sub is done."),
        "subagent_type": "general",
    }
    approver = ToldApprover(PermissionReply("once"))

    turn = ask(
        opencode, session_id, script(f"tool task {json.dumps(task)}", "results"), approver=approver
    )

    assert (turn.state, [tool.tool for tool in turn.tools]) == ("done", ["task"])
    assert "Sub is done." in turn.text
    assert [request.permission for request in approver.asked] == ["edit"]
    assert approver.asked[0].session_id != session_id


def test_a_compaction_does_not_hide_the_answer(opencode: Running, session_id: str) -> None:
    """The POST returns only what was said after the compaction; the turn has the answer too."""
    turn = ask(opencode, session_id, script("usage 199000", "say The real answer."))

    assert turn.state == "done"
    assert turn.text.startswith("The real answer.")
    assert not any(message.is_summary for message in turn.messages)
