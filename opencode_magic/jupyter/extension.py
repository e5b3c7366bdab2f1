"""``%load_ext`` and ``%unload_ext``: puts the magics into a shell, and takes them out again."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from opencode_magic.jupyter.magics.ask import AskMagics
from opencode_magic.jupyter.magics.sandbox import OpencodeMagics
from opencode_magic.session import api

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.core.magic import Magics


def load(shell: InteractiveShell) -> None:
    """Register the magics with one session; a second time does nothing.

    A sandbox that the Python functions launched before is theirs from now on.
    """
    if OpencodeMagics.__name__ in shell.magics_manager.registry:
        return
    session = api.session()
    magics = (OpencodeMagics(shell, session), AskMagics(shell, session))
    shell.register_magics(*magics)


def unload(shell: InteractiveShell) -> None:
    """Take the magics, their events and a running sandbox away; without them it does nothing."""
    for name in (AskMagics.__name__, OpencodeMagics.__name__):
        magics = shell.magics_manager.registry.pop(name, None)
        if magics is None:
            continue
        magics.close()
        _forget(shell, magics)
    api.use(None)


def _forget(shell: InteractiveShell, magics: Magics) -> None:
    for kind, table in shell.magics_manager.magics.items():
        for name in magics.magics[kind]:
            table.pop(name, None)
    # A cast, for IPython annotates this list as one of shells, and magics put themselves into it.
    configurables = cast("list[object]", shell.configurables)
    if magics in configurables:
        configurables.remove(magics)
