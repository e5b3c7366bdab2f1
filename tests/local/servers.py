"""A real local server in a process of its own, on folders of its own."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import httpx2
from vercel.sandbox import sync as sdk

from tests.local.readable import ORDINARY_UID, PACKAGES, drop, open_python

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

START_TIMEOUT_S = 20.0
END_TIMEOUT_S = 20.0
PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "COVERAGE_PROCESS_START")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, object]:
        """Give the JSON object in the body."""
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value

    @property
    def code(self) -> str:
        """The error's code."""
        error = self.json()["error"]
        assert isinstance(error, dict)
        return str(error["code"])


@dataclass(slots=True)
class LocalServer:
    """A server's folders, its process, and ways to ask it."""

    base: Path
    arguments: Sequence[str] = ()
    python: Sequence[str] = (sys.executable,)
    """The start of the command line: which Python, and as whom."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """More variables of the server's."""
    process: subprocess.Popen[bytes] | None = None
    state: dict[str, object] = field(default_factory=dict)
    token: str = ""

    @classmethod
    def make(cls, arguments: Sequence[str] = ()) -> LocalServer:
        """Make the folders, with paths that are short enough for a socket."""
        base = Path(tempfile.mkdtemp(prefix="om-srv-", dir="/tmp"))
        base.chmod(0o755)
        return cls(base, arguments)

    @classmethod
    def make_ordinary(cls) -> LocalServer:
        """Make the folders of an ordinary user, who will run the server."""
        made = cls.make()
        if os.geteuid() == 0:
            made.python = (*drop(), f"PYTHONPATH={PACKAGES}", open_python())
            os.chown(made.base, ORDINARY_UID, ORDINARY_UID)
        return made

    @property
    def runtime_dir(self) -> Path:
        """Where the socket is."""
        return self.base / "run"

    @property
    def state_dir(self) -> Path:
        """Where the files of sandboxes are."""
        return self.base / "state"

    @property
    def log(self) -> str:
        """What the server logged and printed."""
        paths = (self.state_dir / "server.log", self.base / "output")
        return "".join(path.read_text() for path in paths if path.exists())

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start one more server process on the same folders."""
        command = [*self.python, "-m", "opencode_magic.local", "serve"]
        command += ["--runtime-dir", str(self.runtime_dir), "--state-dir", str(self.state_dir)]
        with (self.base / "output").open("ab") as output:
            return subprocess.Popen(
                [*command, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={
                    "PYTHONPATH": PACKAGES,
                    **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
                    **self.environment,
                },
                cwd="/",
                start_new_session=True,
            )

    def start(self) -> None:
        """Start the server and wait until it accepts."""
        path = self.runtime_dir / "server.json"
        path.unlink(missing_ok=True)
        self.process = self.spawn()
        wait_for(lambda: path.exists() or self.is_over, START_TIMEOUT_S)
        assert path.exists(), self.log
        self.state = json.loads(path.read_text())
        token_file = self.base / "token"
        self.token = str(self.state.get("token") or token_file.read_text())

    @property
    def is_over(self) -> bool:
        """Whether the process has ended."""
        return self.process is None or self.process.poll() is not None

    def kill(self) -> None:
        """End the server as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(END_TIMEOUT_S)

    def terminate(self) -> int:
        """Ask the server to end; gives its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(END_TIMEOUT_S)

    def close(self) -> None:
        """End the server and remove its folders."""
        if not self.is_over:
            self.terminate()
        shutil.rmtree(self.base, ignore_errors=True)

    def connection(self) -> http.client.HTTPConnection:
        """Give a connection of the standard library's HTTP client."""
        if not self.state["socket"]:
            host = str(self.state["url"]).removeprefix("http://").removesuffix("/api")
            return http.client.HTTPConnection(host, timeout=30)
        connection = http.client.HTTPConnection("local", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(30)
        connection.sock.connect(str(self.state["socket"]))
        return connection

    def ask(
        self, method: str, path: str, body: object = None, *, token: str | None = None, **more: str
    ) -> Answer:
        """Send one request below ``/api``; a body that is not bytes goes as JSON."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {name.replace("_", "-"): value for name, value in more.items()}
        if token != "":
            headers["authorization"] = f"Bearer {token or self.token}"
        with closing(self.connection()) as connection:
            connection.request(method, f"/api{path}", body=data, headers=headers)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())

    def client(self) -> sdk.SyncSandboxClient:
        """Give the unmodified SDK's client."""
        options = sdk.SandboxServiceOptions(
            base_url=str(self.state["url"]),
            credentials_factory=lambda: sdk.SandboxCredentials(self.token, "local", "local"),
        )
        path = cast("str", self.state["socket"]) or None
        return sdk.SyncSandboxClient.create(
            options=options,
            httpx_client_factory=lambda: httpx2.Client(
                transport=httpx2.HTTPTransport(uds=path, trust_env=False), timeout=60
            ),
        )


def wait_for(condition: Callable[[], bool], timeout_s: float, *, step_s: float = 0.01) -> None:
    """Wait for a condition, at most so long."""
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(step_s)


def processes_with(text: str) -> list[int]:
    """Give the processes that have a text in their arguments or environment, but not this one."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            words = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue
        if text.encode() in words and state != "Z":
            found.append(int(folder.name))
    return found


def figures_of(pid: int) -> dict[str, int]:
    """Give a server's memory in kB, its threads and its open files."""
    folder = Path(f"/proc/{pid}")
    fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return {
        "memory_kb": int(fields["VmRSS"].split()[0]),
        "threads": int(fields["Threads"]),
        "files": len(list((folder / "fd").iterdir())),
    }
