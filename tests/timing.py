"""A pytest plugin that keeps a run's books: seconds by folder, and tests left out by name."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

OPTIONAL_MARKS = ("live", "soak")


class FolderTiming:
    """Adds up how long each folder's tests took, fixtures included, and which were deselected."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.tests: Counter[str] = Counter()
        self.deselected: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count one phase of one test."""
        folder = report.nodeid.partition("::")[0].rpartition("/")[0]
        self.seconds[folder] += report.duration  # type: ignore[assignment] # - a Counter adds floats just as well
        self.tests[folder] += report.when == "call"

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Count the tests that are left out by name."""
        for mark in OPTIONAL_MARKS:
            self.deselected[mark] += sum(1 for item in items if item.get_closest_marker(mark))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print both."""
        terminalreporter.section("time by folder")
        for folder, seconds in self.seconds.most_common():
            terminalreporter.write_line(f"{seconds:8.1f} s {self.tests[folder]:6d} tests  {folder}")
        for mark in OPTIONAL_MARKS:
            terminalreporter.write_line(f"deselected {mark} tests: {self.deselected[mark]}")
