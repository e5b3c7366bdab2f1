"""The magics' declared flags -> the table in README.md; ``--check`` only says if it is current."""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from IPython.core.magic import Magics

from opencode_magic.jupyter import magics as magics_package

if TYPE_CHECKING:
    from collections.abc import Iterator

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN = "<!-- flags: written by scripts/readme.py -->\n"
END = "<!-- end of flags -->\n"


def main() -> int:
    """Write the table, or check it; 1 where it is not current."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()

    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    current = f"{before}{BEGIN}{flags_table()}{END}{after}"
    if options.check:
        return int(current != text)
    README.write_text(current, encoding="utf-8")
    return 0


def flags_table() -> str:
    """Give one row a magic and one row a flag, in the order of their declaration."""
    rows = ["| magic | flag | what it does |", "| --- | --- | --- |"]
    for name, parser in declared_magics():
        summary = (parser.description or "").strip().partition("\n")[0]
        rows.append(f"| `{name}` | | {cell(summary)} |")
        rows.extend(
            f"| | `{usage(action)}` | {cell(action.help or '')} |"
            for action in parser._actions  # noqa: SLF001 - argparse has no public list
            if action.dest != "help"
        )
    return "\n".join(rows) + "\n"


def declared_magics() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Give the parser of every magic of the package, under the name that a cell writes."""
    for found in pkgutil.iter_modules(magics_package.__path__):
        module = importlib.import_module(f"{magics_package.__name__}.{found.name}")
        for _, owner in inspect.getmembers(module, inspect.isclass):
            if not issubclass(owner, Magics) or owner.__module__ != module.__name__:
                continue
            for kind, sign in (("line", "%"), ("cell", "%%")):
                for name, attribute in owner.magics[kind].items():
                    yield sign + name, getattr(owner, attribute).parser


def usage(action: argparse.Action) -> str:
    """Write a flag as a user types it."""
    choices = "|".join(map(str, action.choices or ()))
    value = str(action.metavar or choices or action.dest.upper())
    if not action.option_strings:
        return value
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {value}".replace("|", "\\|")


def cell(text: str) -> str:
    """Make text fit a table's cell."""
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
