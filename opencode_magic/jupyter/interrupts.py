"""An Interrupt that was dealt with -> one line, and still an Interrupt for Run All."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def interrupt_in_one_line(done: str) -> Iterator[None]:
    """Let an Interrupt go on, shown as one line that says what was done about it.

    IPython 9.18 asks the exception itself how it wants to be shown; its kind stays what it is.
    """
    try:
        yield
    except KeyboardInterrupt as exc:
        exc._render_traceback_ = lambda: [f"Interrupted: {done}"]  # type: ignore[attr-defined]  # see above
        raise
