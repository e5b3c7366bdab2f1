from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from opencode_magic.core.conversation import PermissionRequest
from opencode_magic.core.permissions import REJECT, PermissionReply
from opencode_magic.jupyter.approval import (
    NO_WAY_TO_ASK,
    InputApprover,
    RefusingApprover,
    choose_approver,
    question,
)

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

REQUEST = PermissionRequest("per_1", "ses_1", "bash", ("rm -rf build",), ("rm *",))


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        ("o", PermissionReply("once")),
        (" Yes ", PermissionReply("once")),
        ("always", PermissionReply("always")),
        ("n", REJECT),
        ("", REJECT),
        ("rm -rf /", REJECT),
    ],
)
def test_only_a_clear_yes_is_a_yes(answer: str, reply: PermissionReply) -> None:
    """Whatever is no clear yes refuses."""
    assert InputApprover(lambda _question: answer).decide(REQUEST) == reply


def test_a_closed_input_refuses() -> None:
    """Where the input ends there was no answer, and no answer means no."""

    def closed(_question: str) -> str:
        raise EOFError

    assert InputApprover(closed).decide(REQUEST) == REJECT


def test_an_interrupt_goes_on() -> None:
    """Ctrl-C at the question is not an answer: it stops the turn."""

    def interrupted(_question: str) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        InputApprover(interrupted).decide(REQUEST)


def test_the_question_is_one_harmless_line() -> None:
    """The agent's words cannot move the cursor, turn the line around or fill the screen."""
    request = PermissionRequest("per_1", "ses_1", "bash", ("a\x1b[2J\n\u202eb" + "c" * 900,))

    line = question(request)

    assert "\x1b" not in line
    assert "\n" not in line
    assert "\u202e" not in line
    assert len(line) < 400
    assert line.startswith("May it? bash: a [2J b")


def test_nobody_to_ask() -> None:
    """Without a front end the agent is refused and told so, and can go on."""
    assert RefusingApprover().decide(REQUEST) == NO_WAY_TO_ASK


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        (None, InputApprover),
        (SimpleNamespace(_allow_stdin=True), InputApprover),
        (SimpleNamespace(_allow_stdin=False), RefusingApprover),
        (SimpleNamespace(), RefusingApprover),
    ],
)
def test_the_way_fits_the_front_end(kernel: object, kind: type, shell: InteractiveShell) -> None:
    """A terminal and a kernel with an input line ask; a kernel without one refuses."""
    if kernel is not None:
        shell.kernel = kernel  # type: ignore[attr-defined]  # as ipykernel sets it

    assert type(choose_approver(shell)) is kind
