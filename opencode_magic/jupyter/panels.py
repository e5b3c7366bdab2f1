"""The session's status -> the one panel that is live, under the cell that asked for it last."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from IPython.core.interactiveshell import InteractiveShell

    from opencode_magic.core.status import Status
    from opencode_magic.jupyter.panel import Panel
    from opencode_magic.session.session import Session

EXTENSION_S = 30 * 60.0


class Panels:
    """Shows a session's status. Only the newest panel follows it; older ones keep their card."""

    def __init__(self, shell: InteractiveShell | None, session: Session) -> None:
        self._shell = shell
        self._session = session
        self._panel: Panel | None = None
        self._lock = threading.RLock()  # events come from more than one thread
        self._unsubscribe = session.subscribe(self._follow)

    def show(self) -> None:
        """Show a panel under the running cell."""
        self._renew().show(self._session.status)

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Show a panel that fills in; what is launched in the block stands in it at the end.

        Where nothing was launched there is none: what an earlier launch left is not its outcome.
        """
        before = self._session.status
        panel = self._renew()
        try:
            yield
        finally:
            if self._session.status != before:
                panel.show(self._session.status)

    def close(self) -> None:
        """Follow the session no more."""
        self._unsubscribe()
        with self._lock:
            if self._panel is not None:
                self._panel.retire()
            self._panel = None

    def _follow(self, status: Status) -> None:
        """Show what changed. A terminal is only shown what a cell asks for."""
        with self._lock:
            if self._panel is not None and self._panel.way == "frames":
                self._panel.show(status)

    def _renew(self) -> Panel:
        from opencode_magic.jupyter.panel import (  # noqa: PLC0415 - loads the renderers
            Panel,
            PanelActions,
        )

        session = self._session
        actions = PanelActions(
            prove=session.prove,
            extend=lambda: session.sandbox.extend(EXTENSION_S),
            stop=session.stop_turn,
            down=session.down,
        )
        with self._lock:
            if self._panel is not None:
                self._panel.retire()
            self._panel = Panel(self._shell, actions)
            return self._panel
