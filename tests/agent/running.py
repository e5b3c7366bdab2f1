"""Runs the real OpenCode on loopback, outside any sandbox, with the scripted model behind it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opencode_magic.agent.client import AgentClient
from opencode_magic.agent.config import ServerOptions
from opencode_magic.agent.reader import EventReader
from opencode_magic.agent.server import OpenCodeServer, new_password
from opencode_magic.core.opencode import Place
from opencode_magic.core.providers import ModelChoice

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Running:
    """One OpenCode that runs."""

    url: str
    password: str
    place: Place
    process: subprocess.Popen[bytes]
    client: AgentClient
    reader: EventReader

    @property
    def log(self) -> str:
        """What it said so far."""
        return (Path(self.place.home) / "server.log").read_text(errors="replace")

    def kill(self) -> None:
        """End it at once, with everything that it started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


def choice_for(base_url: str, **changes: str) -> ModelChoice:
    """Give an OpenAI-compatible model at an address, ``demo/scripted``."""
    fields = {"provider_id": "demo", "model_id": "scripted", "host": "127.0.0.1"}
    fields |= {"npm": "@ai-sdk/openai-compatible", **changes}
    return ModelChoice(base_url=base_url, **fields)  # type: ignore[arg-type] # only texts


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_place(binary: Path, base: Path) -> Place:
    for name in ("home", "work", "tmp"):
        (base / name).mkdir(parents=True)
    make_work_tree(base / "work")
    return Place(
        home=str(base / "home"),
        workspace=str(base / "work"),
        binary=str(binary),
        temporary=str(base / "tmp"),
        bind_host="127.0.0.1",
        port=free_port(),
    )


def make_work_tree(folder: Path) -> None:
    """Make a git work tree with a first commit, as a sandbox has it."""
    git = ("git", "-c", "user.name=test", "-c", "user.email=test@example.com")
    for arguments in (("init", "-q"), ("commit", "-q", "--allow-empty", "-m", "Start.")):
        subprocess.run([*git, *arguments], cwd=folder, check=True)


def start(server: OpenCodeServer, place: Place) -> subprocess.Popen[bytes]:
    """Start a server as a sandbox would: its files, its environment, its command."""
    for file in server.files(place):
        path = Path(file.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
    with (Path(place.home) / "server.log").open("ab") as log:
        return subprocess.Popen(
            list(server.command(place)),
            cwd=place.workspace,
            env={"PATH": os.environ["PATH"], **server.environment(place)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait_healthy(server: OpenCodeServer, url: str, *, limit_s: float = 60) -> str:
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        version = server.poll_health(url)
        if version is not None:
            return version
        time.sleep(0.05)
    raise TimeoutError(url)


@contextmanager
def running_opencode(
    binary: Path, model: ModelChoice, *, options: ServerOptions | None = None
) -> Iterator[Running]:
    """Give a healthy OpenCode with a client and a started reader, in folders of its own."""
    options = options or ServerOptions(has_snapshots=False)
    with tempfile.TemporaryDirectory(prefix="oc-", ignore_cleanup_errors=True) as base:
        password = new_password()
        server = OpenCodeServer(model, password, options=options)
        place = make_place(binary, Path(base))
        url = f"http://127.0.0.1:{place.port}"
        process = start(server, place)
        client = AgentClient(url, password, place.workspace)
        reader = EventReader(client)
        running = Running(url, password, place, process, client, reader)
        try:
            wait_healthy(server, url)
            reader.start()
            yield running
        finally:
            reader.close()
            client.close()
            server.close()
            if process.poll() is None:
                running.kill()
