"""What goes wrong for users, in a real kernel: one clear line, nothing left, no text lost."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.jupyter.kernels import (
    Kernel,
    Shown,
    is_running,
    kernel_folder,
    leftovers,
    processes,
    running_kernel,
    server_pid,
    wait_until,
)
from tests.scripted import script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the local home is Linux's")

LARGE = "get_ipython().run_cell_magic('ask', '-o big', 'x' * {count} + '\\n!scripted digest')"


@pytest.fixture(scope="module")
def kernel(seeded_cache: Path) -> Iterator[Kernel]:
    """Give a kernel with the extension loaded; each test brings its sandbox up."""
    with kernel_folder() as base, running_kernel(base, seeded_cache) as kernel:
        yield kernel


@pytest.fixture
def up(kernel: Kernel) -> Kernel:
    """Give a kernel whose sandbox is up and locked."""
    launched = kernel.run("%opencode_up")
    assert launched.error == ""
    assert "Locked" in launched.text
    return kernel


def when(text: str, act: Callable[[], object]) -> Callable[[Shown], None]:
    """Give a watch that acts once, as soon as the text is shown."""
    has_acted: list[bool] = []

    def watch(shown: Shown) -> None:
        if not has_acted and any(text in str(data) for data in shown.displays):
            has_acted.append(True)
            act()

    return watch


def one_line(shown: Shown, name: str) -> str:
    """Check that the cell ended with one line of ours, and give it."""
    assert shown.error_name == name, shown
    assert "\n" not in shown.error
    assert "Traceback" not in shown.error + shown.stderr
    return shown.error


def test_a_provider_that_asks_to_wait_an_hour(up: Kernel) -> None:
    """A Retry-After of an hour ends the turn at once with a line that says so."""
    started = time.monotonic()

    asked = up.run(f"%%ask\n{script('status 429 3600')}")

    assert "asks to wait 60 min" in one_line(asked, "TurnFailed")
    assert time.monotonic() - started < 15


def test_a_model_that_the_provider_does_not_know(up: Kernel) -> None:
    """The provider's 404 is one line with what to do."""
    asked = up.run(f"%%ask\n{script('status 404')}")

    assert "does not know the model" in one_line(asked, "TurnFailed")
    assert "--model" in asked.error


@pytest.mark.parametrize("trouble", ["status 500", "cut"])
def test_a_provider_that_fails(up: Kernel, trouble: str) -> None:
    """While OpenCode tries again the wait is shown, and an Interrupt ends it."""
    asked = up.run(f"%%ask\n{script('say Once.', trouble)}", watch=when("Waiting", up.interrupt))

    assert asked.error_name == "KeyboardInterrupt"
    assert "Stopped" in asked.text
    assert "On." in up.run(f"%%ask\n{script('say On.')}").text


def test_a_provider_that_goes_silent(up: Kernel) -> None:
    """A provider that falls silent can be interrupted; what had come is kept."""
    text = script("slow 40 20ms", "stall")

    asked = up.run(f"%%ask -o half\n{text}", watch=when("word1", up.interrupt))

    assert asked.error_name == "KeyboardInterrupt"
    assert "word1" in asked.text
    assert up.run("print(half.state, 'word1' in half.text)").stdout == "stopped True\n"


def test_opencode_killed_in_a_turn(up: Kernel) -> None:
    """When OpenCode dies the turn fails with what came, and the next up launches again."""

    def kill() -> None:
        [server] = processes("opencode serve", under=server_pid(up.base))
        os.kill(server, signal.SIGKILL)

    asked = up.run(f"%%ask -o part\n{script('slow 400 50ms')}", watch=when("word1", kill))
    status = up.run("%opencode_status")
    again = up.run("%opencode_up")

    assert "%opencode_up" in one_line(asked, "TurnFailed")
    assert "word1" in up.run("print(part.text)").stdout
    assert status.stdout.startswith("Failed at ")
    assert "Locked" in again.text
    assert up.run(f"%%ask\n{script('say Back.')}").error == ""


def test_the_local_server_killed_in_a_turn(up: Kernel) -> None:
    """When the local server dies its sandboxes end with it, and the next up starts it again."""
    pid = server_pid(up.base)
    assert pid is not None
    before = set(leftovers(up.base))

    def kill() -> None:
        os.kill(pid, signal.SIGKILL)

    asked = up.run(f"%%ask -o part\n{script('slow 400 50ms')}", watch=when("word1", kill))
    # Another server was started to find the agent's files, and has a spare of its own.
    gone = "the sandbox's processes are gone"
    wait_until(lambda: not before & set(leftovers(up.base)), gone)
    again = up.run("%opencode_up")

    assert "%opencode_up" in one_line(asked, "TurnFailed")
    assert "word1" in up.run("print(part.text)").stdout
    assert "Locked" in again.text
    assert server_pid(up.base) != pid


def test_opencode_killed_between_turns(up: Kernel) -> None:
    """An ask to an agent that has died says so, and the next up launches again."""
    [server] = processes("opencode serve", under=server_pid(up.base))
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: not is_running(server), "the agent is dead")

    asked = up.run(f"%%ask\n{script('say Anybody?')}")
    status = up.run("%opencode_status")

    assert "%opencode_up" in one_line(asked, asked.error_name)
    assert status.stdout.startswith("Failed at ")
    assert "Locked" in up.run("%opencode_up").text


def test_an_interrupted_launch(kernel: Kernel) -> None:
    """An Interrupt while launching leaves nothing, and the next launch works."""
    kernel.run("%opencode_down")
    launched = kernel.run("%opencode_up", watch=when("Launching", kernel.interrupt))

    assert launched.error_name == "KeyboardInterrupt"
    assert launched.error == "Interrupted: nothing was left running."
    assert "Failed" in launched.text
    wait_until(lambda: not leftovers(kernel.base), "nothing of the launch is left")
    assert "Locked" in kernel.run("%opencode_up").text


def test_nothing_is_left_after_down(up: Kernel) -> None:
    """After ``%opencode_down`` no process and no mount of the sandbox remains."""
    assert leftovers(up.base)

    up.run("%opencode_down")

    wait_until(lambda: not leftovers(up.base), "nothing is left", limit_s=2)


def test_the_usual_port_in_use(kernel: Kernel) -> None:
    """OpenCode's port inside is the sandbox's own: one that is taken outside does not matter."""
    kernel.run("%opencode_down")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 4096))
        taken.listen()

        assert "Locked" in kernel.run("%opencode_up").text


def test_a_prompt_of_10_mb(up: Kernel) -> None:
    """A prompt of 10 MB arrives whole."""
    asked = up.run(LARGE.format(count=10_000_000), timeout_s=100)

    assert asked.error == ""
    assert up.run("print(big.text[:8], big.state)").stdout == "10000017 done\n"


def test_a_prompt_that_is_too_large(up: Kernel) -> None:
    """A prompt above the limit is refused at once, with another way."""
    asked = up.run(LARGE.format(count=30_000_000))

    assert "write the text to a file" in one_line(asked, "PromptError")


def test_two_kernels_at_once(seeded_cache: Path) -> None:
    """Two kernels have a sandbox each on one local server, and end it each for itself."""
    with kernel_folder() as base, ExitStack() as stack:
        first, second = (stack.enter_context(running_kernel(base, seeded_cache)) for _ in range(2))
        launches = [one.start("%opencode_up") for one in (first, second)]
        for one, launch in zip((first, second), launches, strict=True):
            assert "Locked" in one.follow(launch).text
        names = {
            one.run("import opencode_magic as om; print(om.status().sandbox_name)").stdout
            for one in (first, second)
        }
        first.run("%opencode_down")

        assert len(names) == 2
        assert second.run(f"%%ask\n{script('say Mine.')}").error == ""


def test_a_killed_kernel(seeded_cache: Path) -> None:
    """What a killed kernel left is removed at the next launch, and its sandbox ends."""
    with kernel_folder() as base:
        with running_kernel(base, seeded_cache) as killed:
            killed.run("%opencode_up")
            [before] = processes("opencode serve", under=server_pid(base))
            killed.kill()
        with running_kernel(base, seeded_cache) as kernel:
            kernel.run("%opencode_up")
            wait_until(lambda: not is_running(before), "the orphan is swept")

            assert "Locked" in kernel.run("%opencode_status").text


def test_a_kernel_that_is_shut_down(seeded_cache: Path) -> None:
    """A kernel that ends takes its sandbox with it, within moments."""
    with kernel_folder() as base:
        with running_kernel(base, seeded_cache) as kernel:
            kernel.run("%opencode_up")
            assert leftovers(base)

        wait_until(lambda: not leftovers(base), "the sandbox is gone")
