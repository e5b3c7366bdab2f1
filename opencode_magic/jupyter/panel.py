"""A status -> the panel: a card with buttons where widgets work, and the same card everywhere."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from opencode_magic.errors import OpencodeMagicError
from opencode_magic.jupyter.frontend import choose_way
from opencode_magic.render.blocks import down_blocks, error_blocks, status_blocks
from opencode_magic.render.html import render_html
from opencode_magic.render.text import render_text
from opencode_magic.session.session import DownReport

if TYPE_CHECKING:
    from collections.abc import Callable

    import ipywidgets
    from IPython.core.interactiveshell import InteractiveShell

    from opencode_magic.core.status import Status
    from opencode_magic.jupyter.frontend import Publisher, Way
    from opencode_magic.render.shapes import Block

RUNNING = frozenset({"locked", "unproven"})
VIEW = "application/vnd.jupyter.widget-view+json"
FILL_EVERY_S = 0.25
"""The card changes at most so often, however many attempts the firewall counts."""


@dataclass(frozen=True, slots=True)
class PanelActions:
    """What the buttons do. Each runs when the kernel is idle, or in a thread of the kernel's.

    An action raises ``OpencodeMagicError`` where it fails; the panel shows it, and what a
    ``DownReport`` says was removed and kept.
    """

    prove: Callable[[], object]
    extend: Callable[[], object]
    stop: Callable[[], object]
    down: Callable[[], object]


class Panel:
    """Shows one sandbox: a card in one output, its buttons in another below it.

    The card is never a widget: JupyterLab 4.6 shows "model not found" instead of a widget whose
    kernel is gone, whatever else its mimebundle holds. So what is saved is the card as it was
    published last. Where updates are not known, and without a kernel, each settled state is
    shown once. Any thread may show, after the first time.
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
        self._is_retired = False
        self._error: BaseException | None = None
        self._down: DownReport | None = None
        self._buttons: _Buttons | None = None
        self._lock = threading.RLock()
        self._filled_s = float("-inf")
        self._timer: threading.Timer | None = None

    def show(self, status: Status) -> None:
        """Show the status: at once where something has settled, else soon."""
        with self._lock:
            if status.phase != "failed":
                self._is_launch = status.phase == "launching"
            before, self._status = self._status, status
            settled = _settled_state(status)
            is_news = settled is not None and settled != self._settled
            self._settled = settled or self._settled
            if self.way == "frames":
                if before is None or not _looks_alike(before, status):
                    self._fill_soon(is_due=is_news or not self._is_shown)
            elif is_news and not (self.way == "once" and self._is_shown):
                self._publish()

    def retire(self) -> None:
        """Let another panel take over: the card says as of when it is, and has no buttons."""
        with self._lock:
            self._cancel_timer()
            is_running = self._status is not None and self._status.phase in RUNNING
            if self.way == "frames" and is_running and not self._is_retired:
                self._is_retired = True
                self._publish()
            self._drop_buttons()

    def blocks(self) -> tuple[Block, ...]:
        """Give what the panel shows, before markup."""
        if self._status is None:
            return ()
        # A launch that fails in this panel's own cell ends that cell with its error.
        says_error = not (self._is_launch and self._status.phase == "failed")
        blocks = status_blocks(
            self._status, self._now_ms(), says_error=says_error, is_last=self._is_retired
        )
        if self._down is not None:
            return (*blocks, *down_blocks(self._down))
        return blocks if self._error is None else (*blocks, *error_blocks(self._error))

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        """Give the card as inert HTML and as text."""
        blocks = self.blocks()
        return {"text/plain": render_text(blocks), "text/html": render_html(blocks)}

    def _fill_soon(self, *, is_due: bool) -> None:
        """Show now what has changed where that is due, else once the last change is old enough."""
        wait_s = self._filled_s + FILL_EVERY_S - time.monotonic()
        if is_due or wait_s <= 0:
            self._fill()
        elif self._timer is None:
            self._timer = threading.Timer(wait_s, self._fill_late)
            self._timer.name = "opencode-panel"
            self._timer.daemon = True
            self._timer.start()

    def _fill_late(self) -> None:
        """Run by the timer, unless the panel was retired meanwhile."""
        with self._lock:
            if self._timer is threading.current_thread():
                self._fill()

    def _fill(self) -> None:
        self._filled_s = time.monotonic()
        self._cancel_timer()
        self._publish()
        status = self._status
        if status is None or status.phase not in {"launching", "stopping", *RUNNING}:
            self._drop_buttons()
            return
        if self._buttons is None:
            self._buttons = _Buttons(self._actions, self._press)
            self._send(self._buttons.bundle(), f"{self._display_id}-buttons", update=False)
        self._buttons.fit(status)

    def _publish(self) -> None:
        data = self._repr_mimebundle_()
        if self._publisher is None or self.way == "lines":
            print(data["text/plain"])  # noqa: T201 - a terminal's way to show it
        else:
            display_id = self._display_id if self.way == "frames" else ""
            self._send(data, display_id, update=self._is_shown)
        self._is_shown = True

    def _send(self, data: dict[str, object], display_id: str, *, update: bool) -> None:
        transient: dict[str, object] = {"display_id": display_id} if display_id else {}
        if self._publisher is not None:
            self._publisher.publish(data, {}, transient=transient, update=update)

    def _drop_buttons(self) -> None:
        if self._buttons is not None:
            self._buttons.close()
            self._buttons = None
            self._send({"text/plain": ""}, f"{self._display_id}-buttons", update=True)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _press(self, action: Callable[[], object]) -> None:
        """Do what a button says; what goes wrong is shown in the panel."""
        self._error = None
        try:
            done = action()
            self._down = done if isinstance(done, DownReport) and done.sandbox_name else None
        except OpencodeMagicError as error:
            self._error = error
        with self._lock:
            if self._status is not None and self.way == "frames":
                self._fill()


def _looks_alike(before: Status, after: Status) -> bool:
    """Say whether only the lease differs: a heartbeat is no reason to change a notebook."""
    return replace(before, expires_ms=0) == replace(after, expires_ms=0)


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


class _Buttons:
    """The buttons as plain ipywidgets. Traits are saved: none holds more than a name."""

    def __init__(
        self, actions: PanelActions, press: Callable[[Callable[[], object]], None]
    ) -> None:
        import ipywidgets  # noqa: PLC0415 - takes 0.1 s, and a terminal needs none

        self._press = press
        named = (
            ("Prove again", actions.prove),
            ("Extend 30 min", actions.extend),
            ("Stop turn", actions.stop),
            ("Down", actions.down),
        )
        self.by_name = {name: self._button(name, action) for name, action in named}
        self.bar = ipywidgets.HBox(list(self.by_name.values()))

    def _button(self, name: str, action: Callable[[], object]) -> ipywidgets.Button:
        import ipywidgets  # noqa: PLC0415 - as above

        button = ipywidgets.Button(description=name, layout=ipywidgets.Layout(width="auto"))
        button.on_click(lambda _button: self._press(action))
        _hear_at_once(button)
        return button

    def fit(self, status: Status) -> None:
        """Let be pressed what can be done now."""
        is_running = status.phase in RUNNING
        self.bar.layout.display = "flex" if is_running else "none"
        for name, button in self.by_name.items():
            can_now = {
                "Prove again": not status.is_turn_running,  # the receipt would have gaps
                "Stop turn": status.is_turn_running,
            }
            button.disabled = not (is_running and can_now.get(name, True))

    def bundle(self) -> dict[str, object]:
        """Give what shows the live widget; nothing where no widget can be shown."""
        bundle: dict[str, object] = self.bar._repr_mimebundle_()
        return {kind: value for kind, value in bundle.items() if kind == VIEW} | {"text/plain": ""}

    def close(self) -> None:
        """End the widgets' comms."""
        for widget in (*self.by_name.values(), self.bar):
            widget.close()


def _hear_at_once(widget: ipywidgets.Widget) -> None:
    """Let a press arrive while a cell keeps the kernel's main thread busy.

    JupyterLab 4.6 sends presses to a thread of the kernel's own for them, but ipykernel 7.4 takes
    them back to the thread that published last. Nothing happens in kernels that do not do that.
    """
    if hasattr(widget.comm, "_reply_subshell_for"):
        widget.comm._reply_subshell_for = lambda _data, sent_to: sent_to  # noqa: SLF001 - no other way
