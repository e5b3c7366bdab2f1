"""A cell's text to a Prompt: what is sent to the agent, exactly as it was written.

Braces, ``$`` and backslashes have no meaning here: prompts hold JSON and code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from opencode_magic.core.stored import without_surrogates
from opencode_magic.errors import PromptError

LARGEST_PROMPT_BYTES = 20_000_000
"""OpenCode takes 40 MB, but then needs 2 GB of memory (measured with 1.18.33)."""

_NBVAL_LINE = re.compile(r"[ \t]*#[ \t]*(?:NBVAL_|PYTEST_VALIDATE_)\w+[ \t]*(?:\r\n|\r|\n|$)")


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one ask sends."""

    text: str

    @property
    def size_bytes(self) -> int:
        """The size of the text in UTF-8."""
        return len(self.text.encode())


def parse_prompt(cell: str, *, limit_bytes: int = LARGEST_PROMPT_BYTES) -> Prompt:
    """Give the prompt that a cell's body holds.

    Marks of nbval in the first lines are left out, and empty lines around the text. Half
    surrogate pairs, which cannot be sent, become U+FFFD.

    Args:
        cell: The text below the magic's line.
        limit_bytes: The largest size in UTF-8.

    Raises:
        PromptError: There is no text, or too much of it.
    """
    while mark := _NBVAL_LINE.match(cell):
        cell = cell[mark.end() :]
    text = cell.strip("\r\n")
    if not text.strip():
        raise PromptError("the prompt is empty", next_step="write it below the %%ask line")
    prompt = Prompt(without_surrogates(text))
    size_bytes = prompt.size_bytes
    if size_bytes > limit_bytes:
        raise PromptError(
            f"the prompt has {size_bytes / 1e6:.1f} MB; at most {limit_bytes / 1e6:g} MB are sent",
            next_step="write the text to a file in the workspace and name the file in the prompt",
        )
    return prompt
