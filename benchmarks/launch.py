"""Time from ``%opencode_up`` to proven, beside ``opencode serve`` to healthy outside any sandbox.

Each launch is the magic itself, in a kernel of its own that has the extension loaded, nothing else.
Goal, with the local server up and the binary cached: at most 1.3 times outside plus 0.2 s.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import goal, interleaved, keep, median_row, print_table
from jupyter_client.manager import start_new_kernel

from opencode_magic.agent.server import OpenCodeServer, new_password
from opencode_magic.core.opencode import Place
from opencode_magic.core.providers import demo_choice
from opencode_magic.sandbox.connect import ensure_server, find_server, reap
from opencode_magic.sandbox.health import wait_healthy
from opencode_magic.sandbox.local_api import LocalApi
from opencode_magic.sandbox.opencode import ensure_binary
from opencode_magic.settings import load_settings

if TYPE_CHECKING:
    from opencode_magic.settings import Settings

ROUNDS = 5
GOAL_RATIO, GOAL_PLUS_S = 1.3, 0.2
PORT = 47096
OUTSIDE = "opencode serve, no sandbox"
UP = "up to proven, local server up"
DOWN = "up to proven, local server down"

READY_CELL = """
%load_ext opencode_magic
import threading
for thread in threading.enumerate():
    if thread.name == "opencode-warm":
        thread.join()  # what a person's typing hides
"""
UP_CELL = """
import time
from opencode_magic.session import api
began = time.perf_counter()
get_ipython().run_line_magic("opencode_up", "")
took_s = time.perf_counter() - began
status = api.session().status
assert status.phase == "locked" and status.proof.verdict == "proven"
steps = " ".join(f"{step.name} {step.duration_s:.2f}" for step in status.steps)
get_ipython().run_line_magic("opencode_down", "")
print("figures", took_s, steps)
"""


def up_in_kernel() -> tuple[float, str]:
    """Run ``%opencode_up`` in a new kernel with the extension loaded; gives seconds and steps."""
    manager, client = start_new_kernel(kernel_name="python3", stderr=subprocess.DEVNULL)
    said: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "error":
            raise RuntimeError(content["evalue"])
        if message["msg_type"] == "stream":
            said.append(content["text"])

    try:
        client.execute_interactive(READY_CELL, timeout=60, output_hook=hear)
        client.execute_interactive(UP_CELL, timeout=120, output_hook=hear)
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
        manager.cleanup_resources()
    figures = next(line for line in "".join(said).splitlines() if line.startswith("figures "))
    _, took, steps = figures.split(" ", 2)
    return float(took), steps


class Bench:
    """The three measures, with folders and a local server of their own."""

    def __init__(self, base: Path) -> None:
        os.environ["OPENCODE_MAGIC_RUNTIME_DIR"] = str(base / "run")
        os.environ["OPENCODE_MAGIC_STATE_DIR"] = str(base / "state")
        self._base = base
        self._settings: Settings = load_settings()
        self._binary = ensure_binary(self._settings).path
        self._count = 0
        self.steps = ""

    def outside_s(self) -> float:
        """Start the same server with the same environment outside, to healthy."""
        self._count += 1
        place = self._place(self._base / f"outside-{self._count}")
        server = OpenCodeServer(demo_choice(""), new_password())
        for file in server.files(place):
            Path(file.path).parent.mkdir(parents=True, exist_ok=True)
            Path(file.path).write_bytes(file.content)
        subprocess.run(["git", "init", "-q", place.workspace], check=True)
        began = time.perf_counter()
        process = subprocess.Popen(
            server.command(place),
            cwd=place.workspace,
            env={"PATH": os.environ["PATH"], "HOME": place.home, **server.environment(place)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            wait_healthy(server, f"http://127.0.0.1:{PORT}")
            return time.perf_counter() - began
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            server.close()

    def up_s(self) -> float:
        """Launch while the local server runs, as it does from the second launch on."""
        ensure_server(self._settings, opencode=self._binary)
        time.sleep(0.5)  # what the server keeps ready is ready
        took_s, self.steps = up_in_kernel()
        return took_s

    def down_s(self) -> float:
        """Launch where no local server runs, as the first launch does."""
        self.stop()
        return up_in_kernel()[0]

    def stop(self) -> None:
        """End the local server and wait until it is gone."""
        server = find_server(self._settings)
        if server is None:
            return
        LocalApi(server.socket, server.token).shutdown()
        while Path(f"/proc/{server.pid}").exists():
            reap()
            time.sleep(0.02)

    def _place(self, folder: Path) -> Place:
        for name in ("tmp", "workspace"):
            (folder / name).mkdir(parents=True)
        return Place(
            home=str(folder),
            workspace=str(folder / "workspace"),
            binary=str(self._binary),
            temporary=str(folder / "tmp"),
            bind_host="127.0.0.1",
            port=PORT,
        )


def main() -> int:
    """Measure and print; 1 where the goal is not met."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with tempfile.TemporaryDirectory(prefix="om-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        bench = Bench(Path(name))
        try:
            measures = {OUTSIDE: bench.outside_s, UP: bench.up_s, DOWN: bench.down_s}
            figures = interleaved(measures, rounds=rounds)
        finally:
            bench.stop()
    rows = [median_row(name, values, "s") for name, values in figures.items()]
    print_table(("launch", "median", "range", "runs"), rows)
    print(f"steps of the last launch with the server up: {bench.steps}")
    keep("launch", figures)
    # Round by round: on a busy machine the medians of two rows come from different moments.
    over = [up - GOAL_RATIO * bare for up, bare in zip(figures[UP], figures[OUTSIDE], strict=True)]
    over_s = statistics.median(over)
    text = f"{over_s:+.2f} s beyond {GOAL_RATIO} x outside, round by round; at most {GOAL_PLUS_S} s"
    return 0 if goal(text, is_met=over_s <= GOAL_PLUS_S) else 1


if __name__ == "__main__":
    sys.exit(main())
