from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

from opencode_magic.core.parts import ReasoningPart, TextPart, Turn
from opencode_magic.jupyter.view import CellView, turn_bundle, turn_metadata
from opencode_magic.render.wall import is_inert
from tests.jupyter.screens import Clock, Screen
from tests.render.samples import BASH, STREAMING, TURN

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from opencode_magic.jupyter.frontend import Way


def _view(screen: Screen, *, way: Way = "frames", clock: Clock | None = None) -> CellView:
    return CellView(cast("InteractiveShell", screen), way=way, clock=clock or time.monotonic)


def _so_far(text: str) -> Turn:
    message = replace(TURN.messages[0], parts=(BASH, TextPart("t", "m", text)))
    return replace(STREAMING, messages=(message,), permissions=(), retry=None)


def _only(text: str) -> Turn:
    turn = _so_far(text)
    return replace(turn, messages=(replace(turn.messages[0], parts=(TextPart("t", "m", text),)),))


def _stop_timer(view: CellView) -> None:
    with view._lock:
        view._cancel_timer()


def test_one_output() -> None:
    """The first frame opens an output, every later one replaces it."""
    screen, clock = Screen(), Clock()
    view = _view(screen, clock=clock)
    view.show(_so_far("a"))
    clock.now_s += 5
    view.show(_so_far("ab"))
    view.show(TURN, is_final=True)

    assert [message.is_update for message in screen.messages] == [False, True, True]
    assert len({message.display_id for message in screen.messages}) == 1
    assert all(is_inert(message.html) for message in screen.messages)


def test_last_frame_always() -> None:
    """The last frame goes at once, however fresh the one before is, and nothing follows it."""
    screen = Screen()
    view = _view(screen, clock=Clock())
    view.show(_so_far("a"))
    view.show(_so_far("ab"))
    view.show(TURN, is_final=True)
    view.show(_so_far("late"))
    view.show(TURN, is_final=True)

    assert len(screen.messages) == 2
    assert screen.messages[-1].data == turn_bundle(TURN)
    assert screen.messages[-1].metadata == turn_metadata(TURN)


def test_kept_frame_is_sent() -> None:
    """A frame that came too early is sent by itself, from a thread that then ends."""
    screen = Screen()
    view = _view(screen)
    view.show(_so_far("a"))
    view.show(replace(_so_far("a"), permissions=STREAMING.permissions))
    until = time.monotonic() + 10
    while len(screen.messages) < 2 and time.monotonic() < until:
        time.sleep(0.01)

    assert "May it?" in screen.messages[1].html
    assert view._timer is None


def test_sooner_frame_moves_the_timer() -> None:
    """A change that must be seen soon does not wait for text that can wait."""
    view = _view(Screen(), clock=Clock())
    view.show(_so_far("a"))
    view.show(_so_far("ab"))
    slow = view._timer
    view.show(_so_far("abc"))
    same = view._timer
    view.show(replace(_so_far("abc"), permissions=STREAMING.permissions))
    quick = view._timer
    _stop_timer(view)

    assert slow is not None
    assert quick is not None
    assert same is slow
    assert quick.interval < 1 < slow.interval


def test_stale_timer_does_nothing() -> None:
    """A timer that was replaced while it fired sends nothing."""
    screen = Screen()
    view = _view(screen, clock=Clock())
    view.show(_so_far("a"))
    view.show(_so_far("ab"))
    view._send_waiting()
    _stop_timer(view)

    assert len(screen.messages) == 1


def test_nothing_waits() -> None:
    """A timer that finds nothing to send sends nothing."""
    screen = Screen()
    view = _view(screen)
    view.show(_so_far("a"))
    view._timer = cast("threading.Timer", threading.current_thread())
    view._send_waiting()

    assert len(screen.messages) == 1


def test_once() -> None:
    """Where no updates are known, there is one output without a display id."""
    screen = Screen()
    view = _view(screen, way="once")
    view.show(_so_far("a"))
    view.show(TURN, is_final=True)

    (message,) = screen.messages
    assert (message.display_id, message.is_update) == ("", False)
    assert message.data == turn_bundle(TURN)


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A terminal gets the words as they come."""
    view = _view(Screen(), way="lines")
    view.show(_so_far("a"))
    view.show(_so_far("ab"))
    view.show(TURN, is_final=True)
    view.show(TURN, is_final=True)

    said = capsys.readouterr().out
    assert said.startswith("[bash ls  (0.10 s, exit 0)]\nab\n")
    assert said.count("done in 2.3 s") == 1


def test_chosen_way(shell: InteractiveShell) -> None:
    """Without a wish the view finds out what the front end can show."""
    assert CellView(shell).way == "lines"


def test_bundle() -> None:
    """A reply is published as HTML and as text, never as Markdown, with facts for programs."""
    assert set(turn_bundle(TURN)) == {"text/plain", "text/html"}
    assert turn_metadata(TURN) == {
        "opencode_magic": {
            "model": "demo-model/scripted",
            "is_scripted": True,
            "session": "ses_1",
            "state": "done",
            "tokens": 812,
            "cost": None,
            "duration_s": 2.3,
        }
    }


def test_metadata_hides_nothing() -> None:
    """A name from the server cannot hide anything in what is saved, and can always be encoded."""
    facts = turn_metadata(replace(TURN, model="a\ud83d\u202eb", session_id="\x1b[2Jses"))

    assert "a\ufffd⟨U+202E⟩b" in str(facts)
    assert "'session': 'ses'" in str(facts)


def test_from_another_thread() -> None:
    """A view works from a thread that has no shell."""
    screen = Screen()
    view = _view(screen)
    thread = threading.Thread(target=view.show, args=(TURN,), kwargs={"is_final": True})
    thread.start()
    thread.join()

    assert screen.messages[0].data == turn_bundle(TURN)


def test_empty_reasoning_is_no_news() -> None:
    """A part that shows nothing is no reason for a frame."""
    screen, clock = Screen(), Clock()
    view = _view(screen, clock=clock)
    turn = _so_far("a")
    view.show(turn)
    parts = (*turn.messages[0].parts, ReasoningPart("r", "m", ""))
    clock.now_s += 0.2
    view.show(replace(turn, messages=(replace(turn.messages[0], parts=parts),)))
    _stop_timer(view)

    assert len(screen.messages) == 1


PROSE = "\n\n".join(["The sandbox refused the connection, as its policy says. " * 6] * 7)
MIXED = """## A section

This is what a model writes, with **bold** words, `code` and a [link](https://example.com/1).

- a first point
- a second point, a little longer than the first one

```python
def section(values):
    return [value for value in values if value]
```

"""


@pytest.mark.parametrize("rate", [500, 1_000, 4_000])
@pytest.mark.parametrize("text", [PROSE[:2_048], (MIXED * 20)[:2_048]], ids=["prose", "mixed"])
def test_small_reply_is_cheap(rate: float, text: str) -> None:
    """A reply of 2 KB costs at most 25 updates and 30 KB, whatever it holds."""
    screen, clock = Screen(), Clock()
    view = _view(screen, clock=clock)
    for end in range(0, len(text), 5):
        clock.now_s = 100 + end / rate
        view.show(_only(text[:end]))
    final = replace(TURN, messages=_only(text).messages)
    view.show(final, is_final=True)

    assert len(screen.messages) <= 25
    assert sum(message.size_bytes for message in screen.messages) <= 30_000


def test_time_is_linear() -> None:
    """Four times the reply costs about four times the processor time."""
    block = "Some **bold** words, `code` and more of them, as a model writes them.\n\n"

    def measure(size: int) -> float:
        text = block * (size // len(block))
        clock = Clock()
        view = _view(Screen(), clock=clock)
        started = time.process_time()
        for end in range(0, size, 1_000):
            clock.now_s += 0.05
            view.show(_so_far(text[:end]))
        view.show(replace(TURN, messages=_so_far(text).messages), is_final=True)
        return time.process_time() - started

    measure(10_000)
    small, large = measure(50_000), measure(200_000)

    assert large < 8 * small + 0.2
