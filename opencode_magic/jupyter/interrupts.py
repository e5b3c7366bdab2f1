"""An Interrupt that was dealt with -> one line, and still an Interrupt for Run All."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from opencode_magic.errors import clean_line

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def interrupt_in_one_line(done: str) -> Iterator[None]:
    """Let an Interrupt go on, shown as one line that says what was done about it.

    IPython 9.18 asks the exception itself how it wants to be shown; its kind stays what it is.
    What the exception says itself goes before ``done``: it knows what could not be done.
    """
    try:
        yield
    except KeyboardInterrupt as exc:
        line = f"Interrupted: {clean_line(str(exc)) or done}"
        exc._render_traceback_ = lambda: [line]  # type: ignore[attr-defined]  # see above
        raise
