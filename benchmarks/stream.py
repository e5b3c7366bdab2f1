"""What a streamed reply costs in a real kernel, beside chatlas on the same scripted stream.

Ours comes through the real OpenCode, outside any sandbox; chatlas asks the scripted model itself.
Counted are the display messages that the kernel sends, their bytes, and the kernel's processor
time. Goals: at most 25 updates and 30 KB of messages for a reply of 2 KB, and processor time that
grows with the reply and not with its square.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import goal, keep, peers_python, print_table
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file

from opencode_magic.agent.server import OpenCodeServer, new_password
from opencode_magic.core.opencode import Place
from opencode_magic.core.providers import ModelChoice
from opencode_magic.local.demo_model import DemoModel
from opencode_magic.sandbox.opencode import ensure_binary
from opencode_magic.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROUNDS = 3
REPLIES = {
    "2 KB": "reply 2KB 8 10ms",
    "36 KB": "reply 36KB 40 5ms",
    "360 KB": "reply 360KB 400 5ms",
    "1 MB": "reply 1MB 1000 5ms",
}
"""Each takes 3 to 5 s to be said."""

GOAL_UPDATES, GOAL_BYTES = 25, 30_000
GOAL_SLOWER = 1.5
"""Processor time per byte at 1 MB, at most so many times that at 360 KB."""

DISPLAYS = {"display_data", "update_display_data", "stream", "execute_result"}
PORT = 47097
CELL_TIMEOUT_S = 300.0

OURS_SETUP = """
import time
from IPython import get_ipython
from opencode_magic.agent.client import AgentClient
from opencode_magic.agent.reader import EventReader
from opencode_magic.agent.turn import run_turn
from opencode_magic.core.prompt import Prompt
from opencode_magic.jupyter.view import CellView
client = AgentClient({url!r}, {password!r}, {workspace!r})
reader = EventReader(client)
reader.start()
def ask(prompt):
    session_id = client.create_session("benchmark")
    view = CellView(get_ipython())
    turn = run_turn(client, reader, session_id, Prompt(prompt), view=view, approver=None)
    return len(turn.text)
"""
CHATLAS_SETUP = """
import time
from chatlas import ChatOpenAICompletions
def ask(prompt):
    chat = ChatOpenAICompletions(base_url={base_url!r}, api_key="none", model="scripted")
    return len(str(chat.chat(prompt)))
"""
MEASURE = """
began_cpu, began = time.process_time(), time.perf_counter()
said = ask("!scripted {reply}")
figures = (said, time.process_time() - began_cpu, time.perf_counter() - began)
"""


@dataclass(frozen=True)
class Cost:
    """What one reply cost."""

    updates: int
    message_bytes: int
    cpu_s: float
    took_s: float
    said: int


class Kernel:
    """One kernel process of some Python."""

    def __init__(self, python: str, base: Path) -> None:
        # Sockets in a folder of our own: a free TCP port may be taken before the kernel binds it.
        path, _ = write_connection_file(
            str(base / "kernel.json"), transport="ipc", ip=str(base / "k")
        )
        env = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        env |= {"HOME": str(base), "IPYTHONDIR": str(base)}
        self.process = subprocess.Popen(
            [python, "-m", "ipykernel_launcher", "-f", path],
            cwd=base,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.client: Any = BlockingKernelClient(connection_file=path)  # its parts have no types
        self.client.load_connection_file()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code: str) -> tuple[int, int, tuple[float, ...]]:
        """Run a cell; give the display messages, their bytes, and what ``figures`` is then."""
        updates = size = 0

        def note(message: dict[str, Any]) -> None:  # a message as jupyter_client gives it
            nonlocal updates, size
            if message["msg_type"] in DISPLAYS:
                updates += 1
                size += len(json.dumps(message["content"], ensure_ascii=False).encode())
            if message["msg_type"] == "error":
                raise RuntimeError("\n".join(message["content"]["traceback"]))

        reply = self.client.execute_interactive(
            code,
            output_hook=note,
            timeout=CELL_TIMEOUT_S,
            user_expressions={"figures": "globals().get('figures')"},
        )
        text = reply["content"]["user_expressions"]["figures"]["data"]["text/plain"]
        figures = tuple(float(part) for part in text.strip("()").split(",")) if "(" in text else ()
        return updates, size, figures

    def cost(self, reply: str) -> Cost:
        """Ask for a reply and give what it cost."""
        updates, size, (said, cpu_s, took_s) = self.run(MEASURE.format(reply=reply))
        return Cost(updates, size, cpu_s, took_s, int(said))

    def close(self) -> None:
        """End it."""
        self.client.stop_channels()
        self.process.kill()
        self.process.wait()


@contextmanager
def running_opencode(model: DemoModel, base: Path) -> Iterator[dict[str, str]]:
    """Run OpenCode with the scripted model; give what a client needs to know."""
    for name in ("tmp", "workspace"):
        (base / name).mkdir(parents=True)
    binary = str(ensure_binary(load_settings()).path)
    workspace = str(base / "workspace")
    place = Place(str(base), workspace, binary, str(base / "tmp"), "127.0.0.1", PORT)
    choice = ModelChoice(
        "demo", "scripted", "127.0.0.1", model.base_url, "@ai-sdk/openai-compatible"
    )
    password, url = new_password(), f"http://127.0.0.1:{PORT}"
    server = OpenCodeServer(choice, password)
    for file in server.files(place):
        Path(file.path).parent.mkdir(parents=True, exist_ok=True)
        Path(file.path).write_bytes(file.content)
    subprocess.run(["git", "init", "-q", workspace], check=True)
    process = subprocess.Popen(
        server.command(place),
        cwd=workspace,
        env={"PATH": os.environ["PATH"], **server.environment(place)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 60
        while server.poll_health(url) is None and time.monotonic() < until:
            time.sleep(0.05)
        yield {"url": url, "password": password, "workspace": workspace}
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        server.close()


def measure(kernels: dict[str, Kernel], rounds: int) -> dict[str, dict[str, list[Cost]]]:
    """Ask each kernel for each reply, in turn."""
    for kernel in kernels.values():
        kernel.cost("say Warm.")
    found: dict[str, dict[str, list[Cost]]] = {
        name: {reply: [] for reply in REPLIES} for name in kernels
    }
    for _ in range(rounds):
        for reply, directive in REPLIES.items():
            for name, kernel in kernels.items():
                found[name][reply].append(kernel.cost(directive))
    return found


def row(reply: str, name: str, costs: Sequence[Cost]) -> tuple[str, ...]:
    """Give the medians of one reply by one client."""
    return (
        reply,
        name,
        f"{statistics.median(cost.updates for cost in costs):.0f}",
        f"{statistics.median(cost.message_bytes for cost in costs) / 1000:.1f} KB",
        f"{statistics.median(cost.cpu_s for cost in costs):.2f} s",
        f"{statistics.median(cost.took_s for cost in costs):.1f} s",
        str(len(costs)),
    )


def judge(ours: dict[str, list[Cost]]) -> bool:
    """Print whether the goals are met."""
    small = ours["2 KB"]
    updates = statistics.median(cost.updates for cost in small)
    size = statistics.median(cost.message_bytes for cost in small)
    per_byte = {
        reply: statistics.median(cost.cpu_s / cost.said for cost in ours[reply])
        for reply in ("360 KB", "1 MB")
    }
    slower = per_byte["1 MB"] / per_byte["360 KB"]
    met = [
        goal(f"{updates:.0f} updates for 2 KB, at most {GOAL_UPDATES}", is_met=updates <= 25),
        goal(f"{size / 1000:.1f} KB for 2 KB, at most 30 KB", is_met=size <= GOAL_BYTES),
        goal(
            f"{slower:.2f} times the processor time per byte at 1 MB as at 360 KB, "
            f"at most {GOAL_SLOWER}",
            is_met=slower <= GOAL_SLOWER,
        ),
    ]
    return all(met)


def main() -> int:
    """Measure and print; 1 where a goal is not met."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    peers = peers_python()
    kernels: dict[str, Kernel] = {}
    with tempfile.TemporaryDirectory(prefix="om-", ignore_cleanup_errors=True) as name:
        base = Path(name)
        for folder in ("ours", "peers"):
            (base / folder).mkdir()
        with DemoModel() as model, running_opencode(model, base / "opencode") as where:
            try:
                kernels["opencode-magic"] = Kernel(sys.executable, base / "ours")
                kernels["chatlas"] = Kernel(peers, base / "peers")
                kernels["opencode-magic"].run(OURS_SETUP.format(**where))
                kernels["chatlas"].run(CHATLAS_SETUP.format(base_url=model.base_url))
                found = measure(kernels, rounds)
            finally:
                for kernel in kernels.values():
                    kernel.close()
    header = ("reply", "client", "updates", "messages", "processor", "took", "runs")
    rows = [row(reply, name, found[name][reply]) for reply in REPLIES for name in found]
    print_table(header, rows)
    keep("stream", {n: {r: [vars(c) for c in cs] for r, cs in f.items()} for n, f in found.items()})
    return 0 if judge(found["opencode-magic"]) else 1


if __name__ == "__main__":
    sys.exit(main())
