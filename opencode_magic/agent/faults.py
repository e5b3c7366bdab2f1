"""What OpenCode says went wrong, to one plain line and the next thing to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opencode_magic.errors import AgentApiError, AgentError, clean_line

if TYPE_CHECKING:
    from opencode_magic.core.parts import AgentFault

ABORTED = "MessageAbortedError"

_BY_NAME = {
    "ProviderAuthError": ("the provider wants a key", "set the provider's key and launch again"),
    "ContextOverflowError": (
        "the conversation is too long for the model",
        "start a new session, or ask for less at once",
    ),
    "MessageOutputLengthError": (
        "the answer is longer than the model may write",
        "ask for a shorter answer, or for it in pieces",
    ),
    "ContentFilterError": ("the provider's content filter stopped the answer", ""),
    "StructuredOutputError": ("the model did not answer in the form that was asked for", ""),
    "ConfigJsonError": ("OpenCode's configuration is not JSON", ""),
    "ConfigInvalidError": ("OpenCode's configuration is not valid", ""),
}
_BY_STATUS = {
    400: ("the provider did not accept the request", ""),
    401: ("the provider refused the key", "check the key that is set, then launch again"),
    402: ("the provider wants to be paid first", "look at the account at the provider"),
    403: ("the provider refused access", "check what the key may use"),
    404: ("the provider does not know the model", "choose another model with --model"),
    413: ("the request is too large for the provider", "ask for less at once"),
    429: ("the provider's limit is reached", "wait, or choose another model with --model"),
}


def explain(fault: AgentFault) -> tuple[str, str]:
    """Give one plain line for a fault, and the next thing to do (empty where there is none)."""
    text, step = _BY_NAME.get(fault.name, ("", ""))
    status = fault.status_code
    if not text and status is not None:
        text, step = _BY_STATUS.get(status, ("the provider answered with an error", ""))
        if status >= 500:  # noqa: PLR2004 - HTTP's class of server errors
            text, step = "the provider failed", "try again later"
    if not text and fault.message.startswith("Model not found"):
        text, step = "OpenCode does not know the model", "choose another model with --model"
    code = f" ({status})" if status is not None else ""
    if not text or fault.message == fault.name:
        return clean_line(text + code or fault.message), step
    return clean_line(f"{text}{code}: {fault.message}"), step


def explain_error(error: AgentError, fault: AgentFault | None) -> tuple[str, str]:
    """Give one plain line for a call that failed.

    OpenCode answers HTTP 500 with a reference into its log and no reason; the reason is in the
    ``fault`` that it sent as an event.
    """
    if isinstance(error, AgentApiError) and error.name == "UnknownError" and fault is not None:
        return explain(fault)
    return error.message, error.next_step
