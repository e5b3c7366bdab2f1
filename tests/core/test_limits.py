"""Budgets of a turn, and how far it may grow."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from opencode_magic.core.conversation import Conversation
from opencode_magic.core.events import (
    Heartbeat,
    PartDelta,
    PartUpdated,
    PermissionAsked,
    Resynced,
)
from opencode_magic.core.limits import (
    Budget,
    GrowthLimits,
    Size,
    event_chars,
    exceeded,
    overgrown,
)
from opencode_magic.core.parts import (
    FilePart,
    Message,
    OtherPart,
    PatchPart,
    PermissionRequest,
    ReasoningPart,
    TextPart,
    ToolPart,
    Turn,
)

if TYPE_CHECKING:
    from opencode_magic.core.events import Event
    from opencode_magic.core.parts import Part

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


TOOL = ToolPart("p", "m", "c", "bash", "completed", {"a": ["b", {"c": None}]}, output="o" * 100)
PARTS: tuple[Part, ...] = (
    TextPart("p", "m", "x" * 10),
    ReasoningPart("p", "m", "y" * 20),
    TOOL,
    FilePart("p", "m", "text/plain", url="z" * 30),
    PatchPart("p", "m", ("a", "b")),
    OtherPart("p", "m", "snapshot"),
)
REQUEST = PermissionRequest("r", "s", "bash", ("ls",), metadata={"diff": "d" * 1_000})


def conversation_of(*messages: Message, **more: object) -> Conversation:
    return replace(Conversation("s"), messages=messages, **more)  # type: ignore[arg-type] # fields


def test_a_conversation_is_measured_by_what_it_holds() -> None:
    """Text is what the agent said; the whole has the user's prompt, tools and requests too."""
    said = Message("m", "s", "assistant", parts=PARTS)
    asked = Message("u", "s", "user", parts=(TextPart("p", "u", "q" * 5_000),))

    size = Size.of(
        conversation_of(
            asked,
            said,
            permissions=(REQUEST,),
            questions=("q",),
            children=frozenset({"c"}),
            broken=frozenset({"b", "d"}),
        )
    )

    assert (size.text_chars, size.messages, size.parts) == (30, 2, 9)
    assert (size.requests, size.sub_sessions) == (2, 1)
    assert 5_000 + 30 + 100 + 30 + 1_000 < size.total_chars < 8_000


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("text_chars", "characters of text"),
        ("total_chars", "characters in all"),
        ("messages", "messages"),
        ("parts", "parts"),
        ("requests", "open requests"),
        ("sub_sessions", "sub-agents"),
    ],
)
def test_what_is_over_a_limit_of_growth_is_named(name: str, what: str) -> None:
    """At the limit nothing is said; past it one line."""
    within = Size(0, 0, 0, 0, 0, 0)
    limits = GrowthLimits(**{name: 1_234})

    assert overgrown(replace(within, **{name: 1_234}), limits) == ""
    assert overgrown(replace(within, **{name: 1_235}), limits) == (
        f"the turn grew past its limit of 1,234 {what}; the rest is left out"
    )


@pytest.mark.parametrize(
    ("event", "chars"),
    [
        (PartDelta("s", "m", "p", "x" * 1_000), 1_000),
        (PartUpdated("s", TOOL), 100),
        (PermissionAsked(REQUEST), 1_000),
        (
            Resynced("s", (Message("m", "s", "assistant", parts=PARTS),), permissions=(REQUEST,)),
            1_160,
        ),
        (Resynced("s", ()), 0),
        (Heartbeat(), 0),
    ],
)
def test_an_event_weighs_what_it_holds(event: Event, chars: int) -> None:
    """And a little for itself, so that endless empty ones count."""
    assert chars + 200 <= event_chars(event) < chars + 1_800
