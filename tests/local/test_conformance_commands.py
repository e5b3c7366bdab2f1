"""The promises of the Sandbox API about commands at their edges, through the unmodified SDK."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from vercel.sandbox import sync as sdk

from tests.local.servers import wait_for

if TYPE_CHECKING:
    from tests.local.servers import LocalServer

MANY = 300
LARGE = 412_345
"""More than a log keeps in memory."""
SIGNALLED = {1: 129, 2: 130, 3: 131, 6: 134, 9: 137, 10: 138, 13: 141, 14: 142, 15: 143, 31: 159}


def output(box: sdk.SyncSandbox, *argv: str, cwd: str | None = None) -> str:
    done = box.run_process(argv[0], argv[1:], capture_output=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert done.stdout is not None
    return done.stdout


def test_relative_cwd_is_below_the_home(box: sdk.SyncSandbox) -> None:
    """A command's folder is counted from the same place as a file's path."""
    box.fs.write_text("sub/work.txt", "work")
    files = box.fs

    assert output(box, "pwd", cwd="sub") == "/vercel/sub\n"
    assert files.read_text("work.txt", cwd="sub") == "work"
    assert files.exists("work.txt", cwd="sub")
    assert [entry.path for entry in files.listdir(".", cwd="sub")] == ["work.txt"]


@pytest.mark.parametrize("size", [200_000, 9_000_000])
def test_arguments_beyond_the_kernels_limit_are_refused(box: sdk.SyncSandbox, size: int) -> None:
    """What no program can be given is the caller's mistake, and the sandbox runs on."""
    with pytest.raises(sdk.SandboxApiError) as caught:
        box.run_process("true", ["x" * size])

    assert (caught.value.status_code, caught.value.code) == (400, "argument_list_too_long")
    assert output(box, "echo", "on") == "on\n"


def test_text_that_is_no_unicode_is_refused(box: sdk.SyncSandbox, server: LocalServer) -> None:
    """Half of a surrogate pair has no bytes that a program could be given."""
    path = f"/v2/sandboxes/sessions/{box.current_session_id}/cmd"
    answers = [
        server.ask("POST", path, b'{"command":"echo","args":["\\ud800"]}'),
        server.ask("POST", path, b'{"command":"echo","env":{"A":"\\udfff"}}'),
        server.ask("POST", path, b'{"command":"echo","cwd":"/\\ud800"}'),
        server.ask("POST", path.replace("/cmd", "/fs/read"), b'{"path":"\\ud800"}'),
    ]

    assert [(answer.status, answer.code) for answer in answers] == [(400, "bad_request")] * 4


def test_input_of_a_process_without_stdin_is_told(box: sdk.SyncSandbox) -> None:
    """Who finds a process that takes no input learns that it takes none; closing is harmless."""
    started = box.create_process("sleep", ["30"])
    found = box.get_process(started.id)
    assert found.stdin is not None
    with pytest.raises(sdk.SandboxStdinError, match="not started with"):
        found.stdin.write(b"x")
    found.stdin.close()
    started.kill()

    assert started.wait() == 137


def test_input_of_a_process_that_ended_is_a_broken_pipe(box: sdk.SyncSandbox) -> None:
    """A process that reads no more is told like a closed pipe; closing is harmless."""
    process = box.create_process("true", stdin=subprocess.PIPE)
    process.wait()
    assert process.stdin is not None
    with pytest.raises(BrokenPipeError):
        process.stdin.write(b"x")
    process.stdin.close()


def test_many_processes_can_all_be_waited_for(box: sdk.SyncSandbox) -> None:
    """Each of some hundred small processes has its code and its output, however late one asks."""
    started = [box.create_process("echo", [str(number)]) for number in range(MANY)]
    codes = [process.wait() for process in started]
    first = started[0].stdout
    assert first is not None

    assert (codes, first.read()) == ([0] * MANY, "0\n")


def test_each_signal_has_its_code(box: sdk.SyncSandbox) -> None:
    """A signal that ends a process gives 128 and its number, and a stopped one goes on."""
    codes = {}
    for number in SIGNALLED:
        process = box.create_process("sleep", ["30"])
        process.send_signal(number)
        codes[number] = process.wait()
    paused = box.create_process("sleep", ["30"])
    for name in ("SIGSTOP", "SIGCONT", "SIGTERM"):
        paused.send_signal(name)

    assert (codes, paused.wait()) == (SIGNALLED, 143)


def test_signal_after_the_end_changes_nothing(box: sdk.SyncSandbox) -> None:
    """A process that has ended keeps its code, also when it is waited for again."""
    process = box.create_process("sh", ["-c", "exit 3"])
    codes = [process.wait()]
    process.kill()
    codes += [process.wait(), box.get_process(process.id, wait=True).returncode or 0]

    assert codes == [3, 3, 3]


def test_threads_at_once_keep_their_work_apart(box: sdk.SyncSandbox) -> None:
    """Twenty threads run, write and read on one sandbox, and each gets what is its own."""

    def work(number: int) -> tuple[str | None, str | None, int, bool, str]:
        script = f"echo out {number}; echo err {number} >&2; exit {number}"
        done = box.run_process("sh", ["-c", script], capture_output=True)
        data = bytes([number]) * 50_000
        box.fs.write_bytes(f"of-{number}", data)
        process = box.create_process("sh", ["-c", f"sleep 0.1; echo late {number}"])
        assert process.stdout is not None
        same = box.fs.read_bytes(f"of-{number}") == data
        return done.stdout, done.stderr, done.returncode, same, process.stdout.read()

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(work, range(40)))

    assert found == [(f"out {n}\n", f"err {n}\n", n, True, f"late {n}\n") for n in range(40)]


def test_output_that_nobody_reads_blocks_nothing(box: sdk.SyncSandbox) -> None:
    """Fifty megabytes end without a reader, and are there for the one who comes then."""
    process = box.create_process("sh", ["-c", "yes | head -c 50000000"])
    code = process.wait()
    assert process.stdout is not None

    assert (code, len(process.stdout.read())) == (0, 50_000_000)


def test_output_is_text_as_it_was_written(box: sdk.SyncSandbox) -> None:
    """No newline is added or changed, whatever characters count as line ends elsewhere."""
    written = "no end\r or \r\n or \u2028 or \u0085 or \0 or 🚀"

    assert output(box, "printf", "%b", written.replace("\0", "\\0000")) == written


def test_wrong_commands_have_their_codes(box: sdk.SyncSandbox) -> None:
    """A wrong limit, an empty name, a file that is no program, root: each has its own answer."""
    box.fs.write_text("text.txt", "text")
    codes = []
    for command, more in (
        ("", {}),
        ("true", {"kill_after": 0}),
        ("/vercel/text.txt", {}),
        ("/vercel", {}),
        ("true", {"sudo": True}),
    ):
        with pytest.raises(sdk.SandboxApiError) as caught:
            box.run_process(command, **more)
        codes.append((caught.value.status_code, caught.value.code))

    assert codes == [
        (400, "bad_request"),
        (400, "bad_request"),
        (400, "executable_not_found"),
        (400, "executable_not_found"),
        (501, "not_implemented"),
    ]


def test_limit_longer_than_any_life_is_no_limit(box: sdk.SyncSandbox, server: LocalServer) -> None:
    """A command may be given a hundred days, or any number: it ends by itself, and so do others."""
    done = box.run_process("echo", ["on"], capture_output=True, kill_after=timedelta(days=100))
    path = f"/v2/sandboxes/sessions/{box.current_session_id}/cmd?wait=true"
    endless = server.ask("POST", path, {"command": "true", "timeout": 10**400})

    assert (done.stdout, endless.status, output(box, "echo", "on")) == ("on\n", 200, "on\n")


def test_output_of_an_ended_sandbox_takes_no_open_files(
    client: sdk.SyncSandboxClient, server: LocalServer
) -> None:
    """What a sandbox's commands said goes with it, at once."""
    assert server.process is not None
    folder = Path(f"/proc/{server.process.pid}/fd")

    def kept_logs() -> int:
        found = 0
        for item in folder.iterdir():
            with suppress(OSError):  # closed since it was listed
                found += item.stat().st_size == LARGE
        return found

    box = client.create_sandbox(name="talking", persistent=False)
    for _ in range(5):
        box.run_process("head", ["-c", str(LARGE), "/dev/zero"], capture_output=True)
    during = kept_logs()
    box.destroy()
    wait_for(lambda: kept_logs() == 0, 5)

    assert (during, kept_logs()) == (5, 0)


def test_variables_of_any_kind_arrive(box: sdk.SyncSandbox) -> None:
    """Empty values, lines, signs and other scripts are values; odd names are names."""
    given = {
        "EMPTY": "",
        "LINES": "a\nb",
        "SIGNS": "a=b '\"$`\\",
        "SCRIPT": "grüße 日本",
        "odd.name-1": "x",
    }
    done = box.run_process("env", ["-0"], env=given, capture_output=True)
    seen = dict(line.split("=", 1) for line in (done.stdout or "").split("\0") if line)

    assert {name: seen.get(name) for name in given} == given


@pytest.mark.parametrize("env", [{"": "x"}, {"A=B": "x"}, {"A": "planted\0"}, {"A\0": "x"}])
def test_variables_that_cannot_be_are_refused(box: sdk.SyncSandbox, env: dict[str, str]) -> None:
    """What no environment can hold is refused, without its value."""
    with pytest.raises(sdk.SandboxApiError) as caught:
        box.run_process("true", env=env)

    assert (caught.value.status_code, caught.value.code) == (400, "bad_request")
    assert "planted" not in str(caught.value)
