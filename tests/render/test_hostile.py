"""The hostile samples, each through every way by which text from the agent is shown."""

from __future__ import annotations

import os
import re
import time
from html.parser import HTMLParser

import pytest

from opencode_magic.core.parts import (
    FilePart,
    Message,
    PatchPart,
    PermissionRequest,
    ReasoningPart,
    Retry,
    TextPart,
    ToolPart,
    Turn,
)
from opencode_magic.errors import SandboxLaunchError
from opencode_magic.render.blocks import error_blocks, turn_blocks
from opencode_magic.render.html import render_html
from opencode_magic.render.inert import markdown_html
from opencode_magic.render.text import render_text
from opencode_magic.render.wall import is_inert
from tests.render.hostile import SAMPLES, samples

PORT = 9
TIME_LIMIT_S = 1.0 * float(os.environ.get("OPENCODE_MAGIC_TEST_TIMES", "1"))
FILLED = samples(PORT)
TAGS = frozenset(
    [
        *("a", "blockquote", "br", "code", "details", "div", "em", "hr", "li", "ol", "p", "pre"),
        *("s", "span", "strong", "summary", "table", "tbody", "td", "th", "thead", "tr", "ul"),
    ]
)
ATTRIBUTES = frozenset(
    ["style", "class", "href", "rel", "target", "open", "start", "role", "aria-level"]
)
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b\u2060\ufeff\ud800-\udfff]"
)


class _Reader(HTMLParser):
    """Reads HTML as the standard library does, apart from our own wall."""

    def __init__(self) -> None:
        super().__init__()
        self.problems: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS:
            self.problems.append(tag)
        for name, value in attrs:
            is_bad_link = name == "href" and not re.match(
                r"(?:https?://|mailto:)[a-z]", value or ""
            )
            is_bad_style = name == "style" and re.search(
                r"url|expression|position|@|\\", value or ""
            )
            if name not in ATTRIBUTES or is_bad_link or is_bad_style:
                self.problems.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.problems.append(f"comment {data}")

    def handle_decl(self, decl: str) -> None:
        self.problems.append(f"declaration {decl}")

    def unknown_decl(self, data: str) -> None:
        self.problems.append(f"declaration {data}")

    def handle_pi(self, data: str) -> None:
        self.problems.append(f"instruction {data}")


def _read(html: str) -> _Reader:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader


def _everywhere(text: str) -> Turn:
    """Give a turn that holds the text wherever the agent, a tool or a server can put it."""
    tool = ToolPart(
        text,
        "m",
        "c",
        text[:500],
        "error",
        input={"command": text, "url": text},
        title=text,
        output=text,
        error=text,
        diff=text,
        exit_code=1,
    )
    parts = (
        TextPart("t", "m", text),
        ReasoningPart("r", "m", text),
        tool,
        FilePart("f", "m", text, text, text),
        PatchPart("p", "m", (text, text)),
    )
    return Turn(
        text[:100],
        text,
        "failed",
        messages=(Message("m", "s", "assistant", parts=parts),),
        model=text,
        error=text,
        retry=Retry(1, text, 0),
        permissions=(PermissionRequest("r", "s", text, (text,)),),
    )


def test_there_are_enough() -> None:
    """The corpus holds at least 40 samples."""
    assert len(SAMPLES) >= 40


@pytest.mark.parametrize("name", FILLED)
def test_markdown_is_inert(name: str) -> None:
    """A sample as Markdown holds only listed tags and attributes, read by two readers."""
    html = markdown_html(FILLED[name])

    assert is_inert(html)
    assert _read(html).problems == []
    assert not HIDDEN.search(html)


@pytest.mark.parametrize("name", FILLED)
def test_turn_is_inert(name: str) -> None:
    """A turn that holds a sample in every place is inert HTML, and text that hides nothing."""
    blocks = turn_blocks(_everywhere(FILLED[name]))
    html = render_html(blocks)

    assert html.startswith('<div class="mathjax_ignore tex2jax_ignore" style="font-family:')
    assert is_inert(html)
    assert _read(html).problems == []
    assert not HIDDEN.search(html)
    assert not HIDDEN.search(render_text(blocks))


@pytest.mark.parametrize("name", FILLED)
def test_error_is_inert(name: str) -> None:
    """An error and a server's log lines pass the same wall."""
    text = FILLED[name]
    ours = SandboxLaunchError(text, step=text, log_lines=(text,), next_step=text)
    for error in (ours, ValueError(text)):
        html = render_html(error_blocks(error))

        assert is_inert(html)
        assert _read(html).problems == []


@pytest.mark.parametrize("name", FILLED)
def test_no_typesetting(name: str) -> None:
    """No MathJax delimiter stands complete in one element."""
    for text in _read(markdown_html(FILLED[name])).texts:
        assert text in {"$", "\\"} or not re.search(r"[$\\]", text)


@pytest.mark.parametrize("name", FILLED)
def test_is_quick(name: str) -> None:
    """No sample takes long, whatever it nests."""
    started = time.process_time()
    markdown_html(FILLED[name])

    assert time.process_time() - started < TIME_LIMIT_S


def test_words_stay() -> None:
    """What a hostile reply says can still be read."""
    html = markdown_html(FILLED["script"])

    assert "".join(_read(html).texts) == f"<script>fetch('http://127.0.0.1:{PORT}/script')</script>"
