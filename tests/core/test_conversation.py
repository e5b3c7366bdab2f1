"""The conversation's reduce: what it is from, not the order in which it came."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_magic.core.conversation import Conversation, join_deltas, reduce
from opencode_magic.core.events import (
    ActivityChanged,
    Connected,
    Event,
    Heartbeat,
    MessageRemoved,
    MessageUpdated,
    PartDelta,
    PartRemoved,
    PartUpdated,
    PermissionAsked,
    PermissionReplied,
    QuestionAsked,
    Resynced,
    SessionCreated,
    SessionFaulted,
    UnknownEvent,
)
from opencode_magic.core.parts import (
    AgentFault,
    Message,
    OtherPart,
    PermissionRequest,
    ReasoningPart,
    Retry,
    TextPart,
    Tokens,
    ToolPart,
    Turn,
)
from tests.core.telling import EMPTY, SESSION, TOLD, TURN, after, answer, text, tool


def test_a_turn_is_what_was_told() -> None:
    """Deltas, then the final part: the whole text once."""
    conversation = after(TOLD)

    assert conversation.messages == TURN
    assert conversation.answers == TURN


@given(st.permutations(TOLD))
def test_any_order_gives_the_same_messages(events: list[Event]) -> None:
    """Parts, deltas and messages may come in any order."""
    assert after(events).messages == TURN


@given(st.lists(st.sampled_from(TOLD), max_size=20))
def test_repeated_events_change_nothing_in_the_end(extra: list[Event]) -> None:
    """An event that comes again, before or after the end, leaves no trace."""
    assert after([*extra, *TOLD, *extra]).messages == TURN


@given(st.integers(0, len(TOLD)), st.integers(0, len(TOLD)))
def test_a_gap_is_filled_from_the_store(start: int, end: int) -> None:
    """Whatever was missed: the stored messages bring what is missing, and nothing twice."""
    start, end = min(start, end), max(start, end)
    seen = [*TOLD[:start], *TOLD[end:], Resynced(SESSION, TURN, "idle", ())]

    assert after(seen) == replace(after(TOLD), activity="idle")


@given(st.integers(0, len(TOLD)))
def test_a_resync_in_the_middle_takes_nothing_away(at: int) -> None:
    """The store has no text of a part that is being written; what was shown stays, then grows."""
    before = after(TOLD[:at])
    stored = tuple(
        replace(
            message,
            parts=tuple(
                replace(part, text="")
                if isinstance(part, TextPart | ReasoningPart) and not part.is_final
                else part
                for part in message.parts
            ),
        )
        for message in before.messages
    )
    resynced = reduce(before, Resynced(SESSION, stored, "busy"))

    assert resynced.messages == before.messages
    assert after(TOLD[at:], resynced).messages == TURN


@given(st.permutations(TOLD))
def test_joined_deltas_are_the_same_as_single_ones(events: list[Event]) -> None:
    """Joining those that follow each other changes only the number of states."""
    joined = join_deltas(events)

    assert after(joined) == after(events)
    assert len(joined) <= len(events)


def test_deltas_are_joined_within_one_part_only() -> None:
    """Text of two parts is never mixed, and other events stay where they were."""
    one, other = PartDelta(SESSION, "m", "p1", "a"), PartDelta(SESSION, "m", "p2", "b")

    joined = join_deltas([one, one, other, Heartbeat(), one, one])

    expected = [replace(one, text="aa"), other, Heartbeat(), replace(one, text="aa")]
    assert joined == expected


def test_deltas_of_two_parts_in_turn_are_joined_too() -> None:
    """A state per delta would copy a part's whole text each time."""
    one, other = PartDelta(SESSION, "m", "p1", "a"), PartDelta(SESSION, "m", "p2", "b")

    joined = join_deltas([one, other] * 100)

    assert joined == [replace(one, text="a" * 100), replace(other, text="b" * 100)]


TEXTS = st.sampled_from(["", SESSION, "ses_2", "msg_01", "prt_01", "x"])
FAULTS = st.builds(AgentFault, TEXTS, TEXTS)
SOME_PARTS = st.one_of(
    st.builds(TextPart, TEXTS, TEXTS, TEXTS, st.booleans()),
    st.builds(ReasoningPart, TEXTS, TEXTS, TEXTS, st.booleans()),
    st.builds(
        ToolPart, TEXTS, TEXTS, TEXTS, TEXTS, st.sampled_from(["pending", "running", "error"])
    ),
    st.builds(OtherPart, TEXTS, TEXTS, TEXTS),
)
MESSAGES = st.builds(
    Message,
    TEXTS,
    TEXTS,
    st.sampled_from(["user", "assistant"]),
    parts=st.lists(SOME_PARTS, max_size=3).map(tuple),
    completed_ms=st.sampled_from([0, 1]),
)
REQUESTS = st.builds(PermissionRequest, TEXTS, TEXTS, TEXTS)
ANY_EVENT: st.SearchStrategy[Event] = st.one_of(
    st.just(Connected()),
    st.builds(UnknownEvent, TEXTS),
    st.builds(SessionCreated, TEXTS, TEXTS),
    st.builds(ActivityChanged, TEXTS, st.sampled_from(["idle", "busy", "retry"])),
    st.builds(MessageUpdated, MESSAGES),
    st.builds(MessageRemoved, TEXTS, TEXTS),
    st.builds(PartUpdated, TEXTS, SOME_PARTS),
    st.builds(PartDelta, TEXTS, TEXTS, TEXTS, TEXTS),
    st.builds(PartRemoved, TEXTS, TEXTS, TEXTS),
    st.builds(PermissionAsked, REQUESTS),
    st.builds(PermissionReplied, TEXTS, TEXTS),
    st.builds(QuestionAsked, TEXTS, TEXTS, TEXTS),
    st.builds(SessionFaulted, TEXTS, FAULTS),
    st.builds(Resynced, TEXTS, st.lists(MESSAGES, max_size=3).map(tuple)),
)


@given(st.lists(ANY_EVENT, max_size=25))
def test_nothing_breaks_the_conversation(events: list[Event]) -> None:
    """Any events in any order leave a conversation whose messages and parts are in order, once."""
    conversation = after(events)

    ids = [message.message_id for message in conversation.messages]
    assert ids == sorted(set(ids))
    assert conversation.session_id == SESSION


@pytest.mark.parametrize(
    "event",
    [
        Connected(),
        UnknownEvent("x", SESSION),
        MessageUpdated(replace(answer(1), session_id="ses_9")),
        PartUpdated("ses_9", text(1, "a")),
        ActivityChanged("ses_9", "idle"),
        PermissionAsked(PermissionRequest("per_1", "ses_9", "bash")),
        SessionCreated("ses_8", "ses_9"),
    ],
)
def test_what_is_not_its_own_leaves_it_as_it_was(event: Event) -> None:
    """Other sessions' events give the very same value."""
    conversation = after(TOLD)

    assert reduce(conversation, event) is conversation


def test_messages_before_the_turn_are_left_out() -> None:
    """A turn starts after the last message before it, also in a resync."""
    start = Conversation(SESSION, after_id="msg_01")

    conversation = after([*TOLD, Resynced(SESSION, TURN)], start)

    assert conversation.messages == TURN[1:]


def test_summaries_and_the_users_own_words_are_no_answers() -> None:
    """A compaction's summary is not what the agent answered."""
    summary = replace(answer(5), is_summary=True)
    user = replace(answer(6), role="user")

    conversation = after([*TOLD, MessageUpdated(summary), MessageUpdated(user)])

    assert conversation.answers == TURN


def test_a_later_attempt_replaces_the_one_that_broke() -> None:
    """What the provider said before it hung up goes when it speaks again."""
    broken, again = text(1, "Hello wor", is_final=False), text(2, "Hello world.")
    retry = ActivityChanged(SESSION, "retry", Retry(1, "reset", 5))

    waiting = after([PartUpdated(SESSION, broken), retry])
    spoken = after([PartUpdated(SESSION, again)], waiting)

    assert [part for m in waiting.messages for part in m.parts] == [broken]
    assert waiting.retry == Retry(1, "reset", 5)
    assert [part for m in spoken.messages for part in m.parts] == [again]


def test_a_session_that_works_again_waits_no_more() -> None:
    """The wait is shown only while it lasts."""
    waiting = after([ActivityChanged(SESSION, "retry", Retry(1, "reset", 5))])

    assert after([ActivityChanged(SESSION, "busy")], waiting) == replace(EMPTY, activity="busy")


def test_a_partial_answer_stays_where_nothing_came_after_it() -> None:
    """The store forgets the text of an attempt that broke off; the reader has seen it."""
    broken = text(1, "Hello wor", is_final=False)
    stored = answer(1, replace(broken, text=""))

    conversation = after([PartUpdated(SESSION, broken), Resynced(SESSION, (stored,))])

    assert conversation.messages == (answer(1, broken),)


def test_the_store_forgets_what_a_later_attempt_replaced() -> None:
    """Where the same message has text after it, the broken attempt is empty."""
    broken, again = text(1, "Hello wor", is_final=False), text(2, "Hello world.")
    stored = answer(1, replace(broken, text=""), again)

    conversation = after([PartUpdated(SESSION, broken), Resynced(SESSION, (stored,))])

    assert conversation.messages == (stored,)


def test_a_tool_never_goes_back() -> None:
    """A running state that comes after the end is old."""
    done = tool(1, "completed", "a")

    conversation = after([PartUpdated(SESSION, done), PartUpdated(SESSION, tool(1, "running"))])

    assert conversation.messages[0].parts == (done,)


def test_an_announcement_after_the_end_is_old() -> None:
    """The whole text stays."""
    whole = text(1, "Hello.")
    empty = replace(whole, text="", is_final=False)

    conversation = after([PartUpdated(SESSION, whole), PartUpdated(SESSION, empty)])

    assert conversation.messages[0].parts == (whole,)


def test_parts_of_other_kinds_that_the_store_lacks_stay() -> None:
    """A patch is announced after its message is over."""
    patch = OtherPart("prt_09", "msg_01", "patch")

    conversation = after(
        [PartUpdated(SESSION, patch), Resynced(SESSION, (answer(1, text(1, "a")),))]
    )

    assert conversation.messages == (answer(1, text(1, "a"), patch),)


def test_a_delta_before_its_part_is_text_until_it_is_known() -> None:
    """It turns out to be reasoning, and keeps its words."""
    delta = PartDelta(SESSION, "msg_01", "prt_01", "Hm")
    part = ReasoningPart("prt_01", "msg_01", "")

    conversation = after([delta, PartUpdated(SESSION, part)])

    assert conversation.messages[0].parts == (replace(part, text="Hm"),)


def test_a_delta_for_a_tool_changes_nothing() -> None:
    """Only text grows."""
    conversation = after(
        [PartUpdated(SESSION, tool(1, "running")), PartDelta(SESSION, "msg_01", "prt_01", "x")]
    )

    assert conversation.messages[0].parts == (tool(1, "running"),)


def test_removed_messages_and_parts_are_gone() -> None:
    """A revert takes them away."""
    events: list[Event] = [
        PartRemoved(SESSION, "msg_01", "prt_01"),
        MessageRemoved(SESSION, "msg_03"),
    ]

    conversation = after([*TOLD, *events])

    assert conversation.messages == (answer(1, tool(2, "completed", "a.txt")),)


def test_requests_of_sub_agents_are_shown_until_they_are_answered() -> None:
    """A child's permission belongs to the turn; the same request twice is one."""
    request = PermissionRequest("per_1", "ses_3", "bash")
    asked: list[Event] = [
        SessionCreated("ses_2", SESSION),
        SessionCreated("ses_3", "ses_2"),
        PermissionAsked(request),
        PermissionAsked(request),
    ]

    conversation = after(asked)

    assert conversation.permissions == (request,)
    assert reduce(conversation, PermissionReplied("ses_3", "per_1")).permissions == ()
    assert after([Resynced(SESSION, (), "busy", ())], conversation).permissions == ()


def test_a_question_is_noted_once() -> None:
    """It is refused by whoever cranks the turn."""
    asked = QuestionAsked(SESSION, "que_1", "Which?")

    assert after([asked, asked]).questions == ("que_1",)


def test_a_fault_without_a_session_counts() -> None:
    """OpenCode may leave the session out."""
    fault = AgentFault("UnknownError", "gone")

    assert after([SessionFaulted("", fault)]).fault == fault
    assert after([SessionFaulted(SESSION, fault)]).fault == fault


def test_a_turn_adds_up_its_messages() -> None:
    """Text with a blank line between, tokens of all steps, cost where it is known."""
    turn = Turn(SESSION, "hi", "done", messages=TURN, started_ms=1_000, ended_ms=3_500)

    assert turn.text == "Let me look.\n\nDone: a.txt"
    assert turn.tools == (tool(2, "completed", "a.txt"),)
    assert turn.tokens == Tokens(20, 4)
    assert (turn.tokens.total, turn.cost, turn.duration_s) == (24, None, 2.5)
    assert replace(turn, is_cost_known=True, ended_ms=0).cost == 0
