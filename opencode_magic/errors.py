"""The exceptions of this package, each shown in a notebook as one clean line.

The tree, by who must act:

* OpencodeMagicError
    * UsageMistake: the cell or the call
        * NotLaunchedError
        * SessionBusyError
        * PromptError
    * SettingsError: the settings, the account
        * CredentialsError
        * PolicyError
        * ProviderError
    * SandboxError: the sandbox, its home, the machine
        * HomeUnavailableError
        * BinaryError
        * SandboxConnectionError
        * SandboxLaunchError
            * ProofFailedError
    * AgentError: the agent server, the model
        * AgentConnectionError
        * AgentApiError
        * TurnFailed
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LINE_LIMIT_CHARS = 600
"""A message longer than this is cut in the middle: an error is one line."""


def clean_line(text: str, *, limit_chars: int = LINE_LIMIT_CHARS) -> str:
    """Give text as one line that cannot move the cursor or change its reading order.

    Control, format (bidi, zero-width) and private characters become a space or go away, runs of
    white space become one space, and a long line loses its middle. Takes no longer for megabytes.
    """
    if len(text) > 16 * limit_chars:
        text = f"{text[: 8 * limit_chars]} … {text[-8 * limit_chars :]}"
    kept = []
    for char in text:
        if char.isspace() or unicodedata.category(char) == "Cc":
            kept.append(" ")
        elif unicodedata.category(char) not in {"Cf", "Cs", "Co", "Cn"}:
            kept.append(char)
    line = " ".join("".join(kept).split())
    if len(line) <= limit_chars:
        return line
    half = (limit_chars - 3) // 2
    return f"{line[:half]} … {line[-half:]}"


def as_sentence(text: str) -> str:
    """Give text with a full stop where it has no end, so that another sentence can follow."""
    return text if not text or text[-1] in ".?!…" else f"{text}."


class OpencodeMagicError(Exception):
    """The root: everything this package raises on purpose.

    Attributes:
        next_step: What the reader can do about it; empty where there is nothing to do.
    """

    heading = "Error"

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(clean_line(message))
        self.next_step = clean_line(next_step)

    @property
    def message(self) -> str:
        """What happened, to what, without the next step."""
        return str(self.args[0])

    def __str__(self) -> str:
        if not self.next_step:
            return self.message
        return f"{as_sentence(self.message)} Next: {self.next_step}"

    def _render_traceback_(self) -> list[str]:
        """IPython asks for this instead of a traceback: one line, no frames, no locals."""
        return [f"{self.heading}: {self}"]


class UsageMistake(OpencodeMagicError):  # noqa: N818 - IPython owns the name UsageError
    """The cell or the call asks for something that cannot be done as it stands."""

    heading = "Not done"


class NotLaunchedError(UsageMistake):
    """Something needs a running sandbox and there is none."""


class SessionBusyError(UsageMistake):
    """A turn is already running in this session."""


class PromptError(UsageMistake):
    """The prompt is empty, too large, or names what does not exist."""


class SettingsError(OpencodeMagicError):
    """A setting is missing, malformed or contradicts another."""

    heading = "Settings"


class CredentialsError(SettingsError):
    """Credentials are missing, malformed or expired. Never carries a token."""


class PolicyError(SettingsError):
    """A network policy cannot be parsed. An unparsable policy is never an open door."""


class ProviderError(SettingsError):
    """A model provider is unknown, or cannot be served by an injected header."""


class SandboxError(OpencodeMagicError):
    """The sandbox or its home failed."""

    heading = "Sandbox"


class HomeUnavailableError(SandboxError):
    """No home can isolate the agent here, so nothing was started."""

    heading = "Not launched"


class BinaryError(SandboxError):
    """The OpenCode binary cannot be had, or is not the one that is pinned."""

    heading = "Not launched"


class SandboxConnectionError(SandboxError):
    """The home's API cannot be reached, or does not speak as it should."""


class SandboxLaunchError(SandboxError):
    """A launch failed and was cleaned up.

    Attributes:
        step: The name of the step that failed.
        log_lines: The agent server's last lines, oldest first.
    """

    heading = "Not launched"

    def __init__(
        self, message: str, *, step: str, log_lines: Sequence[str] = (), next_step: str = ""
    ) -> None:
        super().__init__(message, next_step=next_step)
        self.step = step
        self.log_lines = tuple(clean_line(line) for line in log_lines)


class ProofFailedError(SandboxLaunchError):
    """The wall could not be proven, or a probe got through it."""


class AgentError(OpencodeMagicError):
    """The agent server or the model failed."""

    heading = "Agent"


class AgentConnectionError(AgentError):
    """The agent server does not answer."""


class AgentApiError(AgentError):
    """The agent server answered with an error.

    Attributes:
        status_code: The HTTP status; 0 where the answer was not HTTP.
        name: OpenCode's own error name, such as ``APIError``; empty where it gave none.
    """

    def __init__(
        self, message: str, *, status_code: int = 0, name: str = "", next_step: str = ""
    ) -> None:
        super().__init__(message, next_step=next_step)
        self.status_code = status_code
        self.name = name


class TurnFailed(AgentError):  # noqa: N818 - a turn's state by name; "Error" would say less
    """A turn failed; what had arrived was shown and kept.

    Attributes:
        reply: The ``Reply`` with the partial answer.
    """

    heading = "Turn failed"

    def __init__(self, message: str, *, reply: object = None, next_step: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.reply = reply
