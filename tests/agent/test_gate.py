"""Whether a prompt goes out or a stop keeps it in."""

from __future__ import annotations

from opencode_magic.agent.gate import Gate


def test_a_stop_that_comes_first_keeps_the_prompt_in() -> None:
    """Then nothing was sent."""
    gate = Gate()

    assert (gate.shut(), gate.enter()) == (True, False)


def test_a_stop_that_comes_later_is_too_late() -> None:
    """Then the turn must be ended on the server."""
    gate = Gate()

    assert (gate.enter(), gate.shut()) == (True, False)
