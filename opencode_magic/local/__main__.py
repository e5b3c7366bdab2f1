"""``python -m opencode_magic.local``: serve, list, stop, doctor, prove."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from opencode_magic.core.policy import canonical_host
from opencode_magic.errors import OpencodeMagicError, SettingsError, as_sentence

if TYPE_CHECKING:
    from collections.abc import Sequence

CALL_TIMEOUT_S = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except OpencodeMagicError as exc:
        sys.stderr.write(f"{exc.heading}: {exc}\n")
        return 1


def _serve(options: argparse.Namespace) -> int:
    from opencode_magic.local.server import ServeOptions, serve  # noqa: PLC0415 - list and stop stay light

    return serve(
        ServeOptions(
            runtime_dir=options.runtime_dir.absolute(),
            state_dir=options.state_dir.absolute(),
            opencode=options.opencode.absolute() if options.opencode else None,
            idle_s=options.idle_s,
            upstreams=dict(_upstream(text) for text in options.upstream),
            upstream_ca=options.upstream_ca.absolute() if options.upstream_ca else None,
            is_strict=options.strict,
            cgroup=options.cgroup,
            tcp=_address(options.tcp) if options.tcp else None,
            token_file=options.token_file,
        )
    )


def _list(options: argparse.Namespace) -> int:
    info = _call(options.runtime_dir, "GET", "/api/local/info")
    if info is None:
        _say("No local server runs.")
        return 0
    _say(json.dumps(info, indent=2, sort_keys=True))
    return 0


def _stop(options: argparse.Namespace) -> int:
    if _call(options.runtime_dir, "POST", "/api/local/shutdown") is None:
        _say("No local server runs.")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from opencode_magic.local.doctor import checks  # noqa: PLC0415 - only this command needs it

    found = checks()
    if options.json:
        _say(json.dumps([asdict(check) for check in found]))
    for check in () if options.json else found:
        said = check.detail
        if check.next_step:
            said = f"{as_sentence(said)} Next: {check.next_step}"
        _say(f"{check.state:<8} {check.name}: {said}")
    return 1 if any(check.state == "blocked" for check in found) else 0


def _prove(_: argparse.Namespace) -> int:
    from opencode_magic.local.prove import is_whole, prove, table  # noqa: PLC0415 - only this command needs it

    found = prove()
    _say(table(found))
    return 0 if is_whole(found) else 1


def _call(runtime_dir: Path, method: str, path: str) -> object | None:
    """Ask the running server; None where none answers."""
    about = runtime_dir / "server.json"
    try:
        if about.stat().st_uid != os.geteuid():
            return None  # another user was first in a folder that all may write to
        server = json.loads(about.read_text())
        connection = http.client.HTTPConnection("local", timeout=CALL_TIMEOUT_S)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.connect(server["socket"])
        connection.request(method, path, headers={"authorization": f"Bearer {server['token']}"})
        body: object = json.loads(connection.getresponse().read())
    except (OSError, ValueError, KeyError, http.client.HTTPException):
        return None
    connection.close()
    return body


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _upstream(text: str) -> tuple[str, tuple[str, int]]:
    host, _, address = text.partition("=")
    name = canonical_host(host)
    if name is None:
        raise SettingsError(f"--upstream {text!r}: {host!r} is not a host name")
    return name, _address(address)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if host not in {"127.0.0.1", "localhost"} or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 - the range of ports
        raise SettingsError(f"{text!r} is not 127.0.0.1 and a port")
    return "127.0.0.1", int(port)


def _default_runtime_dir() -> Path:
    named = os.environ.get("OPENCODE_MAGIC_RUNTIME_DIR")
    if named:
        return Path(named)
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "opencode-magic" if base else Path(f"/tmp/opencode-magic-{os.getuid()}")  # noqa: S108 - its owner is checked


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m opencode_magic.local", description=__doc__)
    commands = parser.add_subparsers(required=True)
    serve = commands.add_parser("serve", help="serve the Sandbox API until idle")
    serve.set_defaults(run=_serve)
    serve.add_argument("--state-dir", type=Path, required=True)
    serve.add_argument("--opencode", type=Path, help="the binary that sandboxes are given")
    serve.add_argument("--idle-s", type=float, default=600.0, help="end after so long without use")
    serve.add_argument(
        "--upstream",
        action="append",
        default=[],
        metavar="HOST=127.0.0.1:PORT",
        help="where the firewall finds a host, instead of asking for its address",
    )
    serve.add_argument("--upstream-ca", type=Path, help="who may sign an upstream's certificate")
    serve.add_argument(
        "--strict", action="store_true", help="read plain allowed hosts too: no fronting"
    )
    serve.add_argument(
        "--cgroup", type=Path, help="make control groups below this one, not where one is found"
    )
    serve.add_argument("--tcp", metavar="127.0.0.1:PORT", help="stand in for the cloud there")
    serve.add_argument("--token-file", type=Path, help="where the token stands, or shall")
    rest = (
        ("list", _list, "show what runs and what is kept"),
        ("stop", _stop, "end the server with all its sandboxes"),
        ("doctor", _doctor, "say what isolation needs and what is missing here"),
        ("prove", _prove, "make a sandbox, try to get out of it in every known way, and tell"),
    )
    for name, run, text in rest:
        commands.add_parser(name, help=text).set_defaults(run=run)
    commands.choices["doctor"].add_argument(
        "--json", action="store_true", help="print the checks as a JSON list"
    )
    for command in commands.choices.values():
        command.add_argument("--runtime-dir", type=Path, default=_default_runtime_dir())
    return parser


if __name__ == "__main__":
    sys.exit(main())
