"""A growing turn -> paced frames under its cell, the last one always."""

from __future__ import annotations

import sys
import threading
import time
import uuid
from typing import TYPE_CHECKING

from opencode_magic.core.parts import ReasoningPart, TextPart, ToolPart
from opencode_magic.jupyter.frontend import choose_way
from opencode_magic.jupyter.pace import Pace
from opencode_magic.jupyter.terminal import TerminalView
from opencode_magic.render.blocks import turn_blocks
from opencode_magic.render.html import render_html
from opencode_magic.render.live import LiveMarkdown
from opencode_magic.render.text import render_text
from opencode_magic.render.visible import visible_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

    from opencode_magic.core.parts import Turn
    from opencode_magic.jupyter.frontend import Publisher, Way

METADATA_KEY = "opencode_magic"
TIMER_SLACK_S = 0.02


class CellView:
    """Shows one turn in one output. Make it in the thread that runs the cell; show from any.

    A frame that comes too early is kept, and sent by a timer if no later one replaces it. Nothing
    is sent after the final frame.
    """

    def __init__(
        self,
        shell: InteractiveShell,
        *,
        way: Way | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.way = way or choose_way(shell)
        self._shell = shell
        self._clock = clock
        self._display_id = f"opencode-magic-{uuid.uuid4().hex}"
        self._lock = threading.Lock()
        self._pace = Pace()
        self._live = LiveMarkdown()
        self._waiting: Turn | None = None
        self._timer: threading.Timer | None = None
        self._due = 0.0
        self._is_open = True
        self._terminal = TerminalView(sys.stdout) if self.way == "lines" else None

    def show(self, turn: Turn, *, is_final: bool = False) -> None:
        """Show the turn now, or soon where the last frame is too fresh; the final frame at once."""
        with self._lock:
            if not self._is_open:
                return
            if self._terminal is not None:
                self._terminal.show(turn, is_final=is_final)
                self._is_open = not is_final
            elif is_final:
                self._finish(turn)
            elif self.way == "frames":
                self._offer(turn)

    def _finish(self, turn: Turn) -> None:
        self._waiting = None
        self._cancel_timer()
        self._publish(turn_bundle(turn), turn_metadata(turn))
        # Only now: an interrupt before this line lets the frame be sent again.
        self._is_open = False

    def _offer(self, turn: Turn) -> None:
        wait_s = self._pace.wait_s(self._clock(), chars=_chars(turn), shape=_shape(turn))
        if wait_s <= 0:
            self._send(turn)
            return
        self._waiting = turn
        due = self._clock() + wait_s
        if self._timer is None or due < self._due - TIMER_SLACK_S:
            self._cancel_timer()
            self._due = due
            self._timer = threading.Timer(wait_s, self._send_waiting)
            self._timer.name = "opencode-frame"
            self._timer.daemon = True
            self._timer.start()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send_waiting(self) -> None:
        """Run by the timer: the frame that nothing has replaced is due."""
        with self._lock:
            if threading.current_thread() is not self._timer:
                return
            self._timer = None
            turn, self._waiting = self._waiting, None
            if turn is not None and self._is_open:
                self._offer(turn)

    def _send(self, turn: Turn) -> None:
        self._waiting = None
        html = render_html(turn_blocks(turn), prose=self._live.html)
        chars = _chars(turn)
        self._publish({"text/plain": f"running, {chars} characters so far", "text/html": html}, {})
        self._pace.sent(self._clock(), size_bytes=len(html), chars=chars, shape=_shape(turn))

    def _publish(self, data: dict[str, object], metadata: dict[str, object]) -> None:
        publisher: Publisher = self._shell.display_pub
        publisher.publish(
            data,
            metadata,
            transient={"display_id": self._display_id} if self.way == "frames" else {},
            update=self._pace.frames > 0,
        )


def turn_bundle(turn: Turn) -> dict[str, object]:
    """Give a finished turn as inert HTML and as text. Never as Markdown: a front end runs that."""
    blocks = turn_blocks(turn)
    return {"text/plain": render_text(blocks), "text/html": render_html(blocks)}


def turn_metadata(turn: Turn) -> dict[str, object]:
    """Give what a saved notebook keeps of a turn for programs that read it."""
    facts = {
        "model": visible_line(turn.model),
        "is_scripted": turn.is_scripted,
        "session": visible_line(turn.session_id),
        "state": turn.state,
        "tokens": turn.tokens.total,
        "cost": turn.cost,
        "duration_s": round(turn.duration_s, 3),
    }
    return {METADATA_KEY: facts}


def _chars(turn: Turn) -> int:
    return sum(len(part.text) for part in turn.parts if isinstance(part, TextPart))


def _shape(turn: Turn) -> object:
    """Give what a frame shows besides growing text."""
    marks = [
        part.status if isinstance(part, ToolPart) else type(part).__name__
        for part in turn.parts
        if not isinstance(part, ReasoningPart) or part.text
    ]
    return (*marks, len(turn.permissions), turn.retry)
