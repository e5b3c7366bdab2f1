from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from opencode_magic.session.warm import MODULES, warm_up

SHOW = """
import sys, threading
from opencode_magic.session.warm import MODULES, warm_up
before = [name for name in MODULES if name in sys.modules]
warm_up().join()
print(before, all(name in sys.modules for name in MODULES), threading.active_count())
"""


def test_what_a_launch_needs_is_imported_and_the_thread_ends() -> None:
    """In a new process nothing of it is there before, all of it after, and no thread is left."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )

    assert done.stdout.split("\n")[0] == "[] True 1"


def test_a_library_that_is_missing_stops_nothing() -> None:
    """What cannot be imported is left to the one who uses it."""
    thread = warm_up(["no_such_library_anywhere"])

    thread.join(60)

    assert not thread.is_alive()
    assert MODULES[0] in sys.modules
