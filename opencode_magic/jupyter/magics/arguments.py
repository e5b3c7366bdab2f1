"""Flags that several magics share, and the one way in which a magic reads its line."""

from __future__ import annotations

import keyword
from typing import TYPE_CHECKING, TypeVar

from IPython.core.error import UsageError
from IPython.core.magic_arguments import argument, parse_argstring, real_name

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., object]")

MINUTES_MAX = 24 * 60


def up_arguments(func: F) -> F:
    """Add the flags that say what to launch, and where."""
    flags: tuple[Callable[[F], F], ...] = (
        argument(
            "--home",
            choices=("local", "cloud"),
            default="",
            help="Where the sandbox runs: on this machine, or on Vercel (which bills). Left out: "
            "local where it works, else cloud where credentials exist.",
        ),
        argument(
            "--model",
            type=plain,
            default="",
            metavar="PROVIDER/MODEL",
            help="The model, such as anthropic/claude-sonnet-4-6. Left out: the first provider "
            "that has a key, else the scripted demo model.",
        ),
        argument(
            "--base-url",
            type=plain,
            default="",
            metavar="URL",
            help="An OpenAI-compatible endpoint; --model then names the model there.",
        ),
        argument(
            "--time",
            type=minutes,
            default=None,
            metavar="MINUTES",
            help="How long the sandbox lives without a sign of this kernel.",
        ),
        argument(
            "--map",
            type=mapping,
            action="append",
            default=[],
            metavar="NAME=URL",
            help="Let the sandbox reach a server on this machine under a name that ends in "
            ".internal (local home only). May be given several times.",
        ),
        argument(
            "--strict",
            action="store_true",
            help="Let the firewall read plain allowed hosts too, so that none of them leads to its "
            "neighbours on a shared CDN (local home only). Programs that pin certificates fail.",
        ),
        argument(
            "--unproven",
            action="store_true",
            help="Go on where no evidence can be had that the wall stands. A probe that gets "
            "through still fails the launch.",
        ),
    )
    for flag in reversed(flags):
        func = flag(func)
    return func


def parse(magic: Callable[..., object], line: str, *, sign: str = "%") -> Namespace:
    """Read a magic's line.

    Args:
        magic: The magic's function.
        line: What stands behind its name.
        sign: How the magic is written, for messages.

    Raises:
        UsageError: IPython's own, with how to see the flags: an unknown flag, a value that does
            not fit, a quote that is not closed.
    """
    name = f"{sign}{real_name(magic)}"
    # A part of a flag's name is a mistake: ``--disc`` would delete the agent's files.
    magic.parser.allow_abbrev = False  # type: ignore[attr-defined]  # magic_arguments puts it there
    try:
        arguments: Namespace = parse_argstring(magic, line)
    except UsageError as exc:
        msg = f"{exc} ({name}? lists the flags)"
        raise UsageError(msg) from None
    except ValueError as exc:
        msg = f"{name}: {str(exc).lower()} in {line.strip()!r}"
        raise UsageError(msg) from None
    return arguments


def plain(value: str) -> str:
    """Give a flag's value without the quotes that IPython leaves around it."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in {'"', "'"}:
        return value[1:-1]
    return value


def variable_name(value: str) -> str:
    """Check the name of a variable to set."""
    name = plain(value)
    if not name.isidentifier() or keyword.iskeyword(name):
        msg = f"{name!r} cannot be the name of a variable"
        raise UsageError(msg)
    return name


def minutes(value: str) -> int:
    """Check a number of minutes."""
    number = int(value) if value.isdecimal() else 0
    if not 1 <= number <= MINUTES_MAX:
        msg = f"{value!r} is not a number of minutes from 1 to {MINUTES_MAX}"
        raise UsageError(msg)
    return number


def mapping(value: str) -> tuple[str, str]:
    """Split ``NAME=URL``."""
    name, equals, url = plain(value).partition("=")
    if not (name and equals and url):
        msg = f"{value!r} is not NAME=URL, such as ollama.internal=http://127.0.0.1:11434"
        raise UsageError(msg)
    return name, url
