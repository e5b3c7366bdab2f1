"""This machine and these settings -> what works here, what does not, and the next steps."""

from __future__ import annotations

import platform
import shutil
import sys
from typing import TYPE_CHECKING

from opencode_magic.core.checks import Check
from opencode_magic.core.opencode import VERSION
from opencode_magic.core.providers import DEMO_MODEL, choose_model
from opencode_magic.errors import OpencodeMagicError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from opencode_magic.core.checks import CheckState
    from opencode_magic.core.status import Status
    from opencode_magic.settings import Settings

LOW_DISK_BYTES = 1024**3
SOCKET_PATH_LIMIT_BYTES = 107
"""Linux gives a Unix socket's path 108 bytes with its end."""

_PROGRAMS = (
    ("bubblewrap", "bwrap", "bubblewrap"),
    ("ripgrep", "rg", "ripgrep"),
    ("git", "git", "git"),
)


def run_checks(settings: Settings, status: Status) -> tuple[Check, ...]:
    """Look at everything a launch needs. Leaves nothing running, sends nothing, never raises."""
    machine = tuple(_machine()) if sys.platform == "linux" else ()
    checks: list[Check] = [_python(), *machine]
    checks += [_local_home(machine), _local_server(settings), _cloud_home(settings)]
    checks.append(_chosen_home(settings))
    checks += [_binary(settings), _model(settings)]
    checks += _folders(settings)
    checks += _upstreams(settings)
    if settings.is_strict:
        detail = "the local home's firewall reads plain allowed hosts too; pinned certificates fail"
        checks.append(Check("Strict", "ok", detail))
    checks.append(_sandbox(status))
    return tuple(checks)


def _python() -> Check:
    detail = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check("Python", "ok", detail)


def _machine() -> Iterable[Check]:
    """Give what the local home itself says of this machine, else which programs are there."""
    from opencode_magic.sandbox.machine import local_checks  # noqa: PLC0415 - loads the SDK's side only here

    return local_checks() or _programs()


def _programs() -> Iterator[Check]:
    for name, program, package in _PROGRAMS:
        found = shutil.which(program)
        if found:
            yield Check(name, "ok", found)
        else:
            yield Check(
                name,
                "blocked",
                f"the program {program!r} is missing; the local home needs it",
                f"install it: apt-get install {package}",
            )


def _local_home(machine: Sequence[Check]) -> Check:
    from opencode_magic.sandbox.home import probe_local  # noqa: PLC0415 - loads the SDK's side only here

    probe = probe_local()
    if probe.is_ok:
        return Check("Local home", "ok", f"{probe.reason}; user namespaces work")
    known = next((check.next_step for check in machine if check.state == "blocked"), "")
    return Check("Local home", "blocked", probe.reason, known or probe.next_step)


def _local_server(settings: Settings) -> Check:
    from opencode_magic.sandbox.connect import find_server  # noqa: PLC0415 - as above
    from opencode_magic.sandbox.local_api import LocalApi  # noqa: PLC0415 - as above

    server = find_server(settings)
    if server is None:
        return Check("Local server", "ok", "not running; a launch starts it, and it ends when idle")
    detail = f"version {server.version}, process {server.pid}"
    return _tried(
        "Local server",
        lambda: detail + _ways(LocalApi(server.socket, server.token).info()),
        "warning",
    )


def _ways(info: dict[str, object]) -> str:
    """Say how a running server's firewall differs from the usual one."""
    way_out = f", goes out by the proxy {info['way_out']}" if info.get("way_out") else ""
    sandboxes = info.get("sandboxes")
    for sandbox in sandboxes if isinstance(sandboxes, list) else []:
        own = sandbox.get("way_out", info.get("way_out"))
        if own != info.get("way_out"):
            way_out += f", {sandbox['name']} by {f'the proxy {own}' if own else 'none'}"
    return way_out + (", strict" if info.get("is_strict") else "")


def _cloud_home(settings: Settings) -> Check:
    from opencode_magic.sandbox.credentials import find_credentials  # noqa: PLC0415 - as above

    return _tried(
        "Cloud home",
        lambda: f"credentials found ({find_credentials(settings).source}); it bills",
        "warning",
    )


def _chosen_home(settings: Settings) -> Check:
    from opencode_magic.sandbox.home import choose_home  # noqa: PLC0415 - as above

    def describe() -> str:
        choice = choose_home(settings)
        return f"{choice.home}: {choice.reason}"

    return _tried("Home to be used", describe, "blocked")


def _binary(settings: Settings) -> Check:
    from opencode_magic.sandbox import npm  # noqa: PLC0415 - as above
    from opencode_magic.sandbox.opencode import (  # noqa: PLC0415 - as above
        cache_folder,
        ensure_binary,
        host_package,
    )

    def describe() -> str:
        if settings.binary is not None:
            return ensure_binary(settings).detail
        folder = cache_folder(settings.cache_dir, host_package())
        if (folder / "opencode").is_file():
            return f"{VERSION}, in {folder}"
        return f"not in the cache yet; the first launch fetches it (60 MB) by {npm_name()}"

    def npm_name() -> str:
        return npm.npm_command()[0]

    return _tried(f"OpenCode {VERSION}", describe, "blocked")


def _model(settings: Settings) -> Check:
    def describe() -> str:
        if settings.model == DEMO_MODEL:
            return "the scripted demo model, as named"
        choice = choose_model(
            settings.model,
            keys=settings.keys,
            base_url=settings.base_url,
            api_key=settings.api_key,
        )
        if choice is None:
            return "no key found: the scripted demo model is used (local home only)"
        return f"{choice.name} at {choice.host}"

    return _tried("Model", describe, "blocked")


def _folders(settings: Settings) -> Iterator[Check]:
    places = (
        ("Cache folder", settings.cache_dir, "OPENCODE_MAGIC_CACHE_DIR"),
        ("State folder", settings.state_dir, "OPENCODE_MAGIC_STATE_DIR"),
    )
    for name, folder, variable in places:
        free = shutil.disk_usage(_nearest(folder)).free
        detail = f"{folder}, {free / 1024**3:.1f} GB free"
        if free < LOW_DISK_BYTES:
            yield Check(name, "warning", detail, f"free some disk, or set {variable}")
        else:
            yield Check(name, "ok", detail)
    socket_path = settings.runtime_dir / "api.sock"
    if len(bytes(socket_path)) > SOCKET_PATH_LIMIT_BYTES:
        yield Check(
            "Runtime folder",
            "blocked",
            f"{socket_path} is too long for a socket",
            "set OPENCODE_MAGIC_RUNTIME_DIR to a shorter path",
        )
    else:
        yield Check("Runtime folder", "ok", str(settings.runtime_dir))


def _upstreams(settings: Settings) -> Iterator[Check]:
    if settings.upstreams:
        hosts = ", ".join(settings.upstreams)
        yield Check(
            "Upstreams",
            "warning",
            f"these names lead elsewhere: {hosts}",
            "unset OPENCODE_MAGIC_UPSTREAM if you did not mean it",
        )


def _sandbox(status: Status) -> Check:
    if status.phase == "locked":
        return Check("Sandbox", "ok", f"{status.sandbox_name} is up and proven")
    if status.phase == "unproven":
        detail = f"{status.sandbox_name} is locked, not proven from here"
        return Check("Sandbox", "warning", detail, "run %opencode_prove")
    if status.phase == "failed":
        return Check("Sandbox", "blocked", status.error, status.next_step or "run %opencode_up")
    return Check("Sandbox", "ok", "none is up")


def _tried(name: str, describe: Callable[[], str], otherwise: CheckState) -> Check:
    try:
        return Check(name, "ok", describe())
    except OpencodeMagicError as exc:
        return Check(name, otherwise, exc.message, exc.next_step)


def _nearest(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
