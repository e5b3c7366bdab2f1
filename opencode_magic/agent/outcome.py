"""A conversation and how its POST returned, to the ``Turn`` that is shown and kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from opencode_magic.agent.faults import ABORTED, explain, explain_error
from opencode_magic.core.parts import Turn
from opencode_magic.errors import AgentConnectionError

if TYPE_CHECKING:
    from opencode_magic.core.conversation import Conversation
    from opencode_magic.core.parts import Message, PermissionRequest, TurnState
    from opencode_magic.errors import AgentError


@dataclass(frozen=True, slots=True)
class Posted:
    """The blocking POST has returned: with the last message, or with an error."""

    message: Message | None
    error: AgentError | None = None

    @property
    def is_cut(self) -> bool:
        """Whether the connection broke, so that the turn may still go on."""
        return isinstance(self.error, AgentConnectionError)


@dataclass(frozen=True, slots=True)
class Halt:
    """Why we stopped a turn: as one line, empty for the user's wish, and what to do next."""

    reason: str = ""
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked, and when."""

    session_id: str
    prompt_text: str
    model: str
    is_scripted: bool
    started_ms: int


def turn_so_far(asked: Asked, conversation: Conversation) -> Turn:
    """Give the turn while it runs."""
    turn = _turn(asked, conversation, "running")
    return replace(turn, retry=conversation.retry, permissions=conversation.permissions)


def turn_at_end(
    asked: Asked,
    conversation: Conversation,
    posted: Posted | None,
    *,
    halt: Halt | None,
    refused: PermissionRequest | None,
    ended_ms: int,
) -> Turn:
    """Give the turn at its end.

    Args:
        asked: What was asked.
        conversation: What is known of it.
        posted: How the POST returned; None where it did not.
        halt: Why we stopped it; None where we did not.
        refused: The permission request that was rejected last.
        ended_ms: When it ended.
    """
    state, error, next_step = _outcome(conversation, posted, halt, refused)
    turn = replace(
        _turn(asked, conversation, state), error=error, next_step=next_step, ended_ms=ended_ms
    )
    if state != "failed" or halt is not None:
        return turn
    last = turn.messages[-1:]
    return replace(turn, fault=(last[0].fault if last else None) or conversation.fault)


def _turn(asked: Asked, conversation: Conversation, state: TurnState) -> Turn:
    answers = conversation.answers
    named = next((message for message in reversed(answers) if message.model_id), None)
    return Turn(
        session_id=asked.session_id,
        prompt_text=asked.prompt_text,
        state=state,
        messages=answers,
        model=f"{named.provider_id}/{named.model_id}" if named else asked.model,
        is_scripted=asked.is_scripted,
        started_ms=asked.started_ms,
        is_cost_known=any(message.cost > 0 for message in answers),
    )


NEXT_ASK_AGAIN = "ask again, or launch with another model: %opencode_up --model NAME"
NEXT_AFTER_LIMIT = (
    "wait and ask again, or launch anew: %opencode_down, then %opencode_up --model NAME"
)
NEXT_AFTER_GROWTH = (
    "ask for less at once; where the agent should not have sent so much, launch anew: "
    "%opencode_down, then %opencode_up"
)

Outcome = tuple["TurnState", str, str]
"""The state, one line about it, and the next step."""


def _outcome(
    conversation: Conversation,
    posted: Posted | None,
    halt: Halt | None,
    refused: PermissionRequest | None,
) -> Outcome:
    if halt is not None and halt.reason:
        return "failed", halt.reason, halt.next_step
    if halt is not None:
        return "stopped", "" if posted else "the agent server did not confirm the stop", ""
    if posted is not None and posted.error is not None:
        return "failed", *explain_error(posted.error, conversation.fault)
    message = posted.message if posted is not None else None
    # After an early abort the POST returns the user's own message and no fault.
    if message is None or message.role == "user":
        return "stopped", "", ""
    return _answered(message, refused)


def _answered(message: Message, refused: PermissionRequest | None) -> Outcome:
    if message.fault is not None:
        if message.fault.name == ABORTED:
            return "stopped", "", ""
        return "failed", *explain(message.fault)
    if message.finish == "error":
        return "failed", "the model ended its answer with an error", NEXT_ASK_AGAIN
    if refused is not None and message.finish == "tool-calls":
        patterns = ", ".join(refused.patterns[:3])
        return "refused", f"no leave was given for {refused.permission}: {patterns}", ""
    return "done", "", ""


def gone(error: AgentError) -> AgentConnectionError:
    """Give the error for a server that ended in the middle of a turn."""
    return AgentConnectionError(
        f"OpenCode ended in the middle of the turn ({error.message})",
        next_step="launch again: %opencode_up",
    )


def duration(seconds: float) -> str:
    """Give a length of time as people say it."""
    if seconds < 120:  # noqa: PLR2004 - from two minutes on, minutes read best
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
