"""``%%ask``: the cell's text goes to the agent, its answer streams in under the cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments

from opencode_magic.jupyter.interrupts import interrupt_in_one_line
from opencode_magic.jupyter.magics.arguments import parse, variable_name
from opencode_magic.jupyter.replies import Replies

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from opencode_magic.session.reply import Reply
    from opencode_magic.session.session import Session


@magics_class
class AskMagics(Magics):
    """The magic that asks. ``session`` is the one that ``%opencode_up`` launches."""

    def __init__(self, shell: InteractiveShell, session: Session) -> None:
        super().__init__(shell)
        self.session = session
        self.replies = Replies(shell)

    def close(self) -> None:
        """Take the shell's events back."""
        self.replies.close()

    @no_var_expand
    @magic_arguments()
    @argument(
        "-o",
        "--out",
        type=variable_name,
        default=None,
        metavar="NAME",
        help="Keep the Reply in this variable, also where the turn is stopped or fails.",
    )
    @argument(
        "--new",
        action="store_true",
        help="Begin a new conversation; the files stay.",
    )
    @argument(
        "--permissions",
        choices=("allow", "ask"),
        default="allow",
        help="Let the agent run commands and edit files in its sandbox, or ask you each time.",
    )
    @argument(
        "--keep-going",
        action="store_true",
        help="Give the Reply of a failed turn instead of raising TurnFailed.",
    )
    @cell_magic
    def ask(self, line: str, cell: str) -> Reply:
        """Ask the agent in the sandbox, and stream its answer under the cell.

        The text goes as it stands: braces and dollar signs have no meaning. The value of the cell
        is the Reply.

        Examples::

            %%ask -o answer
            List the files here, and say what each is for.
        """
        given = parse(self.ask, line, sign="%%")
        if not cell.strip():
            msg = "%%ask has no text: write the prompt below it (%%ask? lists the flags)"
            raise UsageError(msg)
        with interrupt_in_one_line("the turn is stopped, and what had come is kept."):
            return self.replies.run(self.session, cell, given)
