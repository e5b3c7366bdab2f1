"""``%opencode_up``, ``_prove``, ``_status``, ``_doctor``, ``_down``: the sandbox's own magics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments
from traitlets import Unicode

from opencode_magic.jupyter import cards
from opencode_magic.jupyter.interrupts import interrupt_in_one_line
from opencode_magic.jupyter.magics.arguments import parse, up_arguments
from opencode_magic.jupyter.panels import Panels
from opencode_magic.session import api

if TYPE_CHECKING:
    from argparse import Namespace

    from IPython.core.interactiveshell import InteractiveShell

    from opencode_magic.session.session import Session
    from opencode_magic.settings import Settings


@magics_class
class OpencodeMagics(Magics):
    """The magics that launch, prove, show and end the sandbox. ``session`` is what they act on."""

    home = Unicode("", help="Where sandboxes run: local or cloud; empty chooses.").tag(config=True)
    model = Unicode("", help="The model, as provider/model; empty chooses.").tag(config=True)
    base_url = Unicode("", help="An OpenAI-compatible endpoint.").tag(config=True)

    def __init__(self, shell: InteractiveShell, session: Session) -> None:
        super().__init__(shell)
        self.session = session
        self.panels = Panels(shell, session)

    def close(self) -> None:
        """Take everything down that the magics hold."""
        self.session.down()
        self.panels.close()

    @no_var_expand
    @magic_arguments()
    @up_arguments
    @line_magic
    def opencode_up(self, line: str) -> None:
        """Launch the agent in a locked sandbox, prove the wall, and show the panel.

        Examples::

            %opencode_up
            %opencode_up --home local --time 30
            %opencode_up --model anthropic/claude-sonnet-4-6
        """
        given = parse(self.opencode_up, line)
        settings = self._settings(given)
        if self.session.is_alive():
            status = self.session.up(settings, has_time=given.time is not None)
            print(f"{status.sandbox_name} is up already and is used again.")  # noqa: T201 - the cell's text
            self.panels.show()
            return
        if notice := api.billing_notice(settings):
            print(notice)  # noqa: T201 - what costs money is said before it starts
        with self.panels.filling(), interrupt_in_one_line("nothing was left running."):
            self.session.up(settings, allow_unproven=given.unproven)

    @no_var_expand
    @magic_arguments()
    @line_magic
    def opencode_prove(self, line: str) -> None:
        """Try allowed and blocked hosts from inside the sandbox, and show what was seen."""
        parse(self.opencode_prove, line)
        cards.show_proof(self.session.prove())

    @no_var_expand
    @magic_arguments()
    @line_magic
    def opencode_status(self, line: str) -> None:
        """Say in one line how the sandbox is now, and show the panel, which follows it."""
        parse(self.opencode_status, line)
        self.session.is_alive()
        print(cards.status_line(self.session.status))  # noqa: T201 - the cell's text
        self.panels.show()

    @no_var_expand
    @magic_arguments()
    @line_magic
    def opencode_doctor(self, line: str) -> None:
        """Look at everything a launch needs: what works, what does not, and the next steps."""
        parse(self.opencode_doctor, line)
        cards.show_checks((*api.doctor(), *cards.front_end_checks(self.shell)))

    @no_var_expand
    @magic_arguments()
    @argument(
        "--discard",
        action="store_true",
        help="Delete the agent's files. Otherwise they are kept for 7 days.",
    )
    @line_magic
    def opencode_down(self, line: str) -> None:
        """Stop and remove the sandbox; say what was removed and what was kept."""
        given = parse(self.opencode_down, line)
        try:
            report = self.session.down(discard=given.discard)
        except KeyboardInterrupt:
            may_run = "the sandbox may still run: %opencode_down again."
            is_up = self.session.is_up
            with interrupt_in_one_line(
                may_run if is_up else "the sandbox is removed all the same."
            ):
                raise
        cards.show_down(report)

    def _settings(self, given: Namespace) -> Settings:
        return api.settings(
            home=given.home or self.home,
            model=given.model or self.model,
            base_url=given.base_url or self.base_url,
            minutes=given.time,
            mappings=dict(given.map),
            is_strict=given.strict,
        )
