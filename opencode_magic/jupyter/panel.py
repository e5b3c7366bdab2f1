"""A status -> the panel: a card with buttons where widgets work, and the same card everywhere."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opencode_magic.errors import OpencodeMagicError
from opencode_magic.jupyter.frontend import choose_way
from opencode_magic.render.blocks import error_blocks, status_blocks
from opencode_magic.render.html import render_html
from opencode_magic.render.text import render_text

if TYPE_CHECKING:
    from collections.abc import Callable

    import ipywidgets
    from IPython.core.interactiveshell import InteractiveShell

    from opencode_magic.core.status import Status
    from opencode_magic.jupyter.frontend import Publisher, Way
    from opencode_magic.render.shapes import Block

RUNNING = frozenset({"locked", "unproven"})
FILL_EVERY_S = 0.25
"""The widget changes at most so often, however many attempts the firewall counts."""


@dataclass(frozen=True, slots=True)
class PanelActions:
    """What the buttons do. Each runs when the kernel is idle, or in a thread of the kernel's.

    An action raises ``OpencodeMagicError`` where it fails; the panel shows it.
    """

    prove: Callable[[], object]
    extend: Callable[[], object]
    stop: Callable[[], object]
    down: Callable[[], object]


class Panel:
    """Shows one sandbox in one output.

    What is saved in a notebook is what was published last, so the panel is published again under
    its display id at each settled state: launched, a turn or a proof ended, failed, down. Between
    those only the widget changes. Without a kernel each settled state is printed once. Any thread
    may show.
    """

    def __init__(
        self,
        shell: InteractiveShell | None,
        actions: PanelActions,
        *,
        way: Way | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.way = way or choose_way(shell)
        # Kept, for under %%capture the shell's is another: a later cell must not swallow updates.
        self._publisher: Publisher | None = None if shell is None else shell.display_pub
        self._now_ms = now_ms
        self._actions = actions
        self._display_id = f"opencode-magic-{uuid.uuid4().hex}"
        self._status: Status | None = None
        self._settled: tuple[object, ...] | None = None
        self._is_shown = False
        self._is_launch = False
        self._error: BaseException | None = None
        self._widget: _PanelWidget | None = None
        self._lock = threading.RLock()
        self._filled_s = float("-inf")
        self._timer: threading.Timer | None = None

    def show(self, status: Status) -> None:
        """Show the status: in place where nothing has settled, else published again."""
        with self._lock:
            if status.phase != "failed":
                self._is_launch = status.phase == "launching"
            self._status = status
            settled = _settled_state(status)
            is_news = settled is not None and settled != self._settled
            self._settled = settled or self._settled
            if self.way == "frames":
                is_news = is_news or not self._is_shown
                self._fill_soon(is_due=is_news)
            elif self.way == "once":
                is_news = is_news and not self._is_shown
            if is_news:
                self._publish()

    def close(self) -> None:
        """Let go of the widget; the card stays as it was published last."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._widget is not None:
                self._widget.close()
                self._widget = None

    def retire(self) -> None:
        """Let another panel take over: the card stays, without buttons."""
        with self._lock:
            if self._widget is not None:
                self.close()
                self._publish()

    def blocks(self) -> tuple[Block, ...]:
        """Give what the panel shows, before markup."""
        if self._status is None:
            return ()
        # A launch that fails in this panel's own cell ends that cell with its error.
        says_error = not (self._is_launch and self._status.phase == "failed")
        blocks = status_blocks(self._status, self._now_ms(), says_error=says_error)
        return blocks if self._error is None else (*blocks, *error_blocks(self._error))

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        """Give the widget's view, and the card as inert HTML and as text for all who have none."""
        blocks = self.blocks()
        data: dict[str, object] = {
            "text/plain": render_text(blocks),
            "text/html": render_html(blocks),
        }
        if self._widget is not None:
            data |= self._widget.view()
        return data

    def _fill_soon(self, *, is_due: bool) -> None:
        """Change the widget now where that is due, else once the last change is old enough."""
        wait_s = self._filled_s + FILL_EVERY_S - time.monotonic()
        if is_due or wait_s <= 0:
            self._fill()
        elif self._timer is None:
            self._timer = threading.Timer(wait_s, self._fill_late)
            self._timer.name = "opencode-panel"
            self._timer.daemon = True
            self._timer.start()

    def _fill_late(self) -> None:
        """Run by the timer, unless the panel was closed meanwhile."""
        with self._lock:
            if self._timer is threading.current_thread():
                self._fill()

    def _fill(self) -> None:
        self._filled_s = time.monotonic()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        status = self._status
        is_live = status is not None and status.phase in {"launching", "stopping", *RUNNING}
        if not is_live:
            self.close()
            return
        if self._widget is None:
            self._widget = _PanelWidget(self._actions, self._press)
        assert status is not None
        blocks = self.blocks()
        self._widget.fill(render_html(blocks[:1]), render_html(blocks[1:]), status)

    def _publish(self) -> None:
        data = self._repr_mimebundle_()
        if self._publisher is None or self.way == "lines":
            print(data["text/plain"])  # noqa: T201 - a terminal's way to show it
        else:
            transient: dict[str, object]
            transient = {"display_id": self._display_id} if self.way == "frames" else {}
            self._publisher.publish(data, {}, transient=transient, update=self._is_shown)
        self._is_shown = True

    def _press(self, action: Callable[[], object]) -> None:
        """Do what a button says; what goes wrong is shown in the panel."""
        self._error = None
        try:
            action()
        except OpencodeMagicError as error:
            self._error = error
        with self._lock:
            if self._status is not None:
                self._fill()


def _settled_state(status: Status) -> tuple[object, ...] | None:
    """Give what makes one settled state differ from another; None while nothing is settled.

    The lease is not part of it: a heartbeat would change the notebook every minute.
    """
    if status.phase in {"launching", "stopping"} or status.is_turn_running:
        return None
    proof_ms = 0 if status.proof is None else status.proof.at_ms
    return (
        status.phase,
        status.sandbox_name,
        status.turns,
        proof_ms,
        status.allowed_hosts,
        status.warnings,
        status.error,
    )


class _PanelWidget:
    """The card and its buttons as plain ipywidgets.

    The only HTML that is put in is our own, which ``render`` has checked; every trait is saved
    with a notebook, and none holds more than the card shows.
    """

    def __init__(
        self, actions: PanelActions, press: Callable[[Callable[[], object]], None]
    ) -> None:
        import ipywidgets  # noqa: PLC0415 - takes 0.1 s, and a terminal needs none

        self._press = press
        self._card: ipywidgets.HTML = ipywidgets.HTML()
        self._notes: ipywidgets.HTML = ipywidgets.HTML()
        self._buttons = {
            name: self._button(name, action)
            for name, action in (
                ("Prove again", actions.prove),
                ("Extend 30 min", actions.extend),
                ("Stop turn", actions.stop),
                ("Down", actions.down),
            )
        }
        self._bar = ipywidgets.HBox(list(self._buttons.values()))
        self._box = ipywidgets.VBox([self._card, self._bar, self._notes])

    def _button(self, name: str, action: Callable[[], object]) -> ipywidgets.Button:
        import ipywidgets  # noqa: PLC0415 - as above

        button = ipywidgets.Button(description=name, layout=ipywidgets.Layout(width="auto"))
        button.on_click(lambda _button: self._press(action))
        return button

    def fill(self, card_html: str, notes_html: str, status: Status) -> None:
        """Show the card, let be pressed what can be done now, and what is to be noted below."""
        self._card.value = card_html
        self._notes.value = notes_html
        is_running = status.phase in RUNNING
        self._bar.layout.display = "flex" if is_running else "none"
        self._buttons["Stop turn"].disabled = not status.is_turn_running
        for name in ("Prove again", "Extend 30 min", "Down"):
            self._buttons[name].disabled = not is_running

    def view(self) -> dict[str, object]:
        """Give the mimebundle entry that shows the live widget."""
        bundle: dict[str, object] = self._box._repr_mimebundle_()
        kind = "application/vnd.jupyter.widget-view+json"
        return {kind: bundle[kind]} if kind in bundle else {}

    def close(self) -> None:
        """End the widget's comms."""
        for widget in (*self._buttons.values(), self._bar, self._card, self._notes, self._box):
            widget.close()
