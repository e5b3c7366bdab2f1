"""A sandbox is gone after a down, also where the down was interrupted."""

from __future__ import annotations

import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Never

import pytest

from opencode_magic.sandbox import ending, workspace
from opencode_magic.session.session import DownReport, Session
from tests.doubles import StandInGone, StandInSandbox, StandInStarter
from tests.session.rounds import cloud_round, local_round

if TYPE_CHECKING:
    from vercel.sandbox.sync import SyncSandboxRuntimeSession

    from opencode_magic.core.opencode import Place
    from opencode_magic.settings import Settings


def interrupt(*_: object) -> Never:
    """Be interrupted, as the main thread is."""
    raise KeyboardInterrupt


def press_stop() -> None:
    """Interrupt the main thread, as Jupyter's button does, and let it come."""
    main = threading.main_thread().ident
    assert main is not None
    time.sleep(0.2)  # a person does not press in the moment in which a thread starts
    signal.pthread_kill(main, signal.SIGINT)
    time.sleep(0.5)


@pytest.mark.skipif(sys.platform != "linux", reason="the local home needs Linux")
@pytest.mark.usefixtures("opencode_binary")
def test_an_interrupted_down_removes_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """An Interrupt while the work is looked for goes on once the sandbox is destroyed."""
    has_work = workspace.has_work

    def look(session: SyncSandboxRuntimeSession, place: Place) -> bool:
        press_stop()
        return has_work(session, place)

    with local_round() as made:
        made.session.up(made.settings)
        sandbox = made.session.sandbox
        connection = sandbox._parts.connection  # type: ignore[attr-defined] # the real one
        monkeypatch.setattr(workspace, "has_work", look)

        with pytest.raises(KeyboardInterrupt, match=r"removed sandbox .*; kept nothing"):
            made.session.down()

        assert sandbox.terminate().removed
        assert not made.session.is_up
        assert made.session.status.phase == "down"
        assert not connection.local.info()["sandboxes"]
        assert not list((made.settings.state_dir / "leases").glob("*.json"))


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in for the cloud needs Linux")
@pytest.mark.usefixtures("opencode_binary")
def test_a_cloud_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox that may go on to bill can be taken down again once the cloud answers."""
    with cloud_round() as made:
        made.session.up(made.settings)
        with monkeypatch.context() as patch:
            patch.setattr(ending, "destroy", lambda *_, **__: ending.Ended("no answer"))
            first = made.session.down()
        is_up = made.session.is_up
        second = made.session.down()

        assert first.removed == ()
        assert "may still run until its time is up: no answer" in first.kept[-1]
        assert is_up
        assert len(second.removed) == 1
        assert not made.session.is_up
        assert made.session.status.phase == "down"


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in for the cloud needs Linux")
@pytest.mark.usefixtures("opencode_binary")
@pytest.mark.parametrize("presses", [1, 2])
def test_work_of_a_cloud_sandbox_outlives_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, presses: int
) -> None:
    """An Interrupt while the work is copied out lets that end; a second one gives it up."""
    keep = workspace.keep

    def copy(session: SyncSandboxRuntimeSession, place: Place, state_dir: Path, name: str) -> Path:
        for _ in range(presses):
            press_stop()
        return keep(session, place, state_dir, name)

    with cloud_round() as made:
        made.session.up(made.settings)
        inside = made.session.sandbox._parts.session  # type: ignore[attr-defined] # the real one
        inside.fs.write_text("workspace/work.txt", "mine")
        monkeypatch.setattr(workspace, "keep", copy)

        with pytest.raises(KeyboardInterrupt) as caught:
            made.session.down()

        removed, _, kept = str(caught.value).partition("; kept ")
        assert removed.startswith("removed sandbox ")
        assert not made.session.is_up
        if presses == 1:
            assert Path(kept.removeprefix("the agent's files, for 7 days: ")).is_file()
        else:
            assert kept == "not the agent's files: interrupted"


@dataclass
class StubbornSandbox(StandInSandbox):
    """Is only gone at the second try, which an Interrupt may have broken off before."""

    is_interrupted: bool = False
    is_stubborn: bool = True

    def terminate(self, *, timeout_s: float = 10.0, keep: bool = True) -> StandInGone:
        """Fail once, then end."""
        if not self.is_stubborn:
            return super().terminate(timeout_s=timeout_s, keep=keep)
        self.is_stubborn = False
        if self.is_interrupted:
            raise KeyboardInterrupt
        return StandInGone((), ("it may still run",))


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_what_may_run_is_not_let_go(settings: Settings, *, is_interrupted: bool) -> None:
    """A sandbox that is not known to be gone stays the session's: down can be run again."""
    sandbox = StubbornSandbox(is_interrupted=is_interrupted)
    session = Session(starter=StandInStarter(sandbox))
    session.up(settings)

    if is_interrupted:
        with pytest.raises(KeyboardInterrupt):
            session.down()
    else:
        assert session.down().removed == ()

    assert session.is_up
    assert session.status.error == "the sandbox may still run"
    assert session.down() == DownReport("ocm-quiet-heron", ("the sandbox",))
    assert not session.is_up


def test_an_interrupt_while_a_turn_is_stopped(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who interrupts the wait for a turn still gets rid of the sandbox."""
    sandbox = StandInSandbox()
    session = Session(starter=StandInStarter(sandbox))
    session.up(settings)
    monkeypatch.setattr(session, "stop_turn", interrupt)

    with pytest.raises(KeyboardInterrupt):
        session.down()

    assert sandbox.calls == ["terminate 10 keep True"]
    assert not session.is_up
    assert session.status.phase == "down"
