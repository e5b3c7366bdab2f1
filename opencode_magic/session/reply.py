"""A finished turn -> ``Reply``: what an ask returns, to be kept, printed and shown again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from opencode_magic.core.conversation import Tokens, ToolPart, Turn, TurnState
    from opencode_magic.core.receipt import Receipt
    from opencode_magic.render.blocks import Block


@dataclass(frozen=True, repr=False, eq=False)
class Reply:
    """What the agent answered, with what it did and what it reached.

    It prints as its text. In a notebook it shows its card, except as the value of the cell that it
    was streamed into: there the answer stands already.
    """

    turn: Turn
    shower: Callable[[Reply], None] | None = field(default=None)
    """How a notebook shows it; None leaves that to the front end."""

    @property
    def text(self) -> str:
        """All text the agent said, one blank line between parts."""
        return self.turn.text

    @property
    def tools(self) -> tuple[ToolPart, ...]:
        """The tool calls, oldest first."""
        return self.turn.tools

    @property
    def tokens(self) -> Tokens:
        """The sum over all steps."""
        return self.turn.tokens

    @property
    def cost(self) -> float | None:
        """US dollars, or None where it is not known."""
        return self.turn.cost

    @property
    def receipt(self) -> Receipt | None:
        """What this turn reached and what was blocked; None where it never started."""
        return self.turn.receipt

    @property
    def state(self) -> TurnState:
        """How the turn ended: done, stopped, refused or failed."""
        return self.turn.state

    @property
    def error(self) -> str:
        """Why it was refused or failed, as one plain line; empty otherwise."""
        return self.turn.error

    @property
    def model(self) -> str:
        """``provider/model``."""
        return self.turn.model

    @property
    def duration_s(self) -> float:
        """Seconds from the prompt to the end."""
        return self.turn.duration_s

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The reply as it is shown, before markup."""
        from opencode_magic.render.blocks import turn_blocks  # noqa: PLC0415 - Pygments is heavy

        return turn_blocks(self.turn)

    @property
    def summary(self) -> str:
        """How it ended, as one short line."""
        tokens = self.tokens.total
        return f"{self.state} in {self.duration_s:.1f} s, {tokens} tokens"

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<Reply: {self.summary}>"

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        from opencode_magic.render.html import render_html  # noqa: PLC0415 - Pygments is heavy
        from opencode_magic.render.text import render_text  # noqa: PLC0415 - the same

        blocks = self.blocks
        return {"text/plain": render_text(blocks), "text/html": render_html(blocks)}

    def _ipython_display_(self) -> None:
        if self.shower is None:
            raise NotImplementedError
        self.shower(self)
