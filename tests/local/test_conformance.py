"""The promises of the Sandbox API, seen through the unmodified SDK: one test each."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from datetime import timedelta
from io import StringIO
from typing import TYPE_CHECKING

import pytest
from vercel.sandbox import sync as sdk

from tests.local.servers import wait_for

if TYPE_CHECKING:
    from tests.local.servers import LocalServer


class TimedWriter(StringIO):
    """Notes when each piece of text came."""

    def __init__(self) -> None:
        super().__init__()
        self.at: list[float] = []

    def write(self, text: str) -> int:
        """Take a piece."""
        self.at.append(time.monotonic())
        return super().write(text)


def test_create_gives_a_running_sandbox(box: sdk.SyncSandbox) -> None:
    """A created sandbox runs, and says what it was asked to be."""
    assert (box.name, box.status, box.cwd, box.persistent, box.tags) == (
        "shared",
        sdk.SandboxStatus.RUNNING,
        "/vercel",
        False,
        {"app": "tests"},
    )


def test_create_routes_lead_to_this_machine(box: sdk.SyncSandbox) -> None:
    """A published port has an address on loopback."""
    assert [(route.port, route.url.rpartition(":")[0]) for route in box.routes] == [
        (4096, "http://127.0.0.1")
    ]


def test_run_process_gives_both_streams_and_the_code(box: sdk.SyncSandbox) -> None:
    """Output of the two streams stays apart, and the exit code arrives."""
    done = box.run_process("bash", ["-c", "echo out; echo err >&2; exit 3"], capture_output=True)

    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_run_process_streams_as_it_comes(box: sdk.SyncSandbox) -> None:
    """A line arrives when it is written, not at the end."""
    writer = TimedWriter()
    box.run_process("bash", ["-c", "echo one; sleep 0.4; echo two"], stdout=writer)

    assert writer.getvalue() == "one\ntwo\n"
    assert writer.at[-1] - writer.at[0] > 0.3


def test_streams_interleave_in_the_order_of_writing(box: sdk.SyncSandbox) -> None:
    """Who collects both streams in one place reads them as they were written."""
    writer = TimedWriter()
    script = "for i in 1 2 3; do echo out $i; sleep 0.05; echo err $i >&2; sleep 0.05; done"
    box.run_process("sh", ["-c", script], stdout=writer, stderr=writer)

    assert writer.getvalue() == "".join(f"out {i}\nerr {i}\n" for i in (1, 2, 3))


def test_started_run_can_be_signalled(box: sdk.SyncSandbox) -> None:
    """A run tells its process when it starts, and a trap in it answers the signal."""
    script = "trap 'echo caught; exit 9' USR1; echo ready; while true; do sleep 0.05; done"
    seen: list[sdk.SyncProcess] = []
    writer = TimedWriter()
    done: list[int] = []

    def run() -> None:
        result = box.run_process("sh", ["-c", script], stdout=writer, on_start=seen.append)
        done.append(result.returncode)

    runner = threading.Thread(target=run)
    runner.start()
    wait_for(lambda: "ready" in writer.getvalue(), 5)
    seen[0].send_signal(signal.SIGUSR1)
    runner.join(10)

    assert (writer.getvalue(), done) == ("ready\ncaught\n", [9])


def test_run_process_has_the_sandbox_environment(box: sdk.SyncSandbox) -> None:
    """A command sees what the sandbox was created with, and its own variables over it."""
    script = "echo $GREETING $HOME $PWD $EXTRA"
    done = box.run_process("sh", ["-c", script], env={"EXTRA": "more"}, capture_output=True)

    assert done.stdout == "hello /vercel /vercel more\n"


def test_run_process_honours_cwd(box: sdk.SyncSandbox) -> None:
    """A command starts in the folder that it is told."""
    assert box.run_process("pwd", cwd="/usr/bin", capture_output=True).stdout == "/usr/bin\n"


def test_run_process_in_no_folder_is_an_error(box: sdk.SyncSandbox) -> None:
    """A folder that does not exist is refused with its name."""
    with pytest.raises(sdk.SandboxApiError, match="chdir /nowhere: no such file or directory"):
        box.run_process("pwd", cwd="/nowhere")


def test_missing_executable_has_its_code(box: sdk.SyncSandbox) -> None:
    """A program that does not exist is refused as on the cloud."""
    with pytest.raises(sdk.SandboxApiError) as caught:
        box.run_process("nope-nope")

    assert (caught.value.status_code, caught.value.code) == (400, "executable_not_found")


def test_run_process_takes_input(box: sdk.SyncSandbox) -> None:
    """Input reaches the command, and so does its end."""
    assert box.run_process("sort", input="b\na\n", capture_output=True).stdout == "a\nb\n"


def test_run_process_takes_large_input(box: sdk.SyncSandbox) -> None:
    """Input of many chunks arrives whole."""
    done = box.run_process("wc", ["-c"], input="x" * 3_000_000, capture_output=True)

    assert done.stdout is not None
    assert int(done.stdout) == 3_000_000


def test_kill_after_ends_with_137(box: sdk.SyncSandbox) -> None:
    """A command that outlives its limit is killed."""
    done = box.run_process("sleep", ["30"], kill_after=timedelta(milliseconds=200))

    assert done.returncode == 137


def test_resources_limit_the_memory(client: sdk.SyncSandboxClient) -> None:
    """A program that takes more memory than was asked for is ended, and told why."""
    eat = "import time; kept = bytearray(600 << 20); time.sleep(20)"
    asked = sdk.SandboxResources(memory=512)
    with client.create_sandbox(name="small", persistent=False, resources=asked) as box:
        done = box.run_process("python3", ["-c", eat], capture_output=True)

    assert done.stderr is not None
    assert (done.returncode, box.memory) == (137, 512)
    assert "over its limit of 512 MiB of memory" in done.stderr


def test_created_process_waits_and_keeps_its_logs(box: sdk.SyncSandbox) -> None:
    """A process runs on its own; its output can be read again from the start."""
    process = box.create_process(
        "sh", ["-c", "echo one; echo two"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    code = process.wait()
    again = box.get_process(process.id)

    assert (code, again.returncode) == (0, 0)
    assert again.stdout is not None
    assert again.stdout.read() == "one\ntwo\n"


def test_logs_follow_a_running_process(box: sdk.SyncSandbox) -> None:
    """A reader that comes late gets what was and what comes."""
    process = box.create_process(
        "sh",
        ["-c", "echo early; read line; echo late $line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    first = process.stdout.readline()
    process.stdin.write(b"word\n")
    process.stdin.close()

    assert (first, process.stdout.read(), process.wait()) == ("early\n", "late word\n", 0)


def test_logs_are_the_same_for_everyone(box: sdk.SyncSandbox) -> None:
    """Readers at once, and one after the end, all get the whole output of both streams."""
    script = "for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; sleep 0.05; done"
    process = box.create_process("sh", ["-c", script])
    handles = [process, *(box.get_process(process.id) for _ in range(2))]
    said: list[tuple[str | None, str | None]] = []
    readers = [
        threading.Thread(target=lambda handle=handle: said.append(handle.communicate()))
        for handle in handles
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(10)
    said.append(box.get_process(process.id).communicate())
    out, err = ("".join(f"{name} {i}\n" for i in range(1, 6)) for name in ("out", "err"))

    assert said == [(out, err)] * 4


def test_kill_after_ends_a_created_process(box: sdk.SyncSandbox) -> None:
    """The limit holds too where nobody waits."""
    process = box.create_process(
        "sh", ["-c", "trap '' TERM; sleep 30"], kill_after=timedelta(milliseconds=200)
    )

    assert process.wait() == 137


def test_terminate_ends_with_143(box: sdk.SyncSandbox) -> None:
    """A signal ends a process with the code that shells give."""
    process = box.create_process("sleep", ["30"])
    process.terminate()

    assert process.wait() == 143


def test_query_processes_lists_them(box: sdk.SyncSandbox) -> None:
    """A process is found by asking the sandbox."""
    process = box.create_process("true")
    process.wait()

    assert process.id in {item.id for item in box.query_processes()}


def test_background_child_of_a_run_ends_with_it(box: sdk.SyncSandbox) -> None:
    """What a waited-for command leaves running in its group is ended."""
    script = "sleep 97 >/dev/null 2>&1 & exit 0"
    box.run_process("sh", ["-c", script])
    left = box.run_process("pgrep", ["-f", "sleep 97"], capture_output=True)

    assert left.stdout == ""


def test_cut_stream_goes_on(box: sdk.SyncSandbox, server: LocalServer) -> None:
    """A command outlives the connection that it was started on."""
    session_id = box.current_session_id
    path = f"/api/v2/sandboxes/sessions/{session_id}/cmd?wait=true&logs=true"
    connection = server.connection()
    body = b'{"command":"sh","args":["-c","sleep 0.3; echo done"]}'
    headers = {"authorization": f"Bearer {server.token}"}
    connection.request("POST", path, body=body, headers=headers)
    first = connection.getresponse().readline()
    connection.close()
    command_id = first.split(b'"id": "')[1].split(b'"')[0].decode()
    process = box.get_process(command_id)

    assert process.wait() == 0
    assert process.stdout is not None
    assert process.stdout.read() == "done\n"


def test_much_output_arrives_whole(box: sdk.SyncSandbox) -> None:
    """Output of many megabytes is neither lost nor mixed up."""
    script = "for i in 0 1 2 3 4 5 6 7 8 9; do head -c 1000000 /dev/zero | tr '\\0' $i; done"
    done = box.run_process("sh", ["-c", script], capture_output=True)

    assert done.stdout == "".join(str(digit) * 1_000_000 for digit in range(10))
