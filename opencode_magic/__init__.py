"""Jupyter magics that run the OpenCode agent in a locked-down sandbox."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from opencode_magic.core.checks import Check
    from opencode_magic.errors import OpencodeMagicError, TurnFailed
    from opencode_magic.session.api import ask, doctor, down, prove, status, up
    from opencode_magic.session.reply import Reply
    from opencode_magic.session.session import DownReport

__all__ = [
    "Check",
    "DownReport",
    "OpencodeMagicError",
    "Reply",
    "TurnFailed",
    "ask",
    "doctor",
    "down",
    "load_ipython_extension",
    "prove",
    "status",
    "unload_ipython_extension",
    "up",
]

_HOMES = {
    "Check": "core.checks",
    "DownReport": "session.session",
    "OpencodeMagicError": "errors",
    "Reply": "session.reply",
    "TurnFailed": "errors",
    "ask": "session.api",
    "doctor": "session.api",
    "down": "session.api",
    "prove": "session.api",
    "status": "session.api",
    "up": "session.api",
}
"""Where each public name stands: importing the package must load none of it."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics; doing it twice is harmless."""
    from opencode_magic.jupyter.extension import load  # noqa: PLC0415 - keeps the import light

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Undo everything that loading did, and take a running sandbox down."""
    from opencode_magic.jupyter.extension import unload  # noqa: PLC0415 - keeps the import light

    unload(shell)
