"""What a launch does inside a sandbox: prepare, upload, write files, start the agent server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from opencode_magic.core.opencode import BINARY_IN_TARBALL
from opencode_magic.errors import SandboxLaunchError
from opencode_magic.sandbox import opencode
from opencode_magic.sandbox.output import run_inside
from opencode_magic.sandbox.workspace import PREPARE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vercel.sandbox.sync import SyncProcess, SyncSandboxRuntimeSession

    from opencode_magic.core.opencode import PlatformPackage, SandboxFile
    from opencode_magic.settings import Settings

LIMIT_S = 120.0
"""For each command: a launch must end, whatever happens inside."""

_LOOK = """printf '%s\\n' "$HOME" "$(command -v opencode || true)"\n"""
_ASK_VERSION = "opencode --version 2>/dev/null || true\n"
_UNPACK = (
    f'mkdir -p "$2" && tar -xzf "$1" -C "$2" --strip-components=2 {BINARY_IN_TARBALL} && rm "$1"'
)
_START = 'log=$1; shift; exec "$@" >"$log" 2>&1'


@dataclass(frozen=True, slots=True)
class Found:
    """What the image holds."""

    home: str
    binary: str
    """Empty where OpenCode is not on PATH."""
    version: str
    """Empty where it was not asked or did not say."""


@dataclass(frozen=True, slots=True)
class Inside:
    """Calls into one running session; what fails is a failure of the step that is named."""

    session: SyncSandboxRuntimeSession
    settings: Settings
    step: str
    label: str

    def prepare(self, *, asks_version: bool) -> Found:
        """Make the workspace a git work tree with a first commit, and look around."""
        script = PREPARE + _LOOK + (_ASK_VERSION if asks_version else "")
        lines = [*self._run("sh", ["-c", script]).splitlines(), "", "", ""]
        if not lines[0].startswith("/"):
            raise SandboxLaunchError("the sandbox does not say where its home is", step=self.step)
        return Found(lines[0], lines[1], lines[2].strip())

    def upload(self, folder: str, package: PlatformPackage) -> str:
        """Upload the verified OpenCode, packed where that is possible; gives its path."""
        fs = self.session.fs
        tarball = opencode.ensure_tarball(self.settings, package)
        if tarball is None:
            binary = opencode.ensure_binary(self.settings, package)
            fs.write_bytes(f"{folder}/bin/opencode", binary.path.read_bytes(), mode=0o755)
        else:
            packed = f"{folder}/opencode.tgz"
            fs.write_bytes(packed, tarball.read_bytes())
            self._run("sh", ["-c", _UNPACK, "sh", packed, f"{folder}/bin"])
        return f"{folder}/bin/opencode"

    def write(self, files: Sequence[SandboxFile]) -> None:
        """Write all files in one call."""
        with self.session.fs.batch() as batch:
            for file in files:
                batch.write_bytes(file.path, file.content, mode=file.mode)

    def start(
        self, command: Sequence[str], *, log_path: str, cwd: str, env: Mapping[str, str]
    ) -> SyncProcess:
        """Start a process whose output goes to a file inside, where its end can be read."""
        arguments = ["-c", _START, "sh", log_path, *command]
        return self.session.create_process("sh", arguments, cwd=cwd, env=env)

    def _run(self, program: str, arguments: list[str]) -> str:
        done = run_inside(self.session, program, arguments, kill_after=LIMIT_S)
        if done.returncode != 0:
            message = f"{self.label} failed: {done.last_line or f'exit code {done.returncode}'}"
            said = done.stderr.strip().splitlines()
            raise SandboxLaunchError(message, step=self.step, log_lines=said)
        return done.stdout
