"""Values -> cards under the running cell, as one inert mimebundle each."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from IPython import get_ipython
from IPython.display import display

from opencode_magic.core.checks import Check
from opencode_magic.render import words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from IPython.core.interactiveshell import InteractiveShell

    from opencode_magic.core.proof import Proof
    from opencode_magic.core.status import Status
    from opencode_magic.render.shapes import Block
    from opencode_magic.session.session import DownReport

# The renderers load Pygments and markdown-it: at the first card, not with the extension.


def show(blocks: Sequence[Block]) -> None:
    """Publish blocks under the running cell."""
    from opencode_magic.render.html import render_html  # noqa: PLC0415 - heavy, see above
    from opencode_magic.render.text import render_text  # noqa: PLC0415 - the same

    bundle = {"text/plain": render_text(blocks), "text/html": render_html(blocks)}
    display(bundle, raw=True)


def show_proof(proof: Proof) -> None:
    """Publish every probe and what was seen."""
    from opencode_magic.render.blocks import proof_blocks  # noqa: PLC0415 - heavy, see above

    show(proof_blocks(proof))


def show_checks(checks: Sequence[Check]) -> None:
    """Publish what works, what does not, and the next steps."""
    from opencode_magic.render.blocks import doctor_blocks  # noqa: PLC0415 - heavy, see above

    show(doctor_blocks(checks))


def show_down(report: DownReport) -> None:
    """Publish what was removed and what was kept."""
    from opencode_magic.render.blocks import down_blocks  # noqa: PLC0415 - heavy, see above

    show(down_blocks(report))


def is_terminal() -> bool:
    """Whether a terminal shows what is displayed, not a notebook."""
    return getattr(get_ipython(), "kernel", None) is None


def status_line(status: Status) -> str:
    """Give the state of the sandbox as one line, with the time: a saved line stays as it is."""
    state = f"{status.phase.capitalize()} at {time.strftime('%H:%M:%S')}"
    if status.phase == "down":
        return f"{state}: no sandbox is running."
    parts = [f"{state}: {status.sandbox_name or 'no sandbox'}"]
    if status.home:
        parts.append(f"{status.home} home")
    if status.is_strict:
        parts.append("strict")
    if status.model:
        parts.append(f"{status.model} (scripted)" if status.is_scripted else status.model)
    if status.has_egress_record:
        parts.append(f"{status.egress_allowed} allowed, {status.egress_blocked} blocked")
    if status.turns:
        parts.append(words.plural(status.turns, "turn"))
    if status.tokens:
        parts.append(words.tokens(status.tokens))
    if status.error:
        parts.append(status.error)
    return ", ".join(parts)


def front_end_checks(shell: InteractiveShell | None) -> tuple[Check, ...]:
    """Say what this front end can do: whether it can ask the user."""
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return (Check("Front end", "ok", "a terminal; cards are shown as text"),)
    if getattr(kernel, "_allow_stdin", False):
        return (
            Check("Front end", "ok", "a notebook; permissions are asked for on its input line"),
        )
    return (
        Check(
            "Front end",
            "warning",
            "a notebook run without a user: what the agent asks leave for is refused",
            "run it in a front end with an input line to be asked",
        ),
    )
