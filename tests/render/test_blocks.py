from __future__ import annotations

from dataclasses import replace

import pytest

from opencode_magic.core.parts import (
    Message,
    Part,
    PatchPart,
    ReasoningPart,
    TextPart,
    ToolPart,
    Turn,
)
from opencode_magic.core.receipt import HostCount, Receipt
from opencode_magic.errors import SandboxLaunchError, TurnFailed
from opencode_magic.render.blocks import (
    error_blocks,
    permission_blocks,
    receipt_line,
    turn_blocks,
)
from opencode_magic.render.html import render_html
from opencode_magic.render.shapes import (
    Answer,
    Block,
    Card,
    Fold,
    Footer,
    Notice,
    Prose,
    Row,
    Span,
)
from tests.render.samples import PERMISSION, RECEIPT, TURN


def _with_parts(*parts: Part, **changes: object) -> Turn:
    message = replace(TURN.messages[0], parts=parts)
    return replace(TURN, messages=(message,), **changes)  # type: ignore[arg-type] # - fields


def _inner(turn: Turn) -> tuple[Block, ...]:
    (answer,) = turn_blocks(turn)
    assert isinstance(answer, Answer)
    return answer.blocks


def _footer_words(turn: Turn) -> list[str]:
    footer = _inner(turn)[-1]
    assert isinstance(footer, Footer)
    return ["".join(span.text for span in line) for line in footer.left]


def test_parts() -> None:
    """What is empty or was not said by the agent is not shown."""
    turn = _with_parts(
        TextPart("a", "m", "said"),
        TextPart("b", "m", " \n"),
        TextPart("c", "m", "put in by the server", is_synthetic=True),
        ReasoningPart("d", "m", ""),
        PatchPart("e", "m"),
    )

    assert _inner(turn)[:-1] == (Prose("said", key="a"),)


def test_reasoning() -> None:
    """What a model thinks aloud is folded, with how long it took where that is known."""
    part = ReasoningPart("d", "m", "hm", started_ms=1_000, ended_ms=2_500)

    (fold, other, _) = _inner(_with_parts(part, replace(part, ended_ms=0)))
    (running, _) = _inner(_with_parts(part, state="running"))

    assert isinstance(fold, Fold)
    assert isinstance(other, Fold)
    assert isinstance(running, Fold)
    assert (fold.is_open, fold.right, len(fold.body)) == (False, (Span("1.5 s", "muted"),), 1)
    assert other.right == ()
    assert running.body == ()


@pytest.mark.parametrize(
    ("state", "error", "notice"),
    [
        ("failed", "no key", Notice("bad", "Turn failed:", (Span("no key"),))),
        ("failed", "", Notice("bad", "Turn failed:", (Span("no reason was given"),))),
        ("refused", "no bash", Notice("warn", "Refused:", (Span("no bash"),))),
        ("refused", "", Notice("warn", "Refused:", (Span("the agent asked and got no leave"),))),
        ("stopped", "", Notice("warn", "Stopped:", (Span("what had arrived is kept"),))),
        ("stopped", "a limit", Notice("warn", "Stopped:", (Span("a limit"),))),
    ],
)
def test_outcome(state: str, error: str, notice: Notice) -> None:
    """A turn that did not end well says so, and why."""
    turn = replace(TURN, state=state, error=error)  # type: ignore[arg-type] # - a Literal

    assert _inner(turn)[-2] == notice


def test_nothing_said() -> None:
    """An empty turn says that it is empty."""
    done = _inner(replace(TURN, messages=()))
    stopped = _inner(replace(TURN, messages=(), state="stopped"))
    blank = Message("m", "s", "assistant", parts=(TextPart("p", "m", " \n"),))
    unseen = _inner(replace(TURN, messages=(blank,)))
    stopped_early = _inner(replace(TURN, messages=(blank,), state="stopped"))

    assert done[0] == Notice("muted", "", (Span("The agent said nothing.", "muted"),))
    assert unseen == done
    assert stopped_early == stopped
    assert stopped[0] == Notice("warn", "Stopped:", (Span("nothing had arrived"),))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ["done in 2.3 s", "812 tokens", "no cost, scripted model"]),
        ({"state": "stopped"}, ["stopped after 2.3 s", "812 tokens", "no cost, scripted model"]),
        ({"state": "refused"}, ["refused after 2.3 s", "812 tokens", "no cost, scripted model"]),
        ({"state": "failed"}, ["failed after 2.3 s", "812 tokens", "no cost, scripted model"]),
        ({"state": "stopped", "messages": ()}, ["stopped after 2.3 s", "no cost, scripted model"]),
        ({"state": "running"}, ["running", "scripted model"]),
        ({"state": "running", "is_scripted": False}, ["running"]),
        (
            {"is_scripted": False, "model": "a/b"},
            ["done in 2.3 s", "812 tokens", "cost unknown", "a/b"],
        ),
        ({"is_scripted": False, "model": ""}, ["done in 2.3 s", "812 tokens", "cost unknown"]),
    ],
)
def test_footer(changes: dict[str, object], words: list[str]) -> None:
    """The footer says how it ended, what it took, and whether the model is a scripted one."""
    assert _footer_words(replace(TURN, **changes)) == words  # type: ignore[arg-type] # - fields


@pytest.mark.parametrize(
    ("receipt", "said"),
    [
        (None, "no receipt"),
        (
            RECEIPT,
            "reached demo-model.internal 3 · blocked example.com 1 · firewall's record",
        ),
        (
            Receipt((), (), "firewall record", is_complete=False),
            "reached nothing · firewall's record, with gaps",
        ),
        (Receipt((), (), "tool reports", is_complete=True), "reached nothing · from tool reports"),
        (
            Receipt((), (), "tool reports", is_complete=False),
            "reached nothing · from tool reports, not complete",
        ),
    ],
)
def test_receipt(receipt: Receipt | None, said: str) -> None:
    """The receipt says what was reached and blocked, and from which source that is known."""
    assert "".join(span.text for span in receipt_line(receipt)) == said


def test_receipt_joins_ports() -> None:
    """A host is counted once over its ports; beyond three hosts only how many more."""
    places = (
        HostCount("a.example", 443, 1),
        HostCount("b.example", 443, 2),
        HostCount("a.example", 80, 3),
        HostCount("c.example", 443, 1),
        HostCount("d.example", 443, 1),
    )
    receipt = Receipt(places, (), "firewall record", is_complete=True)

    assert receipt_line(receipt)[0].text == (
        "reached a.example 4, b.example 2, c.example 1, and 1 more"
    )


def test_permission() -> None:
    """A request names what the agent wants to do, and what silence means."""
    (card,) = permission_blocks(PERMISSION)
    (bare,) = permission_blocks(replace(PERMISSION, patterns=()))

    assert isinstance(card, Card)
    assert isinstance(bare, Card)
    assert isinstance(card.blocks[0], Row)
    assert card.blocks[0].right == (Span("no answer means no", "muted"),)
    assert bare.blocks == card.blocks[:1]


@pytest.mark.parametrize(
    ("permission", "said"),
    [
        ("bash", "wants to run"),
        ("edit", "wants to change"),
        ("webfetch", "wants to fetch"),
        ("read", "wants to read"),
        ("external_directory", "asks for leave"),
    ],
)
def test_permission_says_what_for(permission: str, said: str) -> None:
    """A file that is to be changed is not one that is to be run."""
    (card,) = permission_blocks(replace(PERMISSION, permission=permission))

    assert isinstance(card, Card)
    assert isinstance(card.blocks[0], Row)
    assert card.blocks[0].left[-1].text == said


def test_error() -> None:
    """An error is one sentence with its next step; commands in it stand out."""
    error = SandboxLaunchError("no `bwrap` here.", step="create", next_step="%opencode_doctor")

    assert error_blocks(error) == (
        Notice(
            "bad",
            "Not launched:",
            (
                Span("no "),
                Span("bwrap", form="code"),
                Span(" here."),
                Span(" Next: "),
                Span("%opencode_doctor", form="code"),
            ),
        ),
    )


def test_error_without_next_step() -> None:
    """An error that nothing can be done about says only what happened."""
    assert error_blocks(TurnFailed("overloaded")) == (
        Notice("bad", "Turn failed:", (Span("overloaded"),)),
    )


def test_foreign_error() -> None:
    """An error that is not ours is named by its kind."""
    assert error_blocks(ValueError("a\nb")) == (Notice("bad", "ValueError:", (Span("a b"),)),)


def test_the_bodies_of_a_card_have_a_limit_together() -> None:
    """Ten thousand long outputs do not fill the notebook: rows stay, and it is said."""
    output = "word <b> $x\n" * 500
    calls = [
        ToolPart(f"p{number:05}", "m", "c", "bash", "completed", output=output)
        for number in range(10_000)
    ]

    blocks = _inner(_with_parts(TextPart("a", "m", "said"), *calls))

    folds = [block for block in blocks if isinstance(block, Fold)]
    assert len(folds) == 10_000
    assert len(render_html(blocks)) < 20_000_000
    assert 600 < sum(bool(fold.body) for fold in folds) < 900
    assert any(
        isinstance(block, Notice) and "rows opened onto is left out here" in block.line[0].text
        for block in blocks
    )


def test_500_long_outputs_are_all_shown() -> None:
    """What an honest long turn has is below the limit."""
    output = "x" * 51_000
    calls = [
        ToolPart(f"p{number:05}", "m", "c", "bash", "completed", output=output)
        for number in range(500)
    ]

    blocks = _inner(_with_parts(*calls))

    assert all(block.body for block in blocks if isinstance(block, Fold))
    assert not any(isinstance(block, Notice) for block in blocks)


def test_open_requests_are_shown_up_to_a_number() -> None:
    """A frame stays small however many there are."""
    turn = replace(TURN, state="running", permissions=(PERMISSION,) * 2_000)

    blocks = _inner(turn)

    assert len(render_html(blocks)) < 100_000
    assert Row((Span("and 1980 more requests", "muted"),)) in blocks
