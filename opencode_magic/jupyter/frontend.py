"""What the front end can show: frames that replace each other, one final output, or lines."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, Protocol

from IPython.core.displaypub import CapturingDisplayPublisher

if TYPE_CHECKING:
    from collections.abc import Mapping

    from IPython.core.interactiveshell import InteractiveShell

Way = Literal["frames", "once", "lines"]

STREAM_VARIABLE = "OPENCODE_MAGIC_STREAM"
_OFF = frozenset({"0", "off", "false", "no"})
_ON = frozenset({"1", "on", "true", "yes"})


class Publisher(Protocol):
    """What a shell publishes with: IPython's ``display_pub``."""

    def publish(
        self,
        data: dict[str, object],
        metadata: dict[str, object] | None = None,
        *,
        transient: dict[str, object] | None = None,
        update: bool = False,
    ) -> None:
        """Send one output, or replace the one with the same display id."""


def choose_way(shell: InteractiveShell | None, environ: Mapping[str, str] = os.environ) -> Way:
    """Say how this front end is shown something that changes.

    ``OPENCODE_MAGIC_STREAM`` decides where it says 0 or 1. Otherwise a kernel gets frames; but
    where pytest runs the kernel (nbval 0.11 knows no updates), and where the cell's output is
    captured, exactly one. A terminal gets lines as they come.
    """
    if getattr(shell, "kernel", None) is None:
        return "lines"
    wish = environ.get(STREAM_VARIABLE, "auto").strip().lower()
    is_captured = isinstance(getattr(shell, "display_pub", None), CapturingDisplayPublisher)
    if wish in _OFF or is_captured:
        return "once"
    if wish in _ON:
        return "frames"
    return "once" if "PYTEST_CURRENT_TEST" in environ else "frames"
