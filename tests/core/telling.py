"""Conversations for tests, and the events that tell of them."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce as fold
from typing import TYPE_CHECKING

from opencode_magic.core.conversation import Conversation, reduce
from opencode_magic.core.events import (
    Event,
    MessageUpdated,
    PartDelta,
    PartUpdated,
)
from opencode_magic.core.parts import (
    Message,
    ReasoningPart,
    TextPart,
    Tokens,
    ToolPart,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opencode_magic.core.parts import Part

SESSION = "ses_1"
EMPTY = Conversation(SESSION)


def after(events: Iterable[Event], start: Conversation = EMPTY) -> Conversation:
    return fold(reduce, events, start)


def answer(number: int, *parts: Part, is_done: bool = True) -> Message:
    return Message(
        message_id=f"msg_{number:02}",
        session_id=SESSION,
        role="assistant",
        parent_id="msg_00",
        parts=parts,
        tokens=Tokens(10, 2),
        finish="stop" if is_done else "",
        created_ms=100 + number,
        completed_ms=200 + number if is_done else 0,
        provider_id="demo",
        model_id="scripted",
    )


def text(number: int, said: str, *, message: int = 1, is_final: bool = True) -> TextPart:
    return TextPart(f"prt_{number:02}", f"msg_{message:02}", said, is_final=is_final)


def tool(number: int, status: str, output: str = "", *, message: int = 1) -> ToolPart:
    return ToolPart(f"prt_{number:02}", f"msg_{message:02}", "c", "bash", status, output=output)  # type: ignore[arg-type] # the tests name real ones


def told(message: Message, pieces: int = 3) -> list[Event]:
    """Give the events that tell of a message, in the order in which OpenCode sends them."""
    opening = replace(message, parts=(), finish="", completed_ms=0)
    events: list[Event] = [MessageUpdated(opening)]
    for part in message.parts:
        if isinstance(part, TextPart | ReasoningPart):
            events.append(PartUpdated(SESSION, replace(part, text="", is_final=False)))
            size = max(1, len(part.text) // pieces)
            events += [
                PartDelta(SESSION, part.message_id, part.part_id, part.text[at : at + size])
                for at in range(0, len(part.text), size)
            ]
        if isinstance(part, ToolPart):
            events.append(PartUpdated(SESSION, replace(part, status="pending", output="")))
            events.append(PartUpdated(SESSION, replace(part, status="running", output="")))
        events.append(PartUpdated(SESSION, part))
    return [
        *events,
        MessageUpdated(replace(message, parts=(), completed_ms=0)),
        MessageUpdated(replace(message, parts=())),
    ]


TURN = (
    answer(1, text(1, "Let me look."), tool(2, "completed", "a.txt")),
    answer(
        3,
        ReasoningPart("prt_03", "msg_03", "Hm.", is_final=True),
        text(4, "Done: a.txt", message=3),
    ),
)
TOLD = [event for message in TURN for event in told(message)]
