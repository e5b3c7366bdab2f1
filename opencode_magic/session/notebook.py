"""The kernel's environment -> which notebook this is, for names that a person reads."""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def notebook_name(environ: Mapping[str, str] | None = None) -> str:
    """Give the notebook's name without its folder and ending; ``notebook`` where none is known.

    Jupyter Server names the notebook's path in ``JPY_SESSION_NAME``.
    """
    env = os.environ if environ is None else environ
    return PurePath(env.get("JPY_SESSION_NAME", "")).stem or "notebook"
