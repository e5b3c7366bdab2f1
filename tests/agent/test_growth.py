"""Events that would make a conversation larger than a kernel can bear."""

from __future__ import annotations

from opencode_magic.agent.growth import Growth
from opencode_magic.agent.inbox import Inbox
from opencode_magic.agent.outcome import Posted
from opencode_magic.core.conversation import Conversation
from opencode_magic.core.events import PartDelta, Resynced
from opencode_magic.core.limits import GrowthLimits, event_chars
from opencode_magic.core.parts import Message, TextPart

SESSION = "ses_1"
LIMITS = GrowthLimits(text_chars=10_000, events_bytes=10 * 1024**2)


def delta(text: str, part: int = 1) -> PartDelta:
    return PartDelta(SESSION, "msg_1", f"prt_{part}", text)


def grown(growth: Growth, *events: PartDelta) -> str:
    for event in events:
        growth.add(event, event_chars(event))
    while growth.is_behind:
        growth.work()
    return growth.problem


def test_what_is_at_the_limit_is_kept_whole() -> None:
    """One character more is left out, and nothing after it changes anything."""
    growth = Growth(Conversation(SESSION), LIMITS)

    assert grown(growth, *[delta("x" * 100)] * 99, delta("x" * 100)) == ""
    whole = growth.conversation
    assert grown(growth, delta("y" * 20_000)) != ""
    assert grown(growth, delta("z")) != ""

    assert growth.conversation is whole
    assert [len(part.text) for part in whole.messages[0].parts if isinstance(part, TextPart)] == [
        10_000
    ]


def test_events_that_add_nothing_count_too() -> None:
    """A stream may not go on for ever, whatever it says."""
    growth = Growth(Conversation(SESSION), LIMITS)

    assert grown(growth, *[delta("")] * 20_000) == ""
    assert "10 MB of events" in grown(growth, *[delta("")] * 40_000)


def test_what_the_server_stored_has_the_same_limit() -> None:
    """Where it is too much, what the stream brought stays."""
    growth = Growth(Conversation(SESSION), LIMITS)
    grown(growth, delta("The beginning."))
    before = growth.conversation
    part = TextPart("prt_1", "msg_1", "x" * 20_000, is_final=True)

    growth.take_stored(
        Resynced(SESSION, (Message("msg_1", SESSION, "assistant", parts=(part,), completed_ms=1),))
    )

    assert "characters of text" in growth.problem
    assert growth.conversation is before


def test_a_full_inbox_takes_no_more_until_it_is_emptied() -> None:
    """One item always fits, however large; the POST's end always does."""
    inbox = Inbox(limit_chars=1_000)
    large, small, posted = delta("x" * 5_000), delta("y"), Posted(None)

    assert inbox.offer(large)
    assert not inbox.offer(small)
    inbox.post(posted)

    assert inbox.posted is posted
    assert [item for item, _ in inbox.collect(1, due_s=0)] == [large, posted]
    assert inbox.collect(0, due_s=0) == []
    assert inbox.offer(small)
