"""What the user said and what this machine can do -> the home of the sandbox, and why."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opencode_magic.errors import CredentialsError, HomeUnavailableError
from opencode_magic.sandbox.credentials import find_credentials

if TYPE_CHECKING:
    from opencode_magic.core.status import Home
    from opencode_magic.settings import Settings

CLOUD_STEP = "use the cloud home: %opencode_up --home cloud"

PROBE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class HomeChoice:
    """A home and one line that says why; on the cloud home the line says that it bills."""

    home: Home
    reason: str


@dataclass(frozen=True, slots=True)
class LocalProbe:
    """Whether this machine can isolate an agent; where not, why and what to do."""

    is_ok: bool
    reason: str
    next_step: str = ""
    own_step: str = ""
    """The part of it that makes the local home work, where something does."""


def _cannot(reason: str, own_step: str = "") -> LocalProbe:
    next_step = f"{own_step}, or {CLOUD_STEP}" if own_step else CLOUD_STEP
    return LocalProbe(is_ok=False, reason=reason, next_step=next_step, own_step=own_step)


def choose_home(settings: Settings) -> HomeChoice:
    """Choose the home: what was named, else local where it works, else cloud with credentials.

    Raises:
        HomeUnavailableError: Neither is possible, or the named one is not; carries the next step.
        CredentialsError: The cloud home was named and its credentials are missing or expired.
    """
    if settings.home == "cloud":
        find_credentials(settings)
        return HomeChoice("cloud", "as named; runs on Vercel, which bills")
    probe = probe_local()
    if probe.is_ok:
        named = "as named; " if settings.home == "local" else ""
        return HomeChoice("local", f"{named}{probe.reason}")
    if settings.home == "local":
        raise HomeUnavailableError(probe.reason, next_step=probe.next_step)
    own = probe.own_step
    try:
        find_credentials(settings)
    except CredentialsError as exc:
        raise HomeUnavailableError(
            f"{probe.reason}, and the cloud home has no usable credentials: {exc.message}",
            next_step="; or ".join(filter(None, (f"for the cloud home, {exc.next_step}", own))),
        ) from None
    return HomeChoice("cloud", f"{probe.reason}; runs on Vercel, which bills")


def probe_local() -> LocalProbe:
    """Try what the local home needs. That it works is remembered; that it does not may change."""
    if not _WORKING:
        probe = _probe()
        if not probe.is_ok:
            return probe
        _WORKING.append(probe)
    return _WORKING[0]


_WORKING: list[LocalProbe] = []


def _probe() -> LocalProbe:
    if sys.platform != "linux":
        return _cannot(
            f"the local home needs Linux and this is {_system_name()}",
            "run Jupyter in WSL or on a Linux machine",
        )
    for program, package in (("bwrap", "bubblewrap"), ("rg", "ripgrep"), ("git", "git")):
        if shutil.which(program) is None:
            return _cannot(
                f"the program {program!r} is missing, which the local home needs",
                f"install it (apt-get install {package})",
            )
    return _probe_namespaces()


def _probe_namespaces() -> LocalProbe:
    command = [
        *("bwrap", "--unshare-user", "--uid", "0", "--gid", "0", "--unshare-net"),
        *("--cap-add", "CAP_NET_ADMIN", "--ro-bind", "/", "/", "--die-with-parent", "true"),
    ]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return _cannot(f"bubblewrap cannot be run: {exc}")
    if done.returncode == 0:
        return LocalProbe(is_ok=True, reason="Linux with bubblewrap")
    said = done.stderr.decode(errors="replace").strip().splitlines()
    detail = f" ({said[-1]})" if said else ""
    return _cannot(
        f"this system forbids user namespaces{detail}, so nothing here could isolate the agent",
        _namespace_step(),
    )


def _namespace_step() -> str:
    if _reads("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return "ask your administrator for the AppArmor profile that %opencode_doctor prints"
    if _reads("/proc/sys/user/max_user_namespaces") == "0":
        return "ask your administrator to set user.max_user_namespaces above 0"
    if _reads("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return "ask your administrator to set kernel.unprivileged_userns_clone to 1"
    return (
        "in a container, ask for a security context that allows user namespaces (seccomp and "
        "AppArmor profile Unconfined, or hostUsers: false)"
    )


def _reads(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123 - three short files of /proc
            return file.read().strip()
    except OSError:
        return ""


def _system_name() -> str:
    return {"Darwin": "macOS"}.get(platform.system(), platform.system() or "another system")
