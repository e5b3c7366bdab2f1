"""Has one turn on a server, in a process of its own, and prints how it ended and what it took.

python -m tests.agent.victim URL PASSWORD [stop after so many seconds]
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from opencode_magic.agent.client import AgentClient
from opencode_magic.agent.reader import EventReader
from opencode_magic.agent.turn import run_turn
from opencode_magic.core.prompt import Prompt
from opencode_magic.jupyter.view import CellView
from tests.agent.views import ToldApprover
from tests.jupyter.screens import Screen

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from opencode_magic.core.conversation import Turn


class CountingScreen(Screen):
    """Keeps the last message, as a notebook does, and how much came in all."""

    published_bytes = 0

    def publish(self, *args: Any, **more: Any) -> None:  # noqa: ANN401 - whatever the base takes
        """Keep it."""
        super().publish(*args, **more)
        self.messages[:] = self.messages[-1:]
        self.published_bytes += self.messages[-1].size_bytes


@dataclass
class NotebookView:
    """Shows a turn as a notebook does, and keeps it."""

    cell: CellView
    last: Turn | None = None
    finals: int = 0

    def show(self, turn: Turn, *, is_final: bool = False) -> None:
        """Keep it, and show it."""
        self.last = turn
        self.finals += is_final
        self.cell.show(turn, is_final=is_final)


def main(url: str, password: str, stop_after_s: str = "") -> None:
    """Have the turn."""
    client = AgentClient(url, password, "/work")
    reader = EventReader(client)
    reader.start()
    session_id = client.create_session("victim")
    screen = CountingScreen()
    view = NotebookView(CellView(cast("InteractiveShell", screen), way="frames"))
    if stop_after_s:
        # As a front end's Interrupt: a signal to the main thread.
        threading.Timer(float(stop_after_s), signal.raise_signal, (signal.SIGINT,)).start()
    is_interrupted = False
    started = time.monotonic()
    try:
        run_turn(client, reader, session_id, Prompt("x"), view=view, approver=ToldApprover())
    except KeyboardInterrupt:
        is_interrupted = True
    took_s = time.monotonic() - started
    reader.close()
    client.close()
    turn = view.last
    assert turn is not None
    said = {
        "state": turn.state,
        "error": turn.error,
        "next_step": turn.next_step,
        "text": turn.text[:200],
        "text_chars": len(turn.text),
        "tools": len(turn.tools),
        "parts": len(turn.parts),
        "is_interrupted": is_interrupted,
        "finals": view.finals,
        "took_s": took_s,
        "shown_bytes": screen.messages[-1].size_bytes,
        "published_bytes": screen.published_bytes,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "threads": [thread.name for thread in threading.enumerate()],
    }
    print(json.dumps(said))  # noqa: T201 - the test reads it


if __name__ == "__main__":
    main(*sys.argv[1:])
