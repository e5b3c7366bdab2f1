"""``python -m opencode_magic``: doctor, list, sweep, password NAME."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from opencode_magic.errors import OpencodeMagicError, UsageMistake

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give the exit code: 0, or 1 where something is wrong.

    Args:
        arguments: By default those of the command line.
    """
    given = _parser().parse_args(arguments)
    try:
        code: int = given.run(given)
    except OpencodeMagicError as exc:
        print("".join(exc._render_traceback_()), file=sys.stderr)  # noqa: T201 - our own error on its way out
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="opencode-magic",
        description="Look after the sandboxes that opencode-magic launched from notebooks.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("doctor", _doctor, "say what works on this machine, what does not, and the next steps"),
        ("list", _list, "list the sandboxes that kernels of yours have launched"),
        ("sweep", _sweep, "remove the sandboxes of kernels that are gone"),
        ("password", _password, "print the password of a sandbox's agent server, to attach to it"),
    ):
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        command.set_defaults(run=run)
        if run is _password:
            command.add_argument("name", help="the sandbox, such as quiet-heron")
    return parser


def _doctor(_given: argparse.Namespace) -> int:
    from opencode_magic.render.blocks import doctor_blocks  # noqa: PLC0415 - only this command's
    from opencode_magic.render.text import render_text  # noqa: PLC0415 - the same
    from opencode_magic.session.api import doctor  # noqa: PLC0415 - the same

    checks = doctor()
    print(render_text(doctor_blocks(checks)))  # noqa: T201 - a command prints
    return 1 if any(check.state == "blocked" for check in checks) else 0


def _list(_given: argparse.Namespace) -> int:
    from opencode_magic.sandbox.lease import is_orphaned, load_leases  # noqa: PLC0415 - as above
    from opencode_magic.settings import load_settings  # noqa: PLC0415 - as above

    leases = tuple(load_leases(load_settings()))
    for lease in leases:
        state = "its kernel is gone" if is_orphaned(lease) else f"kernel {lease.pid}"
        print(f"{lease.name}  {lease.home} home  {state}  {lease.url}")  # noqa: T201 - as above
    if not leases:
        print("No sandbox is up.")  # noqa: T201 - as above
    return 0


def _sweep(_given: argparse.Namespace) -> int:
    from opencode_magic.sandbox.sweep import sweep  # noqa: PLC0415 - as above
    from opencode_magic.settings import load_settings  # noqa: PLC0415 - as above

    removed = sweep(load_settings())
    print(f"Removed: {', '.join(removed) or 'nothing'}.")  # noqa: T201 - as above
    return 0


def _password(given: argparse.Namespace) -> int:
    from opencode_magic.sandbox.lease import load_leases  # noqa: PLC0415 - as above
    from opencode_magic.settings import load_settings  # noqa: PLC0415 - as above

    wanted = {given.name, f"ocm-{given.name}"}
    for lease in load_leases(load_settings()):
        if lease.name in wanted and lease.password:
            print(lease.password)  # noqa: T201 - what this command is for
            return 0
    raise UsageMistake(
        f"no sandbox {given.name!r} is up", next_step="run: python -m opencode_magic list"
    )


if __name__ == "__main__":
    sys.exit(main())
