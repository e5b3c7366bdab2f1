from __future__ import annotations

from typing import TYPE_CHECKING, Never

import pytest

from opencode_magic.core.conversation import Turn
from opencode_magic.core.egress import EgressRecord
from opencode_magic.core.permissions import PermissionReply
from opencode_magic.core.policy import REASON_NOT_LISTED
from opencode_magic.core.receipt import HostCount, Receipt
from opencode_magic.core.status import Status
from opencode_magic.errors import (
    NotLaunchedError,
    PromptError,
    SessionBusyError,
    TurnFailed,
)
from opencode_magic.session.agent import Agent
from opencode_magic.session.ask import Asking, SilentView, ask_agent, make_receipt
from opencode_magic.session.session import Session
from tests.agent.running import choice_for, running_opencode
from tests.doubles import RecordingView, StandInSandbox, launch_events
from tests.scripted import script, scripted_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from opencode_magic.core.conversation import PermissionRequest
    from opencode_magic.core.egress import Verdict
    from opencode_magic.core.status import StatusEvent
    from opencode_magic.session.reply import Reply
    from opencode_magic.session.seams import RunningSandbox
    from opencode_magic.settings import Settings
    from tests.agent.running import Running


@pytest.fixture(scope="module")
def opencode(opencode_binary: Path) -> Iterator[Running]:
    """Give a real OpenCode with the scripted model behind it, outside any sandbox."""
    with (
        scripted_model() as model,
        running_opencode(opencode_binary, choice_for(model.base_url)) as running,
    ):
        yield running


@pytest.fixture
def session(opencode: Running, settings: Settings) -> Iterator[Session]:
    """Give a session that is up, with that OpenCode and a sandbox that is only remembered."""

    def start(
        settings: Settings,
        *,
        allow_unproven: bool,
        emit: Callable[[StatusEvent], None],
        on_made: Callable[[RunningSandbox], None],
    ) -> Agent:
        assert not allow_unproven
        for event in launch_events():
            emit(event)
        workspace = opencode.place.workspace
        model = choice_for("")
        on_made(StandInSandbox())
        return Agent.connect(opencode.url, opencode.password, workspace, model=model)

    session = Session(starter=start)
    session.up(settings)
    yield session
    session.down()


def ask(session: Session, *directives: str, **options: object) -> Reply:
    """Ask in directives, silently."""
    asking = Asking(text=script(*directives), **options)  # type: ignore[arg-type]  # only flags
    return ask_agent(session, asking, view=SilentView())


def test_a_reply(session: Session) -> None:
    """An ask gives the whole turn: text, tools, tokens, state, receipt."""
    reply = ask(session, "say One.", "bash 'echo two'", "say Three.")

    assert reply.state == "done"
    assert reply.text == "One.\n\nThree."
    assert [(tool.tool, tool.output.strip()) for tool in reply.tools] == [("bash", "two")]
    assert reply.tokens.total > 0
    assert reply.receipt == Receipt((), (), "firewall record", is_complete=True)
    assert session.status.turns == 1
    assert session.status.tokens == reply.tokens.total


def test_the_text_goes_as_it_stands(session: Session) -> None:
    """Braces, JSON, dollar signs and percent signs reach the model unchanged."""
    text = '{"a": {x}} {{y}} $HOME ${z} %s %% \\n !ls `id`'

    reply = ask_agent(session, Asking(text=f"{text}\n{script('echo')}"), view=SilentView())

    assert text in reply.text


def test_the_last_frame_has_the_receipt(session: Session) -> None:
    """What is shown last is the turn as the reply has it."""
    view = RecordingView()

    reply = ask_agent(session, Asking(text=script("say Hi.")), view=view)

    assert view.frames[-1] == (reply.turn, True)
    assert [is_final for _, is_final in view.frames].count(True) == 1


def test_a_failed_turn(session: Session) -> None:
    """A failed turn is shown and kept, then raises with the reply and the next step."""
    view, kept = RecordingView(), list["Reply"]()

    with pytest.raises(TurnFailed) as caught:
        ask_agent(session, Asking(text=script("status 401")), view=view, keep=kept.append)

    assert caught.value.reply is kept[0]
    assert kept[0].state == "failed"
    assert view.frames[-1][1]
    assert "the provider refused the key (401)" in str(caught.value)
    assert "Next: check the key" in str(caught.value)
    assert not session.status.is_turn_running


def test_keep_going(session: Session) -> None:
    """Where the caller says so, a failed turn is a reply like any other."""
    reply = ask(session, "status 401", keep_going=True)

    assert reply.state == "failed"
    assert reply.error.startswith("the provider refused the key")


class InterruptingView(RecordingView):
    """Is interrupted, as the main thread is, once text has come."""

    def show(self, turn: Turn, *, is_final: bool = False) -> None:
        """Keep the frame, then be interrupted."""
        super().show(turn, is_final=is_final)
        if turn.text and turn.state == "running":
            raise KeyboardInterrupt


def test_an_interrupt(session: Session) -> None:
    """An interrupt goes on to the caller once the turn is stopped, shown and kept."""
    view, kept = InterruptingView(), list["Reply"]()

    asking = Asking(text=script("slow 200 50ms"))

    with pytest.raises(KeyboardInterrupt):
        ask_agent(session, asking, view=view, keep=kept.append)

    assert kept[0].state == "stopped"
    assert kept[0].text
    assert session.agent.client.busy_sessions() == frozenset()
    assert ask(session, "say Still here.").text == "Still here."


def test_an_interrupt_while_the_receipt_is_made(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The turn has ended by then: it is shown once and kept, without a receipt."""

    def interrupt(*_: object, **__: object) -> Never:
        raise KeyboardInterrupt

    view, kept = RecordingView(), list["Reply"]()
    monkeypatch.setattr(session.sandbox, "records_since", interrupt)

    with pytest.raises(KeyboardInterrupt):
        ask_agent(session, Asking(text=script("say Hi.")), view=view, keep=kept.append)

    assert (kept[0].state, kept[0].text, kept[0].receipt) == ("done", "Hi.", None)
    assert [turn for turn, is_final in view.frames if is_final] == [kept[0].turn]
    assert view.frames[-1][1]


class ImpatientView(RecordingView):
    """Is interrupted at every frame with text, and before it has shown the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.interrupts = 0

    def show(self, turn: Turn, *, is_final: bool = False) -> None:
        """Be interrupted, or keep the frame."""
        if turn.text and self.interrupts < 3:
            # The third comes while the last frame is shown.
            if not is_final and self.interrupts == 2:
                return
            self.interrupts += 1
            raise KeyboardInterrupt
        super().show(turn, is_final=is_final)


def test_interrupts_again_and_again(session: Session) -> None:
    """An impatient user still sees the last frame, and the reply is kept."""
    view, kept = ImpatientView(), list["Reply"]()

    with pytest.raises(KeyboardInterrupt):
        ask_agent(session, Asking(text=script("slow 200 50ms")), view=view, keep=kept.append)

    assert view.interrupts == 3
    assert kept[0].state == "stopped"
    assert kept[0].text
    assert view.frames[-1] == (kept[0].turn, True)
    assert not session.turn_lock.locked()


class StoppingView(RecordingView):
    """Has the turn stopped, as the panel's button does, once text has come."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    def show(self, turn: Turn, *, is_final: bool = False) -> None:
        """Keep the frame, then stop the turn."""
        super().show(turn, is_final=is_final)
        if turn.text:
            self._session.stop_turn()


def test_stopping_from_the_panel(session: Session) -> None:
    """A turn that is stopped by the button ends with a reply, and the next one runs."""
    reply = ask_agent(session, Asking(text=script("slow 200 50ms")), view=StoppingView(session))
    session.stop_turn()

    assert reply.state == "stopped"
    assert reply.text
    assert ask(session, "say Next.").text == "Next."


def test_one_turn_at_a_time(session: Session) -> None:
    """A second ask while a turn runs is refused in one line."""
    with session.turn_lock, pytest.raises(SessionBusyError):
        ask(session, "say no")


def test_a_new_conversation(session: Session) -> None:
    """With ``is_new`` the agent starts afresh, in another session."""
    first = ask(session, "say One.")

    second = ask(session, "say Two.", is_new=True)

    assert first.turn.session_id != second.turn.session_id


class OnceApprover:
    """Allows what it is asked once, and remembers it."""

    def __init__(self) -> None:
        self.asked: list[PermissionRequest] = []

    def decide(self, request: PermissionRequest) -> PermissionReply:
        """Allow it."""
        self.asked.append(request)
        return PermissionReply("once")


def test_permissions_are_asked_for(session: Session) -> None:
    """With ``ask`` the agent asks before a command; the next turn with ``allow`` does not."""
    approver = OnceApprover()
    text = script("bash 'echo yes'", "say Done.")

    asking = Asking(text=text, permissions="ask")
    asked = ask_agent(session, asking, view=SilentView(), approver=approver)
    free = ask_agent(session, Asking(text=text), view=SilentView(), approver=approver)

    assert [request.permission for request in approver.asked] == ["bash"]
    assert [tool.output.strip() for tool in (*asked.tools, *free.tools)] == ["yes", "yes"]


def test_nobody_answers(session: Session) -> None:
    """Without an approver what is asked for is refused."""
    reply = ask(session, "bash 'echo no'", "say Done.", permissions="ask")

    assert reply.state == "refused"
    assert reply.tools[0].status == "error"


def test_asking_before_up() -> None:
    """Without a sandbox there is one clear line."""
    with pytest.raises(NotLaunchedError, match=r"no sandbox is up\. Next: run %opencode_up"):
        ask_agent(Session(), Asking(text="hello"), view=SilentView())


def test_nothing_to_ask(session: Session) -> None:
    """A prompt of white space is no prompt."""
    with pytest.raises(PromptError):
        ask_agent(session, Asking(text=" \n\t"), view=SilentView())


def record(seq: int, at_ms: int, host: str, *, is_allowed: bool = False) -> EgressRecord:
    """Give a decision on a TLS connection."""
    verdict: Verdict = "allowed" if is_allowed else "blocked"
    return EgressRecord(seq, at_ms, "tls", host, 443, verdict, REASON_NOT_LISTED)


TURN = Turn("ses_1", "hi", "done", started_ms=1_000, ended_ms=2_000)


def test_receipt_of_this_turn_only() -> None:
    """What was recorded before the turn or after it is no part of its receipt."""
    sandbox = StandInSandbox(
        records=(
            record(1, 900, "before.example"),
            record(2, 1_000, "model.example", is_allowed=True),
            record(3, 2_000, "example.com"),
            record(4, 2_001, "after.example"),
        )
    )

    receipt = make_receipt(TURN, sandbox, Status(), since=0)

    assert receipt.reached == (HostCount("model.example", 443, 1),)
    assert receipt.blocked == (HostCount("example.com", 443, 1, REASON_NOT_LISTED),)
    assert receipt.is_complete
    assert sandbox.calls == ["records_since settle True"]


def test_receipt_with_a_gap() -> None:
    """Where records were dropped the receipt does not call itself complete."""
    sandbox = StandInSandbox(records=(record(1, 1_100, "a.example"), record(9, 1_200, "a.example")))

    assert not make_receipt(TURN, sandbox, Status()).is_complete


def test_receipt_without_a_record() -> None:
    """Where the home keeps no record, what the tools reported is counted, as not complete."""
    sandbox = StandInSandbox(has_egress_record=False)
    status = Status(allowed_hosts=("model.example",))

    receipt = make_receipt(TURN, sandbox, status)

    assert receipt == Receipt((), (), "tool reports", is_complete=False)
