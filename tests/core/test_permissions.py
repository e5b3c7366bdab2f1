"""Permission requests and rules to replies."""

from __future__ import annotations

import pytest

from opencode_magic.core.parts import PermissionRequest
from opencode_magic.core.permissions import PermissionReply, PermissionRule, decide

RULES = (
    PermissionRule("*", "*", "once"),
    PermissionRule("bash", "*", "ask"),
    PermissionRule("bash", "ls *", "always"),
    PermissionRule("bash", "rm *", "reject"),
)


def request(permission: str, *patterns: str) -> PermissionRequest:
    return PermissionRequest("per_1", "ses_1", permission, patterns)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (request("edit", "a.py"), PermissionReply("once")),
        (request("edit"), PermissionReply("once")),
        (request("bash", "ls -la"), PermissionReply("always")),
        (request("bash", "ls -la", "touch a"), "ask"),
        (request("bash", "ls -la", "touch a", "rm -rf x"), PermissionReply("reject")),
    ],
)
def test_the_last_rule_that_matches_speaks(asked: PermissionRequest, expected: object) -> None:
    """One pattern that is refused refuses all; one that must be asked asks."""
    assert decide(asked, RULES) == expected


def test_without_a_rule_the_user_is_asked() -> None:
    """Nothing is granted by silence."""
    assert decide(request("bash", "ls"), ()) == "ask"


def test_once_and_always_together_are_once() -> None:
    """For ever is only what all patterns have for ever."""
    rules = (PermissionRule("*", "a", "once"), PermissionRule("*", "b", "always"))

    assert decide(request("edit", "a", "b"), rules) == PermissionReply("once")
