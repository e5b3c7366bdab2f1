from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from opencode_magic.render.chunks import Fences, Splitter, paragraphs, split_markdown

LINES = st.lists(
    st.sampled_from(
        ["", "a", "- a", "1. a", "  b", "    c", "```", "~~~", "````x", "```a`", "> q", "# h", "\t"]
    ),
    max_size=30,
).map("\n".join)


def _split(text: str) -> list[str]:
    return list(split_markdown(text, at_least_chars=1))


def test_cut_at_paragraph() -> None:
    """A cut stands between paragraphs, and nothing is lost."""
    assert _split("a\nb\n\nc\n\n\nd\n") == ["a\nb\n\n", "c\n\n\n", "d\n"]


def test_no_cut_in_fence() -> None:
    """Fenced code stays whole, its blank lines included."""
    text = "```python\na\n\nb\n```\n\nafter\n"

    assert _split(text) == ["```python\na\n\nb\n```\n\n", "after\n"]


def test_no_cut_in_list() -> None:
    """A list goes on after a blank line."""
    assert _split("- a\n\n- b\n\n  c\n\n1. d\n\nend\n") == [
        "- a\n\n- b\n\n  c\n\n1. d\n\n",
        "end\n",
    ]


def test_small_chunks_are_joined() -> None:
    """A chunk is at least as long as asked for."""
    assert list(split_markdown("a\n\nb\n\nc\n", at_least_chars=4)) == ["a\n\nb\n\n", "c\n"]


def test_nothing() -> None:
    """No text has no chunks."""
    assert _split("") == []


@given(LINES, st.integers(1, 7))
def test_growing(text: str, step: int) -> None:
    """However a text grows, the cuts are those of the whole text."""
    splitter = Splitter()
    cuts = []
    for end in range(0, len(text) + step, step):
        cuts += splitter.feed(text[:end])

    assert cuts == Splitter().feed(text)


@given(LINES)
def test_chunks_mean_the_same(text: str) -> None:
    """Rendered chunk by chunk, Markdown gives what it gives as a whole."""
    reader = MarkdownIt("commonmark", {"html": False})

    assert "".join(reader.render(chunk) for chunk in _split(text)) == reader.render(text)


def test_fences() -> None:
    """A fence ends with as many of its own marks, at most three spaces in, and nothing after."""
    fences = Fences()
    lines = [
        "````",
        "```",
        "~~~~",
        "```` x",
        "    ````",
        "   `````",
        "x",
        "``` a`b",
        "~~~ a`b",
        "~~~",
    ]

    assert [fences.feed(line) for line in lines] == [True] * 6 + [False, False, True, True]


def test_paragraphs() -> None:
    """What stands in a fence is no paragraph."""
    assert list(paragraphs("a\nb\n\n```\nx\n```\nc\n")) == ["a\nb", "c"]
    assert list(paragraphs("a")) == ["a"]
