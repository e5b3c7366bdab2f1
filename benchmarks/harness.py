"""What the benchmarks share: measures taken in turn, an environment for peers, tables."""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "benchmarks"


def interleaved(
    measures: Mapping[str, Callable[[], float]], *, rounds: int
) -> dict[str, list[float]]:
    """Take every measure once a round, so that a busy moment of the machine meets all of them.

    Args:
        measures: By name; each gives one figure.
        rounds: How many figures to take of each.
    """
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            figures[name].append(measure())
    return figures


def median_row(name: str, figures: Sequence[float], unit: str) -> tuple[str, ...]:
    """Give a table's row: the name, the median, the smallest and the largest figure."""
    return (
        name,
        f"{statistics.median(figures):.1f} {unit}",
        f"{min(figures):.1f} to {max(figures):.1f}",
        str(len(figures)),
    )


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their header, columns aligned."""
    lines = [tuple(header), *[tuple(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        print("  ".join(cells).rstrip())


def goal(text: str, *, is_met: bool) -> bool:
    """Print whether a goal is met, and give that back."""
    print(f"{'met' if is_met else 'NOT MET'}: {text}")
    return is_met


def keep(name: str, figures: object) -> None:
    """Keep the figures as JSON beside those of the other benchmarks."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def peers_python(name: str = "peers") -> str:
    """Give a Python that has a lock file's packages in an environment of their own."""
    lock = ROOT / "scripts" / "locks" / f"{name}.txt"
    folder = ROOT / "build" / name
    python = folder / "bin" / "python"
    stamp = folder / ".locked"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text(encoding="ascii") != wanted:
        print(f"Installing {name} ...", file=sys.stderr)
        venv.create(folder, clear=True, with_pip=True)
        install = [str(python), "-m", "pip", "install", "-qq", "--require-hashes", "-r", str(lock)]
        subprocess.run(install, check=True)
        stamp.write_text(wanted, encoding="ascii")
    return str(python)


def run_python(python: str, code: str) -> str:
    """Run code in a fresh process and give what it printed, without the last newline."""
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()
