from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from opencode_magic.core.status import Status
from opencode_magic.errors import HomeUnavailableError, NotLaunchedError, UsageMistake
from opencode_magic.session.session import DownReport, Session
from tests.doubles import PROOF, StandInStarter

if TYPE_CHECKING:
    from opencode_magic.settings import Settings
    from tests.doubles import StandInSandbox


def test_nothing_is_up_at_first() -> None:
    """A new session has no sandbox, and says what to do."""
    session = Session()

    with pytest.raises(NotLaunchedError) as caught:
        session.prove()

    assert str(caught.value) == "no sandbox is up. Next: run %opencode_up"
    assert session.status == Status()
    assert session.down() == DownReport()


def test_up(sandbox: StandInSandbox, settings: Settings) -> None:
    """A launch's events become the status, and listeners see each."""
    session = Session(starter=StandInStarter(sandbox))
    phases = []
    session.subscribe(lambda status: phases.append(status.phase))

    status = session.up(settings)

    assert status.phase == "locked"
    assert status.proof == PROOF
    assert phases == ["launching", "launching", "launching", "locked"]


def test_up_twice_uses_the_sandbox_again(sandbox: StandInSandbox, settings: Settings) -> None:
    """A second up launches nothing."""
    starter = StandInStarter(sandbox)
    session = Session(starter=starter)

    assert session.up(settings) == session.up(settings)
    assert starter.starts == 1


def test_up_with_another_wish(sandbox: StandInSandbox, settings: Settings) -> None:
    """What is up is never passed off as what was asked for."""
    session = Session(starter=StandInStarter(sandbox))
    session.up(settings)

    with pytest.raises(UsageMistake) as caught:
        session.up(replace(settings, model="anthropic/claude-sonnet-4-6"))

    assert "is up with the model 'demo-model/scripted'" in str(caught.value)
    assert caught.value.next_step == "run %opencode_down first"


def test_up_after_the_sandbox_ended(sandbox: StandInSandbox, settings: Settings) -> None:
    """A sandbox that has ended by itself is removed, its files kept; the next up launches again."""
    starter = StandInStarter(sandbox)
    session = Session(starter=starter)
    session.up(settings)
    sandbox.is_running = False
    sandbox.kept = ("the agent's files: /kept",)

    assert not session.is_alive()
    assert sandbox.calls == ["terminate 3 keep True"]
    assert session.status.phase == "failed"
    assert session.status.error == "the sandbox has ended; kept: the agent's files: /kept"
    sandbox.is_running = True
    assert session.up(settings).phase == "locked"
    assert starter.starts == 2


@pytest.mark.parametrize("error", [HomeUnavailableError("no", next_step="b"), KeyboardInterrupt()])
def test_a_failed_launch(sandbox: StandInSandbox, settings: Settings, error: BaseException) -> None:
    """A launch that fails or is interrupted leaves no sandbox and a status that says so."""
    session = Session(starter=StandInStarter(sandbox, error=error))

    with pytest.raises(type(error)):
        session.up(settings)

    assert session.status.phase == "failed"
    assert not session.is_up


@pytest.mark.parametrize("error", [HomeUnavailableError("no", next_step="b"), KeyboardInterrupt()])
def test_a_launch_that_fails_at_its_end(
    sandbox: StandInSandbox, settings: Settings, error: BaseException
) -> None:
    """What was made by then is ended, whatever came between it and the session."""
    session = Session(starter=StandInStarter(sandbox, late_error=error))

    with pytest.raises(type(error)):
        session.up(settings)

    assert sandbox.calls == ["terminate 10 keep False"]
    assert session.status.phase == "failed"
    assert not session.is_up


def test_down(sandbox: StandInSandbox, settings: Settings) -> None:
    """Down keeps the agent's files, ends the sandbox, and says both."""
    sandbox.kept = ("the agent's files: /kept",)
    starter = StandInStarter(sandbox)
    session = Session(starter=starter)
    session.up(settings)

    report = session.down()

    assert report == DownReport("ocm-quiet-heron", ("the sandbox",), sandbox.kept)
    assert str(report) == (
        "Down: ocm-quiet-heron. Removed: the sandbox. Kept: the agent's files: /kept."
    )
    assert session.status.phase == "down"
    assert sandbox.calls == ["terminate 10 keep True"]
    assert starter.agent.is_closed
    assert session.down() == DownReport()


def test_down_discards_where_told(sandbox: StandInSandbox, settings: Settings) -> None:
    """With ``discard`` nothing of the agent's is kept."""
    sandbox.kept = ("the agent's files: /kept",)
    session = Session(starter=StandInStarter(sandbox))
    session.up(settings)

    report = session.down(discard=True)

    assert report.kept == ()
    assert sandbox.calls == ["terminate 10 keep False"]


def test_a_listener_can_go(sandbox: StandInSandbox, settings: Settings) -> None:
    """After unsubscribing nothing is called any more."""
    session = Session(starter=StandInStarter(sandbox))
    seen: list[Status] = []
    unsubscribe = session.subscribe(seen.append)
    unsubscribe()
    unsubscribe()

    session.up(settings)

    assert seen == []
