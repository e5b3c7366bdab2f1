from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from opencode_magic.local.firewall.workers import Workers

if TYPE_CHECKING:
    import pytest

LIMIT_S = 10.0


def test_jobs_beyond_the_limit_are_refused() -> None:
    """With all threads busy and the queue full, a job is refused at once."""
    go_on = threading.Event()
    done = threading.Semaphore(0)
    workers = Workers("test", limit=2, waiting=1)

    def job() -> None:
        go_on.wait(LIMIT_S)
        done.release()

    started = [workers.start(job) for _ in range(4)]
    go_on.set()
    for _ in range(3):
        assert done.acquire(timeout=LIMIT_S)
    workers.close()

    assert started == [True, True, True, False]
    assert not workers.start(job)


def test_a_machine_without_threads_refuses_and_recovers() -> None:
    """Where no thread can be had the job is refused; later ones run as before."""
    done = threading.Semaphore(0)
    workers = Workers("test", limit=1)
    usual = threading.stack_size(1 << 46)  # no machine has room for such a thread
    try:
        refused = workers.start(done.release)
    finally:
        threading.stack_size(usual)
    started = workers.start(done.release)

    assert (refused, started) == (False, True)
    assert done.acquire(timeout=LIMIT_S)
    assert not done.acquire(timeout=0.1)
    workers.close()


def test_a_job_that_fails_ends_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    """The next job runs, and the log names the kind of error without what it says."""
    done = threading.Event()
    workers = Workers("test", limit=1, waiting=1)

    def fail() -> None:
        raise RuntimeError("SECRET")

    workers.start(fail)
    workers.start(done.set)

    assert done.wait(LIMIT_S)
    workers.close()
    assert "RuntimeError" in caplog.text
    assert "SECRET" not in caplog.text
