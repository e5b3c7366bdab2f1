"""A view that remembers and an approver that does as told, for tests of turns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from opencode_magic.core.conversation import PermissionRequest, Turn
    from opencode_magic.core.permissions import PermissionReply


@dataclass
class RememberingView:
    """Keeps every turn that it is shown. ``on_show`` is called after each."""

    turns: list[Turn] = field(default_factory=list)
    finals: int = 0
    on_show: Callable[[Turn], None] = lambda _turn: None

    def show(self, turn: Turn, *, is_final: bool = False) -> None:
        """Keep it."""
        self.turns.append(turn)
        self.finals += is_final
        self.on_show(turn)

    @property
    def last(self) -> Turn:
        """What is on screen."""
        return self.turns[-1]


@dataclass
class ToldApprover:
    """Gives the same reply to everything, and keeps what it was asked."""

    reply: PermissionReply | None = None
    asked: list[PermissionRequest] = field(default_factory=list)

    def decide(self, request: PermissionRequest) -> PermissionReply | None:
        """Keep it, and reply as told."""
        self.asked.append(request)
        return self.reply
