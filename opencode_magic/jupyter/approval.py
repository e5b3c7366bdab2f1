"""Ways to ask the user for a permission that the agent wants: by ``input()``, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opencode_magic.core.permissions import REJECT, PermissionReply
from opencode_magic.errors import clean_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

    from opencode_magic.core.conversation import PermissionRequest

_REPLIES: dict[str, PermissionReply] = {
    "o": PermissionReply("once"),
    "once": PermissionReply("once"),
    "y": PermissionReply("once"),
    "yes": PermissionReply("once"),
    "a": PermissionReply("always"),
    "always": PermissionReply("always"),
}

NO_WAY_TO_ASK = PermissionReply(
    "reject", "Nobody can be asked here, so this is not allowed. Go on without it."
)


class RefusingApprover:
    """Refuses whatever is asked: where nobody can be asked, no answer means no."""

    def decide(self, request: PermissionRequest) -> PermissionReply:  # noqa: ARG002 - the Protocol's
        """Refuse, and tell the agent why, so that it can go on."""
        return NO_WAY_TO_ASK


class InputApprover:
    """Asks on the front end's input line. Anything but a clear yes is a no."""

    def __init__(self, ask: Callable[[str], str] = input) -> None:
        self._ask = ask

    def decide(self, request: PermissionRequest) -> PermissionReply:
        """Ask once; an interrupt goes on to the caller."""
        try:
            answer = self._ask(question(request))
        except EOFError:
            return REJECT
        return _REPLIES.get(answer.strip().lower(), REJECT)


def question(request: PermissionRequest) -> str:
    """Give the line that asks; the agent's words in it cannot move the cursor."""
    what = clean_line(", ".join(request.patterns) or "something", limit_chars=300)
    always = clean_line(", ".join(request.always), limit_chars=80)
    choices = f"[o]nce, [a]lways ({always}), [n]o" if always else "[o]nce, [n]o"
    return f"May it? {clean_line(request.permission)}: {what} -- {choices}: "


def choose_approver(shell: InteractiveShell) -> RefusingApprover | InputApprover:
    """Give the best way to ask that this front end has.

    A kernel that is run by nbclient, papermill or nbval takes no input; ``_allow_stdin`` is how
    ipykernel (6.31 to 7.4) knows it for the running cell.
    """
    kernel = getattr(shell, "kernel", None)
    if kernel is not None and not getattr(kernel, "_allow_stdin", False):
        return RefusingApprover()
    return InputApprover()
