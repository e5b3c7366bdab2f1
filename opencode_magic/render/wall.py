"""HTML that we made -> whether it is inert: the second wall behind the renderer.

It does not repair. It reads a grammar far narrower than HTML's, in which every ``<`` opens a tag
that is on a list with attributes that are on a list; whatever does not fit is refused, and the
caller shows plain text instead.
"""

from __future__ import annotations

import re
from functools import lru_cache

from opencode_magic.render.links import parse_link

ROOT_CLASS = "mathjax_ignore tex2jax_ignore"

_TAG_NAMES = (
    "a blockquote br code details div em hr li ol p pre s span strong summary table tbody td th"
    " thead tr ul"
)
_TAGS = frozenset(_TAG_NAMES.split())
_VOID = frozenset({"br", "hr"})
_TAG = re.compile(r"<(/?)([a-z]+)((?: [a-z-]+(?:=\"[^\"<>]*\")?)*)>")
_ATTRIBUTE = re.compile(r" ([a-z-]+)(?:=\"([^\"<>]*)\")?")
_PROPERTY_NAMES = (
    "align-items background background-color border border-collapse border-left border-left-color"
    " border-radius border-top color cursor display flex flex-wrap float font-family font-size"
    " font-variant-numeric font-weight gap height line-height margin margin-left margin-top"
    " max-width min-width opacity overflow overflow-wrap overflow-x padding padding-left"
    " padding-top text-align vertical-align white-space width"
)
_PROPERTIES = frozenset(_PROPERTY_NAMES.split())
_VALUE = re.compile(r"(?:[a-z0-9 #%.,-]|(?:rgba|var|color-mix)\(|\)|currentColor)+\Z")
_DIRECTED = ("p", "ul", "ol", "th", "td", "div")
_FIXED = {
    ("a", "target"): frozenset({"_blank"}),
    ("a", "rel"): frozenset({"noopener noreferrer nofollow"}),
    ("details", "open"): frozenset({""}),
    ("div", "class"): frozenset({ROOT_CLASS}),
    ("p", "role"): frozenset({"heading"}),
    ("p", "aria-level"): frozenset("123456"),
    **{(tag, "dir"): frozenset({"auto"}) for tag in _DIRECTED},
}


def is_inert(html: str) -> bool:
    """Say whether the HTML holds nothing but listed tags and attributes, properly nested.

    Takes time linear in its length.
    """
    opened: list[str] = []
    end = 0
    for match in _TAG.finditer(html):
        between = html[end : match.start()]
        if "<" in between or ">" in between:
            return False
        end = match.end()
        slash, tag, attributes = match.groups()
        if tag not in _TAGS or (attributes and not _attributes_are_listed(tag, attributes)):
            return False
        if slash:
            if attributes or not opened or opened.pop() != tag:
                return False
        elif tag not in _VOID:
            opened.append(tag)
    return not opened and "<" not in html[end:] and ">" not in html[end:]


@lru_cache(maxsize=2048)
def _attributes_are_listed(tag: str, attributes: str) -> bool:
    return all(_is_listed(tag, name, value or "") for name, value in _ATTRIBUTE.findall(attributes))


def _is_listed(tag: str, name: str, value: str) -> bool:
    if name == "style":
        return all(_is_declaration(item) for item in value.split(";") if item)
    if (tag, name) == ("a", "href"):
        return parse_link(value.replace("&amp;", "&").replace("&#x27;", "'")) is not None
    if (tag, name) == ("ol", "start"):
        return value.isascii() and value.isdigit()
    return value in _FIXED.get((tag, name), frozenset())


def _is_declaration(item: str) -> bool:
    name, _, value = item.partition(":")
    return name in _PROPERTIES and _VALUE.match(value) is not None
