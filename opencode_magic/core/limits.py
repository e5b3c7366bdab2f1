"""What a turn may cost, in money, time and tool calls; a turn and a budget to what is over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opencode_magic.core.parts import Turn


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one turn. None is no limit."""

    cost: float | None = None
    """US dollars; only counts where the provider's prices are known."""
    time_s: float | None = None
    tool_calls: int | None = None


def exceeded(budget: Budget, turn: Turn, *, elapsed_s: float) -> str:
    """Say which limit the turn is over, as one plain line; empty while it is within all."""
    if budget.time_s is not None and elapsed_s > budget.time_s:
        return f"the turn took longer than its limit of {budget.time_s:g} s"
    if budget.tool_calls is not None and len(turn.tools) > budget.tool_calls:
        return f"the turn made more than its limit of {budget.tool_calls} tool calls"
    cost = turn.cost
    if budget.cost is not None and cost is not None and cost > budget.cost:
        return f"the turn cost ${cost:.4f}, more than its limit of ${budget.cost:g}"
    return ""
