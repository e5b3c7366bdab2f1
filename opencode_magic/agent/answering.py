"""What the agent asks for -> answers, each request once; no answer is a refusal."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

from opencode_magic.core.permissions import REJECT, PermissionReply
from opencode_magic.errors import AgentApiError, AgentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from opencode_magic.agent.client import AgentClient
    from opencode_magic.core.conversation import Conversation
    from opencode_magic.core.parts import PermissionRequest


class Approver(Protocol):
    """Decides about what the agent asks leave for."""

    def decide(self, request: PermissionRequest) -> PermissionReply | None:
        """Give the reply; None, no answer, is a refusal. May take as long as it takes."""


class Answering:
    """Answers the requests of one turn, in the thread that calls it."""

    def __init__(self, client: AgentClient, approver: Approver) -> None:
        self.refused: PermissionRequest | None = None
        """The permission request that was rejected last."""
        self._client = client
        self._approver = approver
        self._answered: set[str] = set()

    @property
    def count(self) -> int:
        """How many requests were answered."""
        return len(self._answered)

    def answer_all(self, conversation: Conversation, *, is_over: Callable[[], bool]) -> None:
        """Answer what is open, until ``is_over``: each answer may take its time."""
        for question in conversation.questions:
            if question not in self._answered and not is_over():
                self._answered.add(question)
                with contextlib.suppress(AgentError):
                    self._client.reject_question(question)
        for request in conversation.permissions:
            if request.request_id not in self._answered and not is_over():
                self._answered.add(request.request_id)
                self._answer(request)

    def _answer(self, request: PermissionRequest) -> None:
        reply: PermissionReply | None = None
        try:
            reply = self._approver.decide(request)
        finally:
            # Also where deciding was interrupted or failed: no answer is a refusal.
            reply = reply or REJECT
            if reply.kind == "reject":
                self.refused = request
            # Another client may have answered first, and then it does not exist any more.
            with contextlib.suppress(AgentApiError):
                self._client.reply_permission(request.request_id, reply)
