"""A permission request and the user's rules to a reply; where no rule speaks, the user is asked."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opencode_magic.core.parts import PermissionRequest

ReplyKind = Literal["once", "always", "reject"]


@dataclass(frozen=True, slots=True)
class PermissionReply:
    """What the agent is told. A rejection with a message lets it go on and try another way."""

    kind: ReplyKind
    message: str = ""


REJECT = PermissionReply("reject")


@dataclass(frozen=True, slots=True)
class PermissionRule:
    """What to reply to a kind of request. ``permission`` and ``pattern`` may hold ``*``."""

    permission: str
    pattern: str
    kind: Literal["once", "always", "reject", "ask"]


def decide(
    request: PermissionRequest, rules: Sequence[PermissionRule]
) -> PermissionReply | Literal["ask"]:
    """Give the reply that the rules have for a request.

    For each of the request's patterns the last rule that matches speaks. One rejection rejects
    the whole; one pattern that must be asked, or that no rule knows, asks; "always" needs all.
    """
    kinds = {_kind(request.permission, pattern, rules) for pattern in request.patterns or ("",)}
    if "reject" in kinds:
        return REJECT
    if "ask" in kinds:
        return "ask"
    return PermissionReply("always" if kinds == {"always"} else "once")


def _kind(
    permission: str, pattern: str, rules: Sequence[PermissionRule]
) -> Literal["once", "always", "reject", "ask"]:
    for rule in reversed(rules):
        if fnmatchcase(permission, rule.permission) and fnmatchcase(pattern, rule.pattern):
            return rule.kind
    return "ask"
