"""What a sandbox sees: the host's ``/usr`` read-only, an ``/etc`` made by hand, its own folders.

The names mimic the cloud's default image: user ``ubuntu``, home and working folder ``/vercel``.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

USER, USER_ID = "ubuntu", 1000
HOME = "/vercel"
DISK_TMP = "/var/tmp"  # noqa: S108 - a path inside the sandbox
HOSTNAME = "sandbox"
OPENCODE_FOLDER = "/opt/opencode/bin"
OPENCODE = f"{OPENCODE_FOLDER}/opencode"
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
PROXY_URL = "http://127.0.0.1:3128"
PROGRAM_FOLDER = "/opt/opencode-magic"

_HOST_CA_BUNDLES = (
    CA_BUNDLE,
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_CA_VARIABLES = (
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "DENO_CERT",
)
_COPIED = (
    "ld.so.cache",
    "ld.so.conf",
    "localtime",
    "mime.types",
    "protocols",
    "services",
    "ssl/openssl.cnf",
)
_TREE_TIMEOUT_S = 300.0
_NEEDED_MODULES = "json, resource, select, signal, socket"


def environment(*, has_opencode: bool) -> dict[str, str]:
    """Give what every command of a sandbox has in its environment; no proxy is named here."""
    folders = ["/usr/local/bin", "/usr/bin", "/bin"]
    folders = [f"{HOME}/.local/bin", *([OPENCODE_FOLDER] if has_opencode else []), *folders]
    return {
        "HOME": HOME,
        "USER": USER,
        "LOGNAME": USER,
        "SHELL": "/bin/bash",
        "PATH": ":".join(folders),
        "LANG": "C.UTF-8",
        "TMPDIR": DISK_TMP,
        **dict.fromkeys(_CA_VARIABLES, CA_BUNDLE),
    }


def host_ca_bundle() -> bytes:
    """Give the certificates that the host's own programs trust, as PEM; empty where none."""
    for place in _HOST_CA_BUNDLES:
        try:
            return Path(place).read_bytes()
        except OSError:
            continue
    return b""


def write_etc(etc: Path, ca_bundle: bytes) -> None:
    """Fill a folder with what a sandbox has as ``/etc``."""
    for name, text in _ETC.items():
        _write(etc / name, text.encode())
    _write(etc / "ssl/certs/ca-certificates.crt", ca_bundle)
    for place in ("ssl/cert.pem", "pki/tls/certs/ca-bundle.crt"):
        link = etc / place
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(CA_BUNDLE)
    for name in _COPIED:
        source = Path("/etc") / name
        if source.is_file():
            _write(etc / name, source.read_bytes())
    (etc / "alternatives").mkdir(mode=0o755, exist_ok=True)  # the host's is bound over it


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o644)


_ETC: Mapping[str, str] = {
    "passwd": f"root:x:0:0:root:/root:/bin/sh\n{USER}:x:{USER_ID}:{USER_ID}::{HOME}:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": f"root:x:0:\n{USER}:x:{USER_ID}:\nnogroup:x:65534:\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nnetworks: files\n"
    "protocols: files\nservices: files\n",
    "resolv.conf": "nameserver 127.0.0.1\noptions timeout:2 attempts:2\n",
    "hosts": f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost ip6-localhost\n",
    "hostname": f"{HOSTNAME}\n",
    "host.conf": "multi on\n",
    "shells": "/bin/sh\n/bin/bash\n",
}


@dataclass(frozen=True, slots=True)
class InsidePython:
    """The Python that runs the first process inside, and what must be bound for it."""

    program: str
    binds: tuple[tuple[str, str], ...] = ()
    """Host path, path inside; each read-only."""
    hidden: tuple[str, ...] = ()
    """Folders inside that are covered by an empty one."""


@cache
def inside_python() -> InsidePython:
    """Choose the system's own Python, which a sandbox sees anyway, else the one running now."""
    system = Path("/usr/bin/python3")
    if system.exists() and _can_run_pid1(str(system)):
        return InsidePython(str(system))
    return own_python()


def _can_run_pid1(program: str) -> bool:
    check = f"import sys, {_NEEDED_MODULES}; sys.exit(sys.version_info < (3, 9))"
    try:
        command = [program, "-I", "-S", "-c", check]
        return subprocess.run(command, check=False, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def own_python() -> InsidePython:
    """Bind the running interpreter, its standard library and its libraries; no site-packages."""
    program = base_python()
    prefix = Path(sys.base_prefix).resolve()
    if prefix == Path("/usr") or Path("/usr") in prefix.parents:
        return InsidePython(str(program))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = prefix / "lib" / version
    places = [program, library, *_mapped_libraries(prefix, library)]
    return InsidePython(
        str(program),
        tuple((str(place), str(place)) for place in dict.fromkeys(places)),
        (str(library / "site-packages"),) if (library / "site-packages").is_dir() else (),
    )


def base_python() -> Path:
    """Give the real interpreter behind a virtual environment's link."""
    return Path(getattr(sys, "_base_executable", "") or sys.executable).resolve()


def _mapped_libraries(prefix: Path, library: Path) -> Iterator[Path]:
    """Give the shared libraries under the prefix that this process uses, under all names."""
    import ctypes  # noqa: F401, PLC0415 - loads the libraries that ctypes needs

    for line in Path("/proc/self/maps").read_text().splitlines():
        path = Path(line.split(maxsplit=5)[5]) if "/" in line else Path()
        if prefix not in path.parents or library in path.parents or ".so" not in path.name:
            continue
        for name in path.parent.glob(f"{path.name.split('.so', maxsplit=1)[0]}.so*"):
            if name.resolve() == path:
                yield name


def closed_ancestor(path: Path) -> Path | None:
    """Give the topmost folder above a path that other users cannot pass, or None."""
    for folder in reversed(path.parents):
        try:
            if not folder.stat().st_mode & 0o001:
                return folder
        except OSError:
            return folder
    return None


def make_folders(folder: Path, ca_bundle: bytes, owner: int | None) -> None:
    """Make a sandbox's folders; ``owner`` is the user id they belong to, None for this user's.

    What already stands in ``home`` and ``tmp`` stays, and changes its owner where that differs.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    etc = folder / "etc"
    if etc.exists():
        shutil.rmtree(etc)
    etc.mkdir(mode=0o755)
    write_etc(etc, ca_bundle)
    for name in ("home", "tmp"):
        (folder / name).mkdir(mode=0o755, exist_ok=True)
        if owner is not None and (folder / name).stat().st_uid != owner:
            give_to(folder / name, owner)
    (folder / "tmp").chmod(0o1777)
    if owner is not None:
        os.chown(folder, owner, owner)


def give_to(top: Path, owner: int) -> None:
    """Let a folder and all in it belong to a user id; links are not followed."""
    _run("chown", "-Rh", f"{owner}:{owner}", top)


def remove(top: Path) -> None:
    """Remove a folder that a sandbox could write to, whatever it made of it.

    Not by a walk in Python: a tree may be deeper than its recursion, and folders may be closed
    even to their owner. Links are removed, never followed.

    Raises:
        OSError: Something of it is still there.
    """
    if os.geteuid() != 0:
        _run("chmod", "-R", "u+rwX", top)
    _run("rm", "-rf", top)
    if os.path.lexists(top):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(top))


def _run(program: str, *words: str | Path) -> None:
    *options, top = map(str, words)
    argv = [program, *options, "--", top]
    env = {"PATH": "/usr/bin:/bin"}
    subprocess.run(argv, check=False, capture_output=True, timeout=_TREE_TIMEOUT_S, env=env)
