"""The scripted model's rules: what is asked to what is answered."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_magic.local.demo_answer import Answer, Asked, Piece, ToolCall, ToolResult
from opencode_magic.local.demo_script import PIECES_LIMIT, answer, sized_markdown
from opencode_magic.local.demo_words import looks_refused
from tests.scripted import script


def result(
    tool: str, output: str = "", *, is_error: bool = False, **arguments: object
) -> ToolResult:
    return ToolResult(tool, arguments, output, is_error)


def calls(prompt: str) -> list[ToolCall]:
    """Give the tool calls that a prompt leads to, each answered with nothing."""
    found: list[ToolCall] = []
    while call := answer(Asked(prompt, tuple(ToolResult("", {}, "") for _ in found))).call:
        found.append(call)
    return found


@pytest.mark.parametrize(
    ("prompt", "tools"),
    [
        ("Hello there", []),
        ("List the files in this folder.", ["bash"]),
        ("What files are in the workspace?", ["bash"]),
        ("Create a file hello.py that prints hello, and run it", ["write", "bash"]),
        ("Please run `uname -a`", ["bash"]),
        ("fetch https://example.com/page.", ["webfetch"]),
        ("Visit example.com and tell me", ["webfetch"]),
        (
            "List the files, write notes.md, then fetch https://a.example/ and https://b.example/",
            ["bash", "write", "webfetch", "webfetch"],
        ),
    ],
)
def test_words_lead_to_the_tools_that_they_name(prompt: str, tools: list[str]) -> None:
    """One after the other, then a report."""
    assert [call.tool for call in calls(prompt)] == tools


def test_a_tool_that_the_agent_has_not_is_not_called() -> None:
    """What is denied is not in the request's list."""
    assert answer(Asked("fetch https://a.example/", tools=frozenset({"bash"}))).call is None


def test_it_always_says_that_it_is_scripted() -> None:
    """In plain words there is no answer that could be taken for a model's."""
    for asked in (
        Asked("hi"),
        Asked("list files"),
        Asked("list files", (result("bash", "a.txt", command="ls"),)),
    ):
        assert "scripted demo model" in answer(asked).text.lower()


@pytest.mark.parametrize(
    ("fetched", "words"),
    [
        (result("webfetch", "Hello", url="https://a.example/"), "I fetched https://a.example/"),
        (
            result(
                "webfetch", "Transport error (GET https://a.example/)", url="https://a.example/"
            ),
            "The sandbox's wall refused it",
        ),
        (result("webfetch", "no", is_error=True, url="https://a.example/"), "wall refused it"),
    ],
)
def test_a_fetch_is_reported_as_it_went(fetched: ToolResult, words: str) -> None:
    """A refused one names the wall, one that went through does not."""
    text = answer(Asked("fetch https://a.example/", (fetched,))).text

    assert words in text
    assert ("wall" in text) == ("wall" in words)


@pytest.mark.parametrize(
    "output",
    [
        "Request failed with status code: 403",
        "StatusCode: non 2xx status code (403 GET https://a.example/)",
    ],
)
def test_a_status_is_not_taken_for_the_wall(output: str) -> None:
    """The host may have said it: who did is on the receipt."""
    fetched = result("webfetch", output, url="https://a.example/")

    text = answer(Asked("fetch https://a.example/", (fetched,))).text
    assert "I did not get https://a.example/.** What answered there said 403" in text


@pytest.mark.parametrize(
    "output",
    [
        "Transport error (GET https://x/)",
        "Unable to connect. Is the computer able to access the url?",
        "connect ECONNREFUSED",
    ],
)
def test_failures_are_known_by_their_words(output: str) -> None:
    """Not every protocol marks a tool's error."""
    assert looks_refused(output)
    assert not looks_refused("<h1>Welcome</h1>")


def test_directives_run_in_order() -> None:
    """Text before a tool goes with its call; the rest is the end."""
    prompt = script("say A", 'bash "echo hi"', "say B", "write x.txt some text", "say C")
    bash, write = result("bash"), result("write")

    assert answer(Asked(prompt)) == Answer(
        (Piece("A"),),
        ToolCall("bash", {"command": "echo hi", "description": "Scripted command"}),
    )
    assert answer(Asked(prompt, (bash,))) == Answer(
        (Piece("B"),), ToolCall("write", {"filePath": "x.txt", "content": "some text\n"})
    )
    assert answer(Asked(prompt, (bash, write))) == Answer((Piece("C"),))


@pytest.mark.parametrize(
    ("directive", "text"),
    [
        (f"markdown {base64.b64encode('é **b**'.encode()).decode()}", "é **b**"),
        ("markdown %%%", "(not base64)"),
        ("slow 2 1ms", "word0 word1 "),
        ("say 'quoted'", "quoted"),
        ("nonsense x", "(unknown directive: nonsense)"),
    ],
)
def test_directives_say_what_they_say(directive: str, text: str) -> None:
    """Exactly, with nothing added."""
    assert answer(Asked(script(directive))).text == text


def test_a_prompt_can_be_echoed_and_counted() -> None:
    """As it arrived."""
    prompt = "a {b} $c\n!scripted echo"
    digest = hashlib.sha256(b"x\n!scripted digest").hexdigest()

    assert answer(Asked(prompt)).text == prompt
    assert answer(Asked("x\n!scripted digest")).text == f"18 characters, sha256 {digest}"


@pytest.mark.parametrize(("size", "length"), [("2KB", 2_000), ("1MB", 1_000_000), ("7", 7)])
def test_a_reply_has_the_size_that_was_asked_for(size: str, length: int) -> None:
    """To the byte, in pieces as large as asked."""
    said = answer(Asked(script(f"reply {size} 100")))

    assert len(said.text.encode()) == length
    assert {len(piece.text) for piece in said.pieces[:-1]} <= {100}
    assert sized_markdown(length) == said.text
    paced = answer(Asked(script(f"reply {size} 100 2ms")))
    assert (paced.text, {piece.pause_s for piece in paced.pieces}) == (said.text, {0.002})


def test_no_answer_has_more_pieces_than_the_server_can_hold() -> None:
    """Whatever size and number of replies is asked for: pieces grow, or what follows is left."""
    one, two = answer(Asked(script("reply 16MB 1"))), answer(Asked(script(*["reply 9MB 1"] * 9)))

    assert (len(one.text), len(one.pieces) <= PIECES_LIMIT) == (16_000_000, True)
    assert len(two.pieces) < 2 * PIECES_LIMIT


@pytest.mark.parametrize(
    ("directive", "expected"),
    [
        ("status 429 3600", Answer(status=429, retry_after_s=3600)),
        ("status abc", Answer(status=500)),
        ("cut", Answer(trouble="cut")),
        ("stall", Answer(trouble="stall")),
        ("hang", Answer(trouble="hang")),
        ("wait 2s", Answer(wait_s=2)),
        ("finish length", Answer(finish="length")),
        ("usage 9", Answer(usage_tokens=9)),
    ],
)
def test_directives_make_trouble(directive: str, expected: Answer) -> None:
    """Exactly as much as they say."""
    assert answer(Asked(script(directive))) == expected


@given(st.text(), st.lists(st.text(max_size=9), max_size=3))
def test_any_prompt_has_an_answer(prompt: str, directives: list[str]) -> None:
    """The same each time, and never an exception."""
    asked = Asked(f"{prompt}\n{script(*directives)}")

    assert answer(asked) == answer(asked)
