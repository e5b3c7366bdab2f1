from __future__ import annotations

import signal
import sys
import threading
import time

import pytest

from opencode_magic.sandbox import ending

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals are sent to a thread")


def work_and_interrupt(interrupts: int, seconds: float) -> threading.Event:
    """Begin work of so many seconds, whose beginning interrupts the main thread."""
    main = threading.main_thread().ident
    assert main is not None

    def work() -> None:
        for _ in range(interrupts):
            time.sleep(0.1)
            signal.pthread_kill(main, signal.SIGINT)
        time.sleep(seconds)

    return ending.begin(work, name="test")


def test_an_interrupt_does_not_end_the_wait_for_a_clean_up() -> None:
    """The work goes on to its end, and is waited for."""
    done = work_and_interrupt(2, 0.5)

    ending.wait(done, 10.0)

    assert done.is_set()


def test_an_interrupt_leaves_work_its_time() -> None:
    """One Interrupt is told after the work has ended; where that takes too long it is left."""
    quick = work_and_interrupt(1, 0.3)
    is_interrupted = ending.wait_out(quick, after_interrupt_s=10.0)
    slow = work_and_interrupt(1, 5.0)
    ending.wait_out(slow, after_interrupt_s=0.2)

    assert is_interrupted
    assert quick.is_set()
    assert not slow.is_set()


def test_a_second_interrupt_leaves_the_work() -> None:
    """Who presses twice does not wait."""
    began_s = time.monotonic()
    done = work_and_interrupt(2, 5.0)

    assert ending.wait_out(done, after_interrupt_s=10.0)
    assert not done.is_set()
    assert time.monotonic() - began_s < 4


def test_work_without_an_interrupt() -> None:
    """Nothing is told where nothing came."""
    assert not ending.wait_out(work_and_interrupt(0, 0.1), after_interrupt_s=1.0)
