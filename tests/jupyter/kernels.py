"""A real kernel with folders of its own: run a cell, see what it shows, interrupt it, kill it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_client.manager import KernelManager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CELL_TIMEOUT_S = 60.0
END_TIMEOUT_S = 20.0
KEPT_VARIABLES = ("PATH", "LANG", "COVERAGE_PROCESS_START")


@dataclass
class Shown:
    """What one cell showed."""

    stdout: str = ""
    stderr: str = ""
    error: str = ""
    """The traceback as the front end shows it; empty where the cell ended well."""
    error_name: str = ""
    displays: list[dict[str, str]] = field(default_factory=list)
    """Mimebundles of displays and of the cell's value, with updates of them applied."""
    updates: int = 0
    count: int = 0

    @property
    def text(self) -> str:
        """Everything as text."""
        return "\n".join(
            [self.stdout, self.stderr, *(d.get("text/plain", "") for d in self.displays)]
        ).strip()


class Kernel:
    """One kernel process and its client."""

    def __init__(self, base: Path, cache_dir: Path, **variables: str) -> None:
        self.base = base
        (base / "work").mkdir(exist_ok=True)
        env = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        env |= {
            "HOME": str(base),
            "IPYTHONDIR": str(base / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(base / "jupyter-run"),
            "OPENCODE_MAGIC_CACHE_DIR": str(cache_dir),
            "OPENCODE_MAGIC_STATE_DIR": str(base / "state"),
            "OPENCODE_MAGIC_RUNTIME_DIR": str(base / "run"),
            **variables,
        }
        self.manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(base / "k"))
        # A busy machine needs more than the usual 5 s to end a kernel as it wants to end.
        self.manager.shutdown_wait_time = END_TIMEOUT_S
        self.manager.start_kernel(env=env, cwd=str(base / "work"))
        self.client: Any = self.manager.blocking_client()  # jupyter_client has no types here
        self.client.start_channels()
        self.client.wait_for_ready(timeout=CELL_TIMEOUT_S)
        self._shown_by_id: dict[str, dict[str, str]] = {}

    @property
    def pid(self) -> int:
        """The kernel's process."""
        provisioner = self.manager.provisioner
        assert provisioner is not None
        return int(provisioner.pid)  # type: ignore[attr-defined]  # the local provisioner's

    def start(self, code: str, *, answers: bool = False) -> str:
        """Send a cell and give its message's id."""
        return str(self.client.execute(code, allow_stdin=answers))

    def run(
        self,
        code: str,
        *,
        timeout_s: float = CELL_TIMEOUT_S,
        answer: str | None = None,
        watch: Callable[[Shown], object] = lambda _shown: None,
    ) -> Shown:
        """Run a cell and give what it showed, once it has ended.

        Args:
            code: The cell.
            timeout_s: It must have ended by then.
            answer: What is typed where the cell asks; None is a front end without an input line.
            watch: Sees what is shown so far, after every message.
        """
        message_id = self.start(code, answers=answer is not None)
        return self.follow(message_id, timeout_s=timeout_s, answer=answer, watch=watch)

    def follow(
        self,
        message_id: str,
        *,
        timeout_s: float = CELL_TIMEOUT_S,
        answer: str | None = None,
        watch: Callable[[Shown], object] = lambda _shown: None,
    ) -> Shown:
        """Collect what a cell shows until it has ended."""
        shown = Shown()
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if answer is not None:
                self._type(answer)
            try:
                message = self.client.get_iopub_msg(timeout=0.1)
            except queue.Empty:
                continue
            if self._is_end(message, message_id, shown):
                return shown
            watch(shown)
        self.interrupt()  # so that the next cell can run
        raise TimeoutError(shown)

    def interrupt(self) -> None:
        """Interrupt the kernel as a front end does."""
        self.manager.interrupt_kernel()

    def kill(self) -> None:
        """End the kernel as a crash would."""
        os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Shut the kernel down."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=False)
        self.manager.cleanup_resources()

    def _type(self, answer: str) -> None:
        with contextlib.suppress(queue.Empty):
            self.client.get_stdin_msg(timeout=0.01)
            self.client.input(answer)

    def _is_end(self, message: dict[str, Any], message_id: str, shown: Shown) -> bool:
        kind, content = message["msg_type"], message["content"]
        if kind == "update_display_data":
            # An update may come for the output of an earlier cell.
            self._update(content)
            shown.updates += 1
        if message["parent_header"].get("msg_id") != message_id:
            return False
        if kind == "stream" and content["name"] == "stdout":
            shown.stdout += content["text"]
        elif kind == "stream":
            shown.stderr += content["text"]
        elif kind == "error":
            shown.error, shown.error_name = "\n".join(content["traceback"]), content["ename"]
        elif kind in {"display_data", "execute_result"}:
            data = dict(content["data"])
            shown.displays.append(data)
            self._shown_by_id[content.get("transient", {}).get("display_id", "")] = data
            shown.count += 1
        return bool(kind == "status" and content["execution_state"] == "idle")

    def _update(self, content: dict[str, Any]) -> None:
        data = self._shown_by_id.get(content["transient"].get("display_id", ""))
        if data is not None:
            data.clear()
            data.update(content["data"])


@contextlib.contextmanager
def kernel_folder() -> Iterator[Path]:
    """Give a folder with a short path; at the end the local server in it is ended."""
    base = Path(tempfile.mkdtemp(prefix="om-k-", dir="/tmp"))
    base.chmod(0o755)
    try:
        yield base
    finally:
        end_server(base)
        shutil.rmtree(base, ignore_errors=True)


def server_pid(base: Path) -> int | None:
    """Give the local server's process; None where it has none."""
    try:
        return int(json.loads((base / "run" / "server.json").read_text())["pid"])
    except (OSError, ValueError, KeyError):
        return None


def end_server(base: Path) -> None:
    """End the local server of a folder, as it is ended when the machine goes down."""
    pid = server_pid(base)
    if pid is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + END_TIMEOUT_S
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(pid), "the local server did not end"


def is_running(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@contextlib.contextmanager
def running_kernel(base: Path, cache_dir: Path, **variables: str) -> Iterator[Kernel]:
    """Give a kernel with the extension loaded, until the block ends."""
    kernel = Kernel(base, cache_dir, **variables)
    try:
        loaded = kernel.run("%load_ext opencode_magic")
        assert loaded == Shown(), loaded
        yield kernel
    finally:
        kernel.close()


def wait_until(is_so: Callable[[], object], what: str, *, limit_s: float = 15.0) -> None:
    """Wait for a condition; the test fails where it does not come."""
    until = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < until, f"it did not come that {what}"
        time.sleep(0.05)


def processes(words: str, *, under: int | None) -> list[int]:
    """Give the processes below one, at any depth, whose command line holds these words."""
    parents, lines = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            if stat[0] == "Z":
                continue
            parents[int(folder.name)] = int(stat[1])
            lines[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
    return sorted(
        pid for pid, line in lines.items() if words in line and under in _ancestors(pid, parents)
    )


def leftovers(base: Path) -> list[str]:
    """Give what stands of sandboxes whose server keeps its state in this folder.

    Looked at: bubblewraps of the folder and all below them, and mounts of the folder in the view
    of any process, whoever its parent is by now.
    """
    found = [
        f"process {pid}"
        for pid in _children_of_dead_or_alive(base)
        if pid != server_pid(base) and is_running(pid)
    ]
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(base) in (folder / "mountinfo").read_text():
                found.append(f"a mount in process {folder.name}")
    return found


def _children_of_dead_or_alive(base: Path) -> list[int]:
    """Give bubblewraps of this folder and all that is below them."""
    roots = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_text()
            if "bwrap" in line.partition("\0")[0] and str(base) in line:
                roots.append(int(folder.name))
    below = [pid for root in roots for pid in processes("", under=root)]
    return [*roots, *below]


def _ancestors(pid: int, parents: dict[int, int]) -> set[int]:
    found: set[int] = set()
    while (pid := parents.get(pid, 0)) and pid not in found:
        found.add(pid)
    return found
