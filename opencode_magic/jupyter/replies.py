"""One ``%%ask``: streams the turn under its cell, and knows where its ``Reply`` stands already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opencode_magic.jupyter import cards
from opencode_magic.jupyter.approval import RefusingApprover, choose_approver

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

    from opencode_magic.session.reply import Reply
    from opencode_magic.session.session import Session


class Replies:
    """Runs asks in one shell. ``cell_count`` tells one run of a cell from the next."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.cell_count = 0
        self._shell = shell
        shell.events.register("pre_run_cell", self._count)

    def close(self) -> None:
        """Stop counting."""
        self._shell.events.unregister("pre_run_cell", self._count)

    def run(self, session: Session, cell: str, given: Namespace) -> Reply:
        """Ask, stream, keep the reply under the name that the user gave, and give it."""
        from opencode_magic.jupyter.view import CellView  # noqa: PLC0415 - Pygments is heavy
        from opencode_magic.session.ask import Asking, ask_agent  # noqa: PLC0415 - loads httpx

        asks = given.permissions == "ask"
        return ask_agent(
            session,
            Asking(
                text=cell,
                keep_going=given.keep_going,
                is_new=given.new,
                permissions=given.permissions,
            ),
            view=CellView(self._shell),
            approver=choose_approver(self._shell) if asks else RefusingApprover(),
            keep=lambda reply: self._keep(reply, given.out),
            shower=self.shower(),
        )

    def shower(self) -> Callable[[Reply], None]:
        """Give how a reply that is made now shows itself."""
        return _Shower(self, self.cell_count)

    def _keep(self, reply: Reply, name: str | None) -> None:
        if name is not None:
            self._shell.push({name: reply})

    def _count(self, _info: object = None) -> None:
        self.cell_count += 1


class _Shower:
    """Shows a reply: nothing in the cell that streamed it, its whole card anywhere else."""

    def __init__(self, replies: Replies, cell_count: int) -> None:
        self._replies = replies
        self._cell_count = cell_count

    def __call__(self, reply: Reply) -> None:
        if self._replies.cell_count != self._cell_count:
            cards.show(reply.blocks)
        elif cards.is_terminal():
            # IPython 9.18 leaves "Out[2]: " without an end of line.
            print(f"<Reply: {reply.summary}>")  # noqa: T201 - the terminal's own line
