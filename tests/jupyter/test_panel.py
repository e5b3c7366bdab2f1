from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import ipywidgets
import pytest

from opencode_magic.core.status import Status
from opencode_magic.errors import SandboxError
from opencode_magic.jupyter.panel import FILL_EVERY_S, Panel, PanelActions
from opencode_magic.render.wall import is_inert
from tests.jupyter.screens import Screen
from tests.render.samples import LAUNCHING, LOCKED, NOON_MS, NOT_LAUNCHED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from IPython.core.interactiveshell import InteractiveShell

    from opencode_magic.jupyter.frontend import Way

VIEW = "application/vnd.jupyter.widget-view+json"
DOWN = Status(home="local", sandbox_name="quiet-heron")


@dataclass
class Pressed:
    """What the buttons were asked to do."""

    calls: list[str] = field(default_factory=list)
    error: SandboxError | None = None

    def do(self, name: str) -> None:
        """Remember it, and fail where that is wanted."""
        self.calls.append(name)
        if self.error is not None:
            raise self.error

    def actions(self) -> PanelActions:
        """Give the buttons' actions."""
        return PanelActions(
            prove=lambda: self.do("prove"),
            extend=lambda: self.do("extend"),
            stop=lambda: self.do("stop"),
            down=lambda: self.do("down"),
        )


@pytest.fixture(autouse=True)
def no_widgets_left() -> Iterator[None]:
    """Close what a test leaves open."""
    yield
    for thread in threading.enumerate():
        if thread.name == "opencode-panel":
            thread.join()
    ipywidgets.Widget.close_all()


def _panel(screen: Screen | None, pressed: Pressed | None = None, way: Way = "frames") -> Panel:
    return Panel(
        cast("InteractiveShell", screen),
        (pressed or Pressed()).actions(),
        way=way,
        now_ms=lambda: NOON_MS,
    )


def _buttons(panel: Panel) -> dict[str, ipywidgets.Button]:
    assert panel._widget is not None
    return panel._widget._buttons


def test_launch_fills_in_place() -> None:
    """While launching only the widget changes; the panel is published again when locked."""
    screen = Screen()
    panel = _panel(screen)
    panel.show(LAUNCHING)
    panel._filled_s -= 1
    panel.show(replace(LAUNCHING, launch_started_ms=NOON_MS - 5_000))
    assert panel._widget is not None
    card = panel._widget._card.value
    panel.show(LOCKED)

    assert "5.0 s" in card
    assert is_inert(card)
    assert [message.is_update for message in screen.messages] == [False, True]
    assert len({message.display_id for message in screen.messages}) == 1
    assert screen.messages[1].text.startswith("[✓ Locked]")


def test_bundle() -> None:
    """A panel is a widget where widgets work, and the same card as inert HTML and as text."""
    screen = Screen()
    panel = _panel(screen)
    panel.show(LOCKED)

    (message,) = screen.messages
    assert set(message.data) == {VIEW, "text/html", "text/plain"}
    assert is_inert(message.html)
    assert panel._repr_mimebundle_() == message.data


def test_settled_states_are_published() -> None:
    """A turn that has ended is published; a running one and a longer lease are not."""
    screen = Screen()
    panel = _panel(screen)
    panel.show(LOCKED)
    panel.show(replace(LOCKED, egress_allowed=99))
    panel.show(replace(LOCKED, is_turn_running=True))
    before = len(screen.messages)
    panel.show(replace(LOCKED, turns=4))
    panel.show(replace(LOCKED, turns=4, expires_ms=NOON_MS + 99_000))

    assert [before, len(screen.messages)] == [1, 2]


def test_down_leaves_the_card() -> None:
    """Once it is down there is no widget any more, and the card says so."""
    screen = Screen()
    panel = _panel(screen)
    panel.show(LOCKED)
    panel.show(replace(LOCKED, phase="stopping"))
    panel.show(DOWN)
    panel.close()

    assert set(screen.messages[-1].data) == {"text/html", "text/plain"}
    assert screen.messages[-1].text == "Down  no sandbox is running"
    assert panel._widget is None


def test_failed_launch() -> None:
    """A failed launch stays as a card with its steps."""
    screen = Screen()
    panel = _panel(screen)
    panel.show(LAUNCHING)
    panel.show(NOT_LAUNCHED)

    assert "✗ Agent server starting" in screen.messages[-1].text


def test_error_is_said_once() -> None:
    """A launch that fails ends its cell with the error; a later panel says it, and a later end."""
    own, other, late = Screen(), Screen(), Screen()
    panel = _panel(own)
    panel.show(LAUNCHING)
    panel.show(NOT_LAUNCHED)
    _panel(other).show(NOT_LAUNCHED)
    panel = _panel(late)
    panel.show(LAUNCHING)
    panel.show(LOCKED)
    panel.show(replace(LOCKED, phase="failed", error="the server was killed"))

    assert "did not answer" not in own.messages[-1].text
    assert "did not answer" in other.messages[-1].text
    assert "the server was killed" in late.messages[-1].text


def test_buttons() -> None:
    """Each button does its action; what cannot be done cannot be pressed."""
    pressed = Pressed()
    panel = _panel(Screen(), pressed)
    panel.show(LAUNCHING)
    hidden = panel._widget is not None and panel._widget._bar.layout.display
    panel.show(LOCKED)
    panel._filled_s -= 1
    panel.show(replace(LOCKED, is_turn_running=True))
    buttons = _buttons(panel)
    for button in buttons.values():
        button.click()

    assert hidden == "none"
    assert list(buttons) == ["Prove again", "Extend 30 min", "Stop turn", "Down"]
    assert not any(button.disabled for button in buttons.values())
    assert pressed.calls == ["prove", "extend", "stop", "down"]


def test_stop_needs_a_turn() -> None:
    """Nothing can be stopped while no turn runs."""
    panel = _panel(Screen())
    panel.show(LOCKED)

    assert _buttons(panel)["Stop turn"].disabled


def test_failing_button() -> None:
    """What goes wrong behind a button is shown in the panel until the next press."""
    pressed = Pressed(error=SandboxError("<b>gone</b>", next_step="%opencode_up"))
    panel = _panel(Screen(), pressed)
    panel.show(LOCKED)
    assert panel._widget is not None
    _buttons(panel)["Prove again"].click()
    failed = panel._widget._notes.value
    pressed.error = None
    _buttons(panel)["Prove again"].click()

    assert "Sandbox:" in failed
    assert "&lt;b&gt;gone" in failed
    assert is_inert(failed)
    assert "gone" not in panel._widget._notes.value


def test_press_before_anything_is_shown() -> None:
    """A press without a status does no more than its action."""
    pressed = Pressed()
    panel = _panel(Screen(), pressed)
    panel._press(pressed.actions().prove)

    assert pressed.calls == ["prove"]
    assert panel.blocks() == ()


def test_once() -> None:
    """Where no updates are known, the first settled state is the only output, without a widget."""
    screen = Screen()
    panel = _panel(screen, way="once")
    panel.show(LAUNCHING)
    panel.show(LOCKED)
    panel.show(replace(LOCKED, turns=9))

    (message,) = screen.messages
    assert (message.display_id, message.is_update) == ("", False)
    assert set(message.data) == {"text/html", "text/plain"}


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A terminal is told each settled state once."""
    panel = _panel(None, way="lines")
    panel.show(LAUNCHING)
    panel.show(LOCKED)
    panel.show(LOCKED)
    panel.show(DOWN)

    lines = capsys.readouterr().out.split("\n")
    assert [line for line in lines if "quiet-heron" in line or "Down" in line] == [
        "[✓ Locked]  quiet-heron  local home  proven 12:04:31  (43 min left)",
        "Down  no sandbox is running",
    ]


def test_retire() -> None:
    """A panel that another takes over from keeps its card, without buttons."""
    screen = Screen()
    panel = _panel(screen)
    panel.show(LOCKED)
    panel.retire()
    panel.retire()

    assert [set(message.data) - {"text/html", "text/plain"} for message in screen.messages] == [
        {VIEW},
        set(),
    ]
    assert panel._widget is None


def test_many_changes_are_paced() -> None:
    """Counts that change all the time change the widget a few times a second, the last included."""
    panel = _panel(Screen())
    panel.show(LOCKED)
    assert panel._widget is not None
    card, seen = panel._widget._card, []
    card.observe(lambda change: seen.append(change["new"]), "value")
    began = time.monotonic()
    for count in range(13, 200):
        panel.show(replace(LOCKED, egress_allowed=count))
    until = time.monotonic() + 10
    while ">199<" not in card.value and time.monotonic() < until:
        time.sleep(0.01)

    assert ">199<" in card.value
    assert len(seen) <= (time.monotonic() - began) / FILL_EVERY_S + 1


def test_closed_before_the_timer() -> None:
    """A panel that is closed changes nothing any more, though its timer has fired."""
    panel = _panel(Screen())
    panel.show(LOCKED)
    panel.show(replace(LOCKED, egress_allowed=13))
    timer = panel._timer
    panel.close()
    panel._fill_late()

    assert timer is not None
    assert timer.finished.is_set()
    assert panel._widget is None


def test_no_secret_in_traits() -> None:
    """The widgets hold no more than the card and the buttons' names."""
    panel = _panel(Screen())
    panel.show(LOCKED)
    models = ipywidgets.Widget.get_manager_state()["state"].values()
    texts = {
        str(model["state"][name])
        for model in models
        for name in ("value", "description", "tooltip", "placeholder")
        if model["state"].get(name)
    }

    assert panel._widget is not None
    shown = {panel._widget._card.value, panel._widget._notes.value}
    assert texts <= {*shown, *_buttons(panel), "\u200b"}


def test_chosen_way(shell: InteractiveShell) -> None:
    """Without a wish the panel finds out what the front end can show."""
    assert Panel(shell, Pressed().actions()).way == "lines"
