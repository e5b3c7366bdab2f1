"""Budgets of a turn."""

from __future__ import annotations

import pytest

from opencode_magic.core.limits import Budget, exceeded
from opencode_magic.core.parts import Message, ToolPart, Turn

TURN = Turn(
    "ses_1",
    "hi",
    "running",
    messages=(
        Message(
            "msg_1",
            "ses_1",
            "assistant",
            parts=(ToolPart("prt_1", "msg_1", "c", "bash", "running"),),
            cost=0.5,
        ),
    ),
    is_cost_known=True,
)


@pytest.mark.parametrize(
    ("budget", "line"),
    [
        (Budget(), ""),
        (Budget(cost=0.5, time_s=9, tool_calls=1), ""),
        (Budget(time_s=8.5), "the turn took longer than its limit of 8.5 s"),
        (Budget(tool_calls=0), "the turn made more than its limit of 0 tool calls"),
        (Budget(cost=0.25), "the turn cost $0.5000, more than its limit of $0.25"),
    ],
)
def test_a_turn_over_a_limit_is_told_which(budget: Budget, line: str) -> None:
    """One plain line; at the limit is within it."""
    assert exceeded(budget, TURN, elapsed_s=9) == line


def test_an_unknown_cost_is_within_every_limit() -> None:
    """What is not known cannot be compared."""
    turn = Turn("ses_1", "hi", "running", messages=TURN.messages)

    assert exceeded(Budget(cost=0.01), turn, elapsed_s=1) == ""
