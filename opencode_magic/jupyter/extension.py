"""``%load_ext`` and ``%unload_ext``: puts the magics into a shell, and takes them out again."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from opencode_magic.jupyter.magics.ask import AskMagics
from opencode_magic.jupyter.magics.sandbox import OpencodeMagics
from opencode_magic.session import api
from opencode_magic.session.warm import warm_up

if TYPE_CHECKING:
    import threading

    from IPython.core.interactiveshell import InteractiveShell
    from IPython.core.magic import Magics

WARM_LIMIT_S = 5.0
_PANEL_MODULES = ("ipywidgets", "opencode_magic.jupyter.panel")
_warming: list[threading.Thread] = []
"""The thread of the last load; it ends by itself."""


def load(shell: InteractiveShell) -> None:
    """Register the magics with one session; a second time does nothing.

    A sandbox that the Python functions launched before is theirs from now on.
    """
    if OpencodeMagics.__name__ in shell.magics_manager.registry:
        return
    session = api.session()
    magics = (OpencodeMagics(shell, session), AskMagics(shell, session))
    shell.register_magics(*magics)
    _warming[:] = [warm_up(_PANEL_MODULES)]


def unload(shell: InteractiveShell) -> None:
    """Take the magics, their events and a running sandbox away; without them it does nothing."""
    for name in (AskMagics.__name__, OpencodeMagics.__name__):
        magics = shell.magics_manager.registry.pop(name, None)
        if magics is None:
            continue
        magics.close()
        _forget(shell, magics)
    api.use(None)
    for thread in _warming:
        thread.join(WARM_LIMIT_S)
    _warming.clear()


def _forget(shell: InteractiveShell, magics: Magics) -> None:
    for kind, table in shell.magics_manager.magics.items():
        for name in magics.magics[kind]:
            table.pop(name, None)
    # A cast, for IPython annotates this list as one of shells, and magics put themselves into it.
    configurables = cast("list[object]", shell.configurables)
    if magics in configurables:
        configurables.remove(magics)
