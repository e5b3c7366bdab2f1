"""What a sandbox costs, beside bare bubblewrap and a plain process, in one run.

A create is measured to the end of its first command, with a keeper ready as it is some seconds
after the last create. Files are 100 MB of noise; the SDK packs them with gzip, whose time alone is
a row of its own. Goals: create under 1.5 times bare bubblewrap plus 30 ms; a command's round trip
under 5 ms more than a plain process.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness import goal, interleaved, keep, median_row, print_table
from vercel.sandbox.sync import SnapshotSource

from opencode_magic.sandbox.connect import connect_local, ensure_server, reap
from opencode_magic.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vercel.sandbox.sync import SyncSandbox

ROUNDS = 9
COMMANDS_A_ROUND = 20
FILE_BYTES = 100_000_000
STATE_FILES, STATE_FILE_BYTES = 2000, 10_000
SPARE_TIMEOUT_S, SETTLE_S = 20.0, 0.5
STANDING = 1
GOAL_CREATE_RATIO, GOAL_CREATE_PLUS_MS, GOAL_ROUND_TRIP_MS = 1.5, 30.0, 5.0

CREATE, CREATE_BARE = "create to first command", "bare bubblewrap, one command"
COMMAND, COMMAND_BARE = "command", "command, plain process"
FILE_IN, FILE_IN_BWRAP, FILE_IN_BARE = "100 MB in", "100 MB in, bubblewrap", "100 MB in, plain"
FILE_OUT, FILE_OUT_BWRAP, FILE_OUT_BARE = (
    "100 MB out",
    "100 MB out, bubblewrap",
    "100 MB out, plain",
)
PACK = "gzip of 100 MB, as the SDK"
SAVE, RESTORE, COPY = "snapshot of 2000 files", "restore to first command", "cp -a of 2000 files"
BESIDE = {
    CREATE: CREATE_BARE,
    COMMAND: COMMAND_BARE,
    FILE_IN: FILE_IN_BWRAP,
    FILE_OUT: FILE_OUT_BWRAP,
    SAVE: COPY,
    RESTORE: COPY,
}
BUBBLEWRAP = (
    *("bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", "/usr", "/usr"),
    *("--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib"),
    *("--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev"),
)
FILL = f"""
import os
for number in range({STATE_FILES}):
    os.makedirs(f"state/{{number % 40}}", exist_ok=True)
    with open(f"state/{{number % 40}}/{{number}}", "wb") as file:
        file.write(os.urandom({STATE_FILE_BYTES}))
"""


class Bench:
    """The measures, with folders and a local server of their own; each gives milliseconds."""

    def __init__(self, base: Path) -> None:
        os.environ["OPENCODE_MAGIC_RUNTIME_DIR"] = str(base / "run")
        os.environ["OPENCODE_MAGIC_STATE_DIR"] = str(base / "state")
        self._base = base
        self._server = ensure_server(load_settings())
        connection = connect_local(self._server)
        assert connection.local is not None
        self._connection, self._client, self._local = (
            connection,
            connection.client,
            connection.local,
        )
        self._state = base / "state" / "local"
        self._noise = os.urandom(FILE_BYTES)
        # It runs all the time, so that the end of another one leaves the next spare alone.
        self._box = self._client.create_sandbox(name="standing", persistent=False)
        self._source = self._make_snapshot()

    def close(self) -> None:
        """End the server and all that it runs, and wait until it is gone."""
        self._local.shutdown()
        self._connection.close()
        while Path(f"/proc/{self._server.pid}").exists():
            reap()
            time.sleep(0.02)

    def create_ms(self) -> float:
        """Create with a keeper ready, and run one command."""
        self._wait_for_spare()
        made: list[SyncSandbox] = []
        took_ms = timed(lambda: made.append(self._create_and_run()))
        made[0].destroy()
        return took_ms

    def command_ms(self) -> float:
        """Run a command in a sandbox that stands; the median of several."""
        run = partial(self._box.run_process, "true", capture_output=True)
        return statistics.median(timed(run) for _ in range(COMMANDS_A_ROUND))

    def file_in_ms(self) -> float:
        """Write a large file through the SDK."""
        return timed(lambda: self._box.fs.write_bytes("/vercel/noise", self._noise))

    def file_out_ms(self) -> float:
        """Read it back."""
        read: list[bytes] = []
        took_ms = timed(lambda: read.append(self._box.fs.read_bytes("/vercel/noise")))
        assert read[0] == self._noise
        return took_ms

    def save_ms(self) -> float:
        """Snapshot a sandbox that has what the restored one has."""
        box = self._client.create_sandbox(name="saved", persistent=False, source=self._source)
        try:
            return timed(box.snapshot)
        finally:
            box.destroy(delete_orphan_snapshots=True)

    def restore_ms(self) -> float:
        """Create from the snapshot, and run one command."""
        made: list[SyncSandbox] = []
        took_ms = timed(lambda: made.append(self._create_and_run(self._source)))
        made[0].destroy()
        return took_ms

    def copy_ms(self) -> float:
        """Copy the same files with no sandbox."""
        source = next((self._state / "snapshots").glob("*/home"))
        target = self._base / "copy"
        took_ms = timed(lambda: run(["cp", "-a", str(source), str(target)]))
        run(["rm", "-rf", str(target)])
        return took_ms

    def bare_in_ms(self, prefix: Sequence[str]) -> float:
        """Give a large file to a process that writes it."""
        argv = [*prefix, "sh", "-c", f"cat > {self._base / 'plain' / 'noise'}"]
        return timed(lambda: run(argv, self._noise))

    def bare_out_ms(self, prefix: Sequence[str]) -> float:
        """Read a large file from a process."""
        argv = [*prefix, "cat", str(self._base / "plain" / "noise")]
        return timed(lambda: run(argv))

    def pack_ms(self) -> float:
        """Pack a large file as the SDK does."""
        return timed(lambda: zlib.compress(self._noise))

    def measures(self) -> dict[str, Callable[[], float]]:
        """Give all measures by their names."""
        plain = self._base / "plain"
        plain.mkdir()
        bwrap = (*BUBBLEWRAP, "--bind", str(plain), str(plain))
        return {
            CREATE_BARE: lambda: timed(lambda: run([*BUBBLEWRAP, "true"])),
            CREATE: self.create_ms,
            COMMAND_BARE: lambda: statistics.median(
                timed(lambda: run(["true"])) for _ in range(COMMANDS_A_ROUND)
            ),
            COMMAND: self.command_ms,
            FILE_IN_BARE: lambda: self.bare_in_ms(()),
            FILE_IN_BWRAP: lambda: self.bare_in_ms(bwrap),
            FILE_IN: self.file_in_ms,
            PACK: self.pack_ms,
            FILE_OUT_BARE: lambda: self.bare_out_ms(()),
            FILE_OUT_BWRAP: lambda: self.bare_out_ms(bwrap),
            FILE_OUT: self.file_out_ms,
            COPY: self.copy_ms,
            SAVE: self.save_ms,
            RESTORE: self.restore_ms,
        }

    def _create_and_run(self, source: SnapshotSource | None = None) -> SyncSandbox:
        box = self._client.create_sandbox(name="made", persistent=False, source=source)
        box.run_process("true", capture_output=True)
        return box

    def _make_snapshot(self) -> SnapshotSource:
        box = self._client.create_sandbox(name="source", persistent=False)
        box.run_process("python3", ["-c", FILL], check=True)
        source = SnapshotSource(snapshot_id=box.snapshot().id)
        box.destroy()
        return source

    def _wait_for_spare(self) -> None:
        """Wait until there is a sandbox more than those that have a name, and it is ready."""
        deadline = time.monotonic() + SPARE_TIMEOUT_S
        while len(list((self._state / "boxes").iterdir())) <= STANDING:
            assert time.monotonic() < deadline, (self._state / "server.log").read_text()
            time.sleep(0.05)
        time.sleep(SETTLE_S)


def timed(work: Callable[[], object]) -> float:
    """Give how many milliseconds it took."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def beyond(figures: Sequence[float], beside: Sequence[float], ratio: float) -> float:
    """Give by how much figures are beyond so many times those beside them, at the median."""
    return statistics.median(a - ratio * b for a, b in zip(figures, beside, strict=True))


def run(argv: Sequence[str], content: bytes | None = None) -> None:
    """Run a program to its end and take its output."""
    subprocess.run(argv, input=content, capture_output=True, check=True)


def main() -> int:
    """Measure and print; 1 where a goal is not met."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with tempfile.TemporaryDirectory(prefix="om-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        bench = Bench(Path(name))
        try:
            figures = interleaved(bench.measures(), rounds=rounds)
        finally:
            bench.close()
    print_table(
        ("sandbox", "median", "range", "runs"),
        [median_row(title, values, "ms") for title, values in figures.items()],
    )
    keep("sandbox", figures)
    middle = {title: statistics.median(values) for title, values in figures.items()}
    for title, beside in BESIDE.items():
        print(f"{title}: {middle[title] / middle[beside]:.1f} times {beside!r}")
    # Round by round: on a busy machine the medians of two rows come from different moments.
    over_ms = beyond(figures[CREATE], figures[CREATE_BARE], GOAL_CREATE_RATIO)
    more_ms = beyond(figures[COMMAND], figures[COMMAND_BARE], 1.0)
    created = goal(
        f"create is {over_ms:.1f} ms beyond {GOAL_CREATE_RATIO} x bare bubblewrap;"
        f" at most {GOAL_CREATE_PLUS_MS:.0f} ms",
        is_met=over_ms < GOAL_CREATE_PLUS_MS,
    )
    ran = goal(
        f"a command takes {more_ms:.1f} ms more than a plain process;"
        f" less than {GOAL_ROUND_TRIP_MS:.0f} ms",
        is_met=more_ms < GOAL_ROUND_TRIP_MS,
    )
    return 0 if created and ran else 1


if __name__ == "__main__":
    sys.exit(main())
