"""Imports what a launch needs before it is needed: 0.4 s that a person's typing hides."""

from __future__ import annotations

import contextlib
import importlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MODULES = (
    "vercel.sandbox.sync",
    "opencode_magic.session.start",
    "opencode_magic.session.ask",
    "opencode_magic.session.doctor",
)


def warm_up(more: Sequence[str] = ()) -> threading.Thread:
    """Import in a thread of its own; what cannot be imported shows where it is used.

    Returns:
        The thread, which ends by itself.
    """
    names = (*more, *MODULES)
    thread = threading.Thread(target=_import, args=(names,), name="opencode-warm", daemon=True)
    thread.start()
    return thread


def _import(names: Sequence[str]) -> None:
    for name in names:
        with contextlib.suppress(Exception):  # a broken library is reported by its user
            importlib.import_module(name)
