"""Text -> text that is safe between tags or inside an attribute, and triggers no typesetting."""

from __future__ import annotations

import re
from html import escape

from opencode_magic.render.visible import visible_text

_TYPESET = re.compile(r"[$\\]")


def markup_text(text: str) -> str:
    """Give text for between tags: nothing hidden, no tag, no entity.

    A dollar sign and a backslash stand in an element of their own, because MathJax joins text
    only within one element: no delimiter is ever complete.
    """
    escaped = escape(visible_text(text))
    if "$" in escaped or "\\" in escaped:
        return _TYPESET.sub(r"<span>\g<0></span>", escaped)
    return escaped


def attribute_text(text: str) -> str:
    """Give text for an attribute's value, in double quotes."""
    return escape(visible_text(text), quote=True)
