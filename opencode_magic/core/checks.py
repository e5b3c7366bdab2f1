"""What the doctor found out about one thing that a launch needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CheckState = Literal["ok", "warning", "blocked"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    ``ok`` works. A ``warning`` works less well or only in part. What is ``blocked`` cannot be used
    until somebody acts, and ``next_step`` says how.
    """

    name: str
    """Short, such as ``User namespaces``."""
    state: CheckState
    detail: str = ""
    """What was seen, one plain line."""
    next_step: str = ""
