from __future__ import annotations

from opencode_magic.render.escape import attribute_text, markup_text


def test_markup_text() -> None:
    """A tag, an entity and a quote come out as text."""
    assert markup_text("<b a='\"'>&amp;") == "&lt;b a=&#x27;&quot;&#x27;&gt;&amp;amp;"


def test_markup_text_typesetting() -> None:
    """A dollar sign and a backslash stand in an element of their own."""
    assert markup_text("$5 \\(x") == "<span>$</span>5 <span>\\</span>(x"


def test_attribute_text() -> None:
    """An attribute's value cannot end the attribute."""
    assert attribute_text("\"'<>\x00$") == "&quot;&#x27;&lt;&gt;␀$"
