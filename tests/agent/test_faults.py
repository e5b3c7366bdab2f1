"""Faults of OpenCode and of providers to one plain line and a next step."""

from __future__ import annotations

import pytest

from opencode_magic.agent.faults import explain, explain_error
from opencode_magic.core.parts import AgentFault
from opencode_magic.errors import AgentApiError, AgentConnectionError


@pytest.mark.parametrize(
    ("fault", "line", "has_step"),
    [
        (AgentFault("APIError", "no", 401), "the provider refused the key (401): no", True),
        (
            AgentFault("APIError", "slow down", 429),
            "the provider's limit is reached (429): slow down",
            True,
        ),
        (AgentFault("APIError", "oops", 503), "the provider failed (503): oops", True),
        (
            AgentFault("APIError", "teapot", 418),
            "the provider answered with an error (418): teapot",
            False,
        ),
        (AgentFault("APIError", "APIError", 500), "the provider failed (500)", True),
        (AgentFault("ProviderAuthError", "no key"), "the provider wants a key: no key", True),
        (AgentFault("UnknownError", "something odd"), "something odd", False),
        (AgentFault("UnknownError", "UnknownError"), "UnknownError", False),
        (
            AgentFault("UnknownError", "Model not found: a/b."),
            "OpenCode does not know the model: Model not found: a/b.",
            True,
        ),
        (
            AgentFault("UnknownError", "two\nlines\x1b[31m\u202e"),
            "two lines [31m",
            False,
        ),
    ],
)
def test_a_fault_is_one_plain_line(fault: AgentFault, line: str, *, has_step: bool) -> None:
    """What happened, the provider's own words, and what to do where there is something."""
    text, step = explain(fault)

    assert (text, bool(step)) == (line, has_step)


def test_an_error_without_a_reason_takes_the_events() -> None:
    """HTTP 500 holds a reference into a log; the event holds the reason."""
    error = AgentApiError("Unexpected server error.", status_code=500, name="UnknownError")
    fault = AgentFault("UnknownError", "Agent not found: x")

    assert explain_error(error, fault)[0] == "Agent not found: x"
    assert explain_error(error, None)[0] == "Unexpected server error."
    assert explain_error(AgentConnectionError("gone", next_step="go"), fault) == ("gone", "go")
