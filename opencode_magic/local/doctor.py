"""What isolation needs of this machine -> checks: what was seen, why it matters, what to do.

``read_host`` looks, ``judge`` says what it means; the second is a pure function of the first.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from opencode_magic.core.checks import Check
from opencode_magic.errors import OpencodeMagicError

OLDEST_KERNEL = (5, 3)
COUNTING_KERNEL = (5, 14)
"""From here on the kernel counts a sandbox's processes by themselves."""
OLDEST_BUBBLEWRAP = (0, 8, 0)
MACHINES = {"x86_64", "aarch64"}
CLOUD_STEP = "use the cloud home: %opencode_up --home cloud"
SYSTEM_FOLDERS = ("/usr/", "/bin/")
"""What lies elsewhere is not seen inside a sandbox."""

APPARMOR_STEP = (
    r"printf 'abi <abi/4.0>,\ninclude <tunables/global>\n"
    r"profile bwrap /usr/bin/bwrap flags=(unconfined) {\n  userns,\n}\n' "
    "| sudo tee /etc/apparmor.d/bwrap && sudo apparmor_parser -r /etc/apparmor.d/bwrap"
)
APPARMOR_OWN_STEP = (
    "sudo ln -s /etc/apparmor.d/bwrap-userns-restrict /etc/apparmor.d/disable/ && "
    "sudo apparmor_parser -R /etc/apparmor.d/bwrap-userns-restrict && "
)
"""Ubuntu's own profile lets bubblewrap make namespaces and takes all rights in them away."""
UNIFIED_STEP = "boot with systemd.unified_cgroup_hierarchy=1 (cgroup_no_v1=all without systemd)"
GROUP_STEP = "start the notebook with systemd-run --user --scope --property=Delegate=yes COMMAND"
GROUP_CONTAINER_STEP = (
    "give the container a memory limit of its own; where its control groups can be written to "
    "(Docker: --privileged; Podman: --security-opt unmask=/sys/fs/cgroup), keep its own programs "
    "in a group below the topmost"
)
CONTAINER_STEP = (
    "Docker: run the container with --security-opt seccomp=unconfined "
    "--security-opt apparmor=unconfined --security-opt systempaths=unconfined; Kubernetes: give "
    "the pod hostUsers: false and the container a securityContext with seccompProfile and "
    "appArmorProfile of type Unconfined and procMount: Unmasked"
)


@dataclass(frozen=True, slots=True)
class Host:
    """What was seen of this machine."""

    system: str = "Linux"
    machine: str = "x86_64"
    kernel: tuple[int, ...] = (6, 1)
    is_root: bool = False
    bubblewrap: str = "/usr/bin/bwrap"
    """Its path; empty where it is missing."""
    bubblewrap_version: tuple[int, ...] = OLDEST_BUBBLEWRAP
    setpriv: str = "/usr/bin/setpriv"
    ripgrep: str = "/usr/bin/rg"
    git: str = "/usr/bin/git"
    has_certificates: bool = True
    user_namespaces_limit: int | None = None
    """``user.max_user_namespaces``; None where the kernel has no such setting."""
    is_userns_clone_forbidden: bool = False
    """Debian's ``kernel.unprivileged_userns_clone`` is 0."""
    is_apparmor_restricting: bool = False
    """Ubuntu's ``kernel.apparmor_restrict_unprivileged_userns`` is 1."""
    has_apparmor_profile: bool = False
    """Ubuntu's own profile for bubblewrap is installed and in force."""
    group_trouble: str = ""
    """Why no control group can hold a sandbox's memory; empty where one can."""
    container: str = ""
    """Such as ``Kubernetes``; empty outside of a container, as far as it can be seen."""
    probe_error: str = ""
    """Why a sandbox could not be built just now; empty where it could, or was not tried."""
    probe_s: float = 0.0


def checks(*, can_probe: bool = True) -> tuple[Check, ...]:
    """Look at this machine.

    Args:
        can_probe: Whether a sandbox may be built (and ended) to see if that works: 0.1 s.
    """
    return judge(read_host(can_probe=can_probe))


def judge(host: Host) -> tuple[Check, ...]:
    """Say what it means for the local home. Where Linux is missing, nothing else is looked at."""
    if host.system != "Linux":
        detail = f"{host.system} has no Linux namespaces, which the local home is made of"
        return (Check("System", "blocked", detail, CLOUD_STEP),)
    found = [
        _kernel(host),
        _bubblewrap(host),
        _walls(host),
        _program("ripgrep", host.ripgrep),
    ]
    found += [_program("git", host.git), _certificates(host), _memory(host)]
    if host.machine not in MACHINES:
        detail = f"no system call filter for {host.machine}"
        found.insert(0, Check("Machine", "blocked", detail, CLOUD_STEP))
    if host.is_root and not host.setpriv:
        detail = "setpriv is missing: as root, the agent could not be given another user"
        found.insert(0, Check("setpriv", "blocked", detail, "install the package 'util-linux'"))
    return tuple(found)


def _kernel(host: Host) -> Check:
    name = f"Linux {'.'.join(map(str, host.kernel))}"
    if host.kernel < OLDEST_KERNEL:
        step = f"use a kernel of {_dotted(OLDEST_KERNEL)} or later, or {CLOUD_STEP}"
        return Check("Kernel", "blocked", f"{name} is too old for the sandbox's walls", step)
    if host.kernel < COUNTING_KERNEL:
        detail = f"{name}: the limit on processes counts all of yours, not the sandbox's alone"
        return Check(
            "Kernel", "warning", detail, f"use a kernel of {_dotted(COUNTING_KERNEL)} or later"
        )
    return Check("Kernel", "ok", name)


def _bubblewrap(host: Host) -> Check:
    if not host.bubblewrap:
        detail = "not installed: it builds the sandbox's walls"
        step = "sudo apt-get install bubblewrap (dnf, zypper, pacman and apk call it the same)"
        return Check("bubblewrap", "blocked", detail, step)
    version = _dotted(host.bubblewrap_version)
    if host.bubblewrap_version < OLDEST_BUBBLEWRAP:
        detail = f"{version} cannot limit memory folders or forbid user namespaces inside"
        step = f"install bubblewrap {_dotted(OLDEST_BUBBLEWRAP)} or later (Debian 12, Ubuntu 24.04)"
        return Check("bubblewrap", "blocked", detail, step)
    return Check("bubblewrap", "ok", version)


def _walls(host: Host) -> Check:
    name = "User namespaces"
    if not host.bubblewrap or host.bubblewrap_version < OLDEST_BUBBLEWRAP:
        return Check(name, "warning", "not tried without bubblewrap", "install bubblewrap first")
    if not host.probe_error:
        detail = f"a sandbox was built and ended in {host.probe_s:.2f} s" if host.probe_s else ""
        return Check(name, "ok", detail)
    return Check(name, "blocked", *_why_refused(host))


def _why_refused(host: Host) -> tuple[str, str]:
    """Give why no sandbox can be built, and the next step."""
    if host.user_namespaces_limit == 0:
        detail = "switched off (user.max_user_namespaces is 0), so no sandbox can be built"
        return detail, "sudo sysctl -w user.max_user_namespaces=15000"
    if host.is_userns_clone_forbidden:
        detail = "only root may make them (kernel.unprivileged_userns_clone is 0)"
        return detail, "sudo sysctl -w kernel.unprivileged_userns_clone=1"
    if host.is_apparmor_restricting and not host.container:
        detail = f"AppArmor takes from bubblewrap what it needs: {host.probe_error}"
        own = APPARMOR_OWN_STEP if host.has_apparmor_profile else ""
        return detail, own + APPARMOR_STEP
    if "No space left" in host.probe_error:
        detail = f"all that the machine allows are in use: {host.probe_error}"
        return detail, "end other sandboxes, or raise user.max_user_namespaces"
    if host.container:
        detail = f"{host.container} forbids what a sandbox needs: {host.probe_error}"
        return detail, f"{CONTAINER_STEP}; or {CLOUD_STEP}"
    return host.probe_error, f"ask your administrator, or {CLOUD_STEP}"


def _program(name: str, path: str) -> Check:
    why = {"ripgrep": "the agent's search tools fail", "git": "the workspace keeps no history"}[
        name
    ]
    step = f"sudo apt-get install {name}"
    if not path:
        return Check(name, "blocked", f"not installed: without it {why}", step)
    if not path.startswith(SYSTEM_FOLDERS):
        detail = f"{path} is not seen inside a sandbox, which sees /usr only: {why}"
        return Check(name, "warning", detail, step)
    return Check(name, "ok", path)


def _certificates(host: Host) -> Check:
    if host.has_certificates:
        return Check("Certificates", "ok", "the system's bundle")
    detail = "no bundle of certificate authorities was found: programs inside trust no host"
    return Check("Certificates", "warning", detail, "sudo apt-get install ca-certificates")


def _memory(host: Host) -> Check:
    """Say which guard holds a sandbox to its memory; the watchdog works beside either."""
    name = "Memory limit"
    if not host.group_trouble:
        return Check(name, "ok", "held by a control group of the kernel and by a watchdog")
    detail = (
        f"held by a watchdog alone, which sees processes and sockets and not all of the kernel's "
        f"own memory for them (pipes, say): {host.group_trouble}"
    )
    if "version 2" in host.group_trouble:
        return Check(name, "warning", detail, UNIFIED_STEP)
    return Check(name, "warning", detail, GROUP_CONTAINER_STEP if host.container else GROUP_STEP)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def read_host(*, can_probe: bool = True) -> Host:
    """Look at this machine. On another system than Linux nothing but its name is read."""
    system = platform.system()
    if system != "Linux":
        return Host(system=system)
    from opencode_magic.local import cgroups, image  # noqa: PLC0415 - needs Linux

    bubblewrap = shutil.which("bwrap") or ""
    version = _bubblewrap_version(bubblewrap) if bubblewrap else ()
    error, took_s = "", 0.0
    if can_probe and version >= OLDEST_BUBBLEWRAP and platform.machine() in MACHINES:
        error, took_s = probe()
    return Host(
        system=system,
        machine=platform.machine(),
        kernel=_numbers(platform.release())[:3],
        is_root=os.geteuid() == 0,
        bubblewrap=bubblewrap,
        bubblewrap_version=version,
        setpriv=shutil.which("setpriv") or "",
        ripgrep=shutil.which("rg") or "",
        git=shutil.which("git") or "",
        has_certificates=bool(image.host_ca_bundle()),
        user_namespaces_limit=_setting("user/max_user_namespaces"),
        is_userns_clone_forbidden=_setting("kernel/unprivileged_userns_clone") == 0,
        is_apparmor_restricting=_setting("kernel/apparmor_restrict_unprivileged_userns") == 1,
        has_apparmor_profile=_has_apparmor_profile(),
        group_trouble=cgroups.find_parent().reason,
        container=_container(),
        probe_error=error,
        probe_s=took_s,
    )


def probe() -> tuple[str, float]:
    """Build a sandbox and run one program in it; gives the trouble, and how long it took."""
    from opencode_magic.local.commands import CommandSpec, run  # noqa: PLC0415 - needs Linux
    from opencode_magic.local.isolation import SandboxSpec  # noqa: PLC0415 - the same
    from opencode_magic.local.keeper import Keeper, KeeperPlace  # noqa: PLC0415 - the same

    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="opencode-magic-doctor-") as folder:
        boxes = Path(folder, "boxes")
        try:
            keeper = Keeper.start(KeeperPlace(boxes), SandboxSpec("doctor", boxes / "doctor"))
        except (OpencodeMagicError, OSError) as exc:
            message = exc.message if isinstance(exc, OpencodeMagicError) else str(exc)
            return message or "no reason was given", 0.0
        try:
            code = run(keeper, CommandSpec(["true"]), {"PATH": "/usr/bin:/bin"}).wait(10)
        except OpencodeMagicError as exc:
            return exc.message, 0.0
        finally:
            keeper.close()
    return "" if code == 0 else f"a program in the sandbox ended with {code}", (
        time.monotonic() - began
    )


def _bubblewrap_version(program: str) -> tuple[int, ...]:
    try:
        said = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=False, timeout=10
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return _numbers(said.removeprefix("bubblewrap"))


def _numbers(text: str) -> tuple[int, ...]:
    found = re.match(r"\s*(\d+(?:\.\d+)*)", text)
    return tuple(int(word) for word in found[1].split(".")) if found else ()


def _setting(name: str) -> int | None:
    try:
        return int(Path("/proc/sys", name).read_text())
    except (OSError, ValueError):
        return None


def _has_apparmor_profile() -> bool:
    name = "bwrap-userns-restrict"
    folder = Path("/etc/apparmor.d")
    return (folder / name).exists() and not (folder / "disable" / name).is_symlink()


def _container() -> str:
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "Kubernetes"
    if Path("/.dockerenv").exists():
        return "Docker"
    if Path("/run/.containerenv").exists():
        return "Podman"
    return ""
