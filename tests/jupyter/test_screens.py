from __future__ import annotations

from tests.jupyter.screens import Clock, Published, Screen


def test_screen() -> None:
    """A screen keeps each message as it came."""
    screen = Screen()
    screen.display_pub.publish({"text/plain": "a", "text/html": "<p>"})
    screen.publish({"text/plain": "b"}, {"x": 1}, transient={"display_id": "d"}, update=True)

    assert screen.messages == [
        Published({"text/plain": "a", "text/html": "<p>"}, {}, "", is_update=False),
        Published({"text/plain": "b"}, {"x": 1}, "d", is_update=True),
    ]
    assert (screen.messages[0].html, screen.messages[1].text) == ("<p>", "b")
    assert screen.messages[1].size_bytes == len('[{"text/plain": "b"}, {"x": 1}]')


def test_clock() -> None:
    """A clock stands still until it is moved."""
    clock = Clock()
    clock.now_s += 1

    assert clock() == 101
