from __future__ import annotations

import pytest

from opencode_magic.core.conversation import Message, TextPart, Tokens, ToolPart, Turn
from opencode_magic.core.receipt import Receipt
from opencode_magic.session.reply import Reply

TOOL = ToolPart("prt_2", "msg_1", "call_1", "bash", "completed", output="two\n", exit_code=0)
RECEIPT = Receipt((), (), "firewall record", is_complete=True)
TURN = Turn(
    "ses_1",
    "hi",
    "failed",
    messages=(
        Message(
            "msg_1",
            "ses_1",
            "assistant",
            parts=(TextPart("prt_1", "msg_1", "Half an <script>answer</script>."), TOOL),
            tokens=Tokens(input=10, output=5),
        ),
    ),
    model="demo-model/scripted",
    error="it broke",
    started_ms=1_000,
    ended_ms=3_500,
    receipt=RECEIPT,
)


def test_what_a_reply_holds() -> None:
    """A reply gives the parts of its turn under plain names."""
    reply = Reply(TURN)

    assert (reply.text, reply.state, reply.error, reply.model, reply.cost) == (
        "Half an <script>answer</script>.",
        "failed",
        "it broke",
        "demo-model/scripted",
        None,
    )
    assert reply.tools == (TOOL,)
    assert reply.tokens.total == 15
    assert reply.receipt is RECEIPT
    assert reply.duration_s == 2.5


def test_how_a_reply_reads() -> None:
    """It prints as its text, and is one line in a list."""
    reply = Reply(TURN)

    assert str(reply) == reply.text
    assert repr([reply]) == "[<Reply: failed in 2.5 s, 15 tokens>]"


def test_its_card_is_inert() -> None:
    """The card is HTML that runs nothing, and text; never Markdown, which a front end would run."""
    bundle = Reply(TURN)._repr_mimebundle_()

    assert set(bundle) == {"text/plain", "text/html"}
    assert "<script>" not in bundle["text/html"]
    assert "it broke" in bundle["text/plain"]


def test_a_notebook_may_show_it_its_own_way() -> None:
    """With a shower the notebook decides; without one IPython goes on to the card."""
    shown: list[Reply] = []
    reply = Reply(TURN, shown.append)

    reply._ipython_display_()

    assert shown == [reply]
    with pytest.raises(NotImplementedError):
        Reply(TURN)._ipython_display_()
