"""How long ``%load_ext`` takes in a fresh IPython, beside that of jupyter-ai-magic-commands.

Goal: ours under 150 ms beyond IPython.
"""

from __future__ import annotations

import statistics
import sys
from functools import partial

from harness import goal, interleaved, keep, median_row, peers_python, print_table, run_python

ROUNDS = 7
GOAL_MS = 150.0

TIMED_LOAD = """
from time import perf_counter
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell("pass")
began = perf_counter()
result = shell.run_cell("%load_ext {name}")
ended = perf_counter()
result.raise_error()
print((ended - began) * 1000)
"""


def load_ms(python: str, name: str) -> float:
    """Load an extension in a shell that is up, and give the milliseconds it took."""
    return float(run_python(python, TIMED_LOAD.format(name=name)).splitlines()[-1])


def main() -> int:
    """Measure and print; 1 where the goal is not met."""
    peers = peers_python()
    extensions = {
        "opencode_magic": (sys.executable, "opencode_magic"),
        "jupyter_ai_magic_commands": (peers, "jupyter_ai_magic_commands"),
    }
    for python, name in extensions.values():
        load_ms(python, name)  # compiled files and disk cache are warm for both
    measures = {name: partial(load_ms, *where) for name, where in extensions.items()}
    figures = interleaved(measures, rounds=ROUNDS)
    rows = [median_row(name, values, "ms") for name, values in figures.items()]
    print_table(("%load_ext", "median", "range", "runs"), rows)
    keep("load", figures)
    median = statistics.median(figures["opencode_magic"])
    return 0 if goal(f"{median:.0f} ms, under {GOAL_MS:.0f} ms", is_met=median < GOAL_MS) else 1


if __name__ == "__main__":
    sys.exit(main())
