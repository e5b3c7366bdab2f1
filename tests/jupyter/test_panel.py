from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import ipywidgets
import pytest

from opencode_magic.core.status import Status
from opencode_magic.errors import SandboxError
from opencode_magic.jupyter.panel import FILL_EVERY_S, VIEW, Panel, PanelActions
from opencode_magic.render.wall import is_inert
from opencode_magic.session.session import DownReport
from tests.jupyter.screens import Published, Screen
from tests.render.samples import LAUNCHING, LOCKED, NOON_MS, NOT_LAUNCHED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from IPython.core.interactiveshell import InteractiveShell

    from opencode_magic.jupyter.frontend import Way

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
    assert panel._buttons is not None
    return panel._buttons.by_name


def _cards(screen: Screen) -> list[Published]:
    return [message for message in screen.messages if "text/html" in message.data]


def test_launch_fills_in_place() -> None:
    """The card is one output that is replaced; its buttons are another, once."""
    screen = Screen()
    panel = _panel(screen)
    panel.show(LAUNCHING)
    panel._filled_s -= 1
    panel.show(replace(LAUNCHING, launch_started_ms=NOON_MS - 5_000))
    panel.show(LOCKED)

    cards = _cards(screen)
    assert ["5.0 s" in card.text for card in cards] == [False, True, False]
    assert [card.is_update for card in cards] == [False, True, True]
    assert len({card.display_id for card in cards}) == 1
    assert all(is_inert(card.html) for card in cards)
    (buttons,) = [message for message in screen.messages if message not in cards]
    assert set(buttons.data) == {VIEW, "text/plain"}
    assert (buttons.text, buttons.is_update) == ("", False)
    assert buttons.display_id == f"{cards[0].display_id}-buttons"


def test_bundle() -> None:
    """The panel itself is its card: it stands without a widget."""
    screen = Screen()
    panel = _panel(screen)
    panel.show(LOCKED)

    assert set(panel._repr_mimebundle_()) == {"text/html", "text/plain"}
    assert _cards(screen)[0].data == panel._repr_mimebundle_()


def test_settled_states_go_at_once() -> None:
    """A turn that has ended is shown at once; a longer lease alone is not."""
    screen = Screen()
    panel = _panel(screen)
    panel.show(LOCKED)
    panel.show(replace(LOCKED, turns=4))
    panel.show(replace(LOCKED, turns=4, expires_ms=NOON_MS + 99_000))

    assert len(_cards(screen)) == 2
    assert panel._timer is None


def test_down_leaves_the_card() -> None:
    """Once it is down there are no buttons any more, and the card says so."""
    screen = Screen()
    panel = _panel(screen)
    panel.show(LOCKED)
    panel.show(replace(LOCKED, phase="stopping"))
    panel.show(DOWN)
    panel.retire()

    assert _cards(screen)[-1].text == "Down  quiet-heron  local home  (no sandbox is running)"
    assert screen.messages[-1].data == {"text/plain": ""}
    assert screen.messages[-1].is_update
    assert panel._buttons is None


def test_failed_launch() -> None:
    """A failed launch stays as a card with its steps."""
    screen = Screen()
    panel = _panel(screen)
    panel.show(LAUNCHING)
    panel.show(NOT_LAUNCHED)

    assert "✗ Agent server starting" in _cards(screen)[-1].text


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

    assert "did not answer" not in _cards(own)[-1].text
    assert "did not answer" in _cards(other)[-1].text
    assert "the server was killed" in _cards(late)[-1].text


def test_buttons() -> None:
    """Each button does its action; what cannot be done now cannot be pressed."""
    pressed = Pressed()
    panel = _panel(Screen(), pressed)
    panel.show(LAUNCHING)
    hidden = panel._buttons is not None and panel._buttons.bar.layout.display
    panel.show(LOCKED)
    buttons = _buttons(panel)
    idle = [name for name, button in buttons.items() if not button.disabled]
    panel._filled_s -= 1
    panel.show(replace(LOCKED, is_turn_running=True))
    in_a_turn = [name for name, button in buttons.items() if not button.disabled]
    for button in buttons.values():
        button.click()

    assert hidden == "none"
    assert list(buttons) == ["Prove again", "Extend 30 min", "Stop turn", "Down"]
    assert idle == ["Prove again", "Extend 30 min", "Down"]
    assert in_a_turn == ["Extend 30 min", "Stop turn", "Down"]
    assert pressed.calls == ["prove", "extend", "stop", "down"]


def test_down_says_what_was_kept() -> None:
    """The button that ends the sandbox says where the agent's files are, as the magic does."""
    screen = Screen()
    report = DownReport("quiet-heron", ("the sandbox",), ("the agent's files: /kept",))

    def down() -> DownReport:
        panel.show(replace(LOCKED, phase="down"))
        return report

    actions = replace(Pressed().actions(), down=down)
    panel = Panel(cast("InteractiveShell", screen), actions, way="frames", now_ms=lambda: NOON_MS)
    panel.show(LOCKED)
    _buttons(panel)["Down"].click()

    assert "Removed the sandbox\nKept the agent's files: /kept" in _cards(screen)[-1].text


def test_failing_button() -> None:
    """What goes wrong behind a button is shown in the panel until the next press."""
    pressed = Pressed(error=SandboxError("<b>gone</b>", next_step="%opencode_up"))
    screen = Screen()
    panel = _panel(screen, pressed)
    panel.show(LOCKED)
    _buttons(panel)["Prove again"].click()
    failed = _cards(screen)[-1]
    pressed.error = None
    _buttons(panel)["Prove again"].click()

    assert "Sandbox: <b>gone</b>" in failed.text
    assert "&lt;b&gt;gone" in failed.html
    assert is_inert(failed.html)
    assert "gone" not in _cards(screen)[-1].text


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
        "[✓ Locked]  quiet-heron  local home  proven 12:04:31  (at most 43 min without its kernel)",
        "Down  quiet-heron  local home  (no sandbox is running)",
    ]


def test_retire() -> None:
    """A panel that another takes over from says as of when its card is, and has no buttons."""
    screen = Screen()
    panel = _panel(screen)
    panel.show(LOCKED)
    panel.retire()
    panel.retire()

    card, buttons, last, gone = screen.messages
    assert card.text.startswith("[✓ Locked]")
    assert last.text.startswith(
        "[✓ Locked]  quiet-heron  local home  proven 12:04:31  (as of 12:04:31)"
    )
    assert (last.display_id, last.is_update) == (card.display_id, True)
    assert (gone.data, gone.display_id) == ({"text/plain": ""}, buttons.display_id)


def test_many_changes_are_paced() -> None:
    """Counts that change all the time change the card a few times a second, the last included."""
    screen = Screen()
    panel = _panel(screen)
    panel.show(LOCKED)
    began = time.monotonic()
    for count in range(13, 200):
        panel.show(replace(LOCKED, egress_allowed=count))
    until = time.monotonic() + 10
    while "Allowed 199" not in _cards(screen)[-1].text and time.monotonic() < until:
        time.sleep(0.01)

    assert "Allowed 199" in _cards(screen)[-1].text
    assert len(_cards(screen)) <= (time.monotonic() - began) / FILL_EVERY_S + 2


def test_closed_before_the_timer() -> None:
    """A panel that is retired changes nothing any more, though its timer has fired."""
    panel = _panel(Screen())
    panel.show(LOCKED)
    panel.show(replace(LOCKED, egress_allowed=13))
    timer = panel._timer
    panel.retire()
    panel._fill_late()

    assert timer is not None
    assert timer.finished.is_set()
    assert panel._buttons is None


def test_no_secret_in_traits() -> None:
    """The widgets hold no more than the buttons' names."""
    panel = _panel(Screen())
    panel.show(LOCKED)
    models = ipywidgets.Widget.get_manager_state()["state"].values()
    texts = {
        str(model["state"][name])
        for model in models
        for name in ("value", "description", "tooltip", "placeholder")
        if model["state"].get(name)
    }

    assert texts == set(_buttons(panel))


def test_chosen_way(shell: InteractiveShell) -> None:
    """Without a wish the panel finds out what the front end can show."""
    assert Panel(shell, Pressed().actions()).way == "lines"
