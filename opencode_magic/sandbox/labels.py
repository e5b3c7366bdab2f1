"""A home -> the steps of its launch, as a person reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opencode_magic.core.opencode import VERSION
from opencode_magic.core.status import Step

if TYPE_CHECKING:
    from opencode_magic.core.status import Home

LABELS = {
    "binary": f"OpenCode {VERSION}",
    "create": "Sandbox, locked from the start",
    "configure": "Configuration",
    "serve": "Agent server",
    "prove": "Prove the wall",
}
WORDS = {
    "binary": f"getting OpenCode {VERSION}",
    "create": "creating the sandbox",
    "configure": "configuring the sandbox",
    "serve": "starting the agent server",
    "prove": "proving the wall",
}
"""The same within a sentence, for an error."""

_ORDER = {
    "local": ("binary", "create", "configure", "serve", "prove"),
    "cloud": ("create", "binary", "configure", "serve", "prove"),
}
"""The local server needs the binary for its image; a cloud image may have it already."""


def steps_of(home: Home, *, is_named: bool = False) -> tuple[Step, ...]:
    """Give the steps in order, all waiting.

    Args:
        home: Where the sandbox will run.
        is_named: Whether the user named the binary: its version is not known before it runs.
    """
    labels = {**LABELS, "binary": "OpenCode"} if is_named else LABELS
    return tuple(Step(name, labels[name]) for name in _ORDER[home])
