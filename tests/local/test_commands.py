from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import threading
import time
import weakref
from typing import TYPE_CHECKING

import pytest

from opencode_magic.errors import OpencodeMagicError
from opencode_magic.local import commands
from opencode_magic.local.children import BadFolderError, ExecutableNotFoundError
from opencode_magic.local.commands import StdinUnavailableError
from tests.local import keepers
from tests.local.keepers import Sandbox, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with keepers.sandbox() as made:
        yield made


def test_a_command_gives_output_and_exit_code(box: Sandbox) -> None:
    """Output and exit code are those of the program."""
    assert box.shell("echo hello; exit 7") == (7, "hello\n")


def test_stdout_and_stderr_stay_apart_and_in_order(box: Sandbox) -> None:
    """Each piece of output knows its stream, and pieces stand in the order they came."""
    command = box.start("sh", "-c", "echo a; sleep .1; echo b >&2; sleep .1; echo c")
    command.wait(5)

    assert [(output.index, output.stream, output.data) for output in command.outputs()] == [
        (1, "stdout", b"a\n"),
        (3, "stderr", b"b\n"),
        (5, "stdout", b"c\n"),
    ]


def test_output_comes_while_the_command_runs(box: Sandbox) -> None:
    """The first line arrives before the command has ended."""
    command = box.start("sh", "-c", "echo first; read line", has_stdin=True)
    first = next(command.follow())

    assert (first.data, command.exit_code) == (b"first\n", None)
    command.close_stdin()
    assert command.wait(5) is not None


def test_output_can_be_followed_twice_and_from_the_middle(box: Sandbox) -> None:
    """Following starts over, or after an index, whether the command runs or not."""
    command = box.start("sh", "-c", "for i in 1 2 3; do echo $i; sleep .05; done")

    assert b"".join(output.data for output in command.follow()) == b"1\n2\n3\n"
    assert b"".join(output.data for output in command.follow()) == b"1\n2\n3\n"
    assert b"".join(output.data for output in command.follow(after=1)) == b"2\n3\n"


def test_everything_written_before_the_exit_is_kept(box: Sandbox) -> None:
    """Five megabytes written just before the exit arrive whole."""
    command = box.start("head", "-c", str(5 * MIB), "/dev/zero")

    assert command.wait(10) == 0
    assert sum(len(output.data) for output in command.outputs()) == 5 * MIB


def test_binary_output_is_unchanged(box: Sandbox) -> None:
    """Output is bytes: nothing is decoded on the way."""
    command = box.start("printf", r"\377\000\200")
    command.wait(5)

    assert command.outputs()[0].data == b"\xff\x00\x80"


def test_the_oldest_output_is_dropped_beyond_the_limit(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded: what is dropped is counted, and the end is kept."""
    monkeypatch.setattr(commands, "LOG_LIMIT_BYTES", MIB)
    command = box.start("sh", "-c", f"head -c {3 * MIB} /dev/zero; echo end")
    command.wait(10)
    kept = sum(len(output.data) for output in command.outputs())

    assert kept <= MIB
    assert kept + command.dropped_bytes == 3 * MIB + len("end\n")
    assert command.outputs()[-1].data.endswith(b"end\n")


def test_a_subscriber_is_woken(box: Sandbox) -> None:
    """Whoever subscribed is called on output and at the end, until undone."""
    command = box.start("cat", has_stdin=True)
    calls = threading.Semaphore(0)
    undo = command.subscribe(calls.release)
    command.write_stdin(b"x")

    assert calls.acquire(timeout=5)
    command.close_stdin()
    assert calls.acquire(timeout=5)
    undo()
    undo()


def test_a_background_process_does_not_hold_the_end(box: Sandbox) -> None:
    """A command ends with its program, even if a background process keeps its output open."""
    began = time.monotonic()
    command = box.start("sh", "-c", "sleep 30 & echo $!")

    assert command.wait(5) == 0
    assert time.monotonic() - began < 5
    assert box.shell(f"kill {command.outputs()[0].data.decode()}") == (0, "")


def test_a_background_process_ends_where_that_is_asked(box: Sandbox) -> None:
    """With `is_group_ended` nothing of the process group is left behind."""
    command = box.start("sh", "-c", "sleep 31 & echo $!", is_group_ended=True)
    command.wait(5)
    pid = command.outputs()[0].data.decode().strip()

    assert eventually(lambda: box.shell(f"test -e /proc/{pid}")[0] == 1, timeout_s=5)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, 137)])
def test_a_signal_reaches_the_whole_process_group(box: Sandbox, number: int, code: int) -> None:
    """A signal ends the program and what it started, and the exit code is 128 + its number."""
    command = box.start("sh", "-c", "sleep 32 & echo $!; wait")
    child = next(command.follow()).data.decode().strip()
    command.signal(number)

    assert command.wait(5) == code
    assert eventually(lambda: box.shell(f"test -e /proc/{child}")[0] == 1, timeout_s=5)


def test_a_signal_after_the_end_is_harmless(box: Sandbox) -> None:
    """Signalling a command that has ended does nothing."""
    command = box.start("true")
    command.wait(5)
    command.signal(signal.SIGTERM)
    command.signal(999)

    assert command.exit_code == 0


def test_a_command_is_killed_after_its_time(box: Sandbox) -> None:
    """`kill_after_s` ends the command with 137, children included."""
    began = time.monotonic()
    code, _text = box.shell("trap '' TERM; sleep 33 & wait", kill_after_s=0.3)

    assert code == 137
    assert 0.3 <= time.monotonic() - began < 5


def test_stdin_arrives(box: Sandbox) -> None:
    """What is written comes in, and closing is the end of input."""
    command = box.start("sort", has_stdin=True)
    sent = command.write_stdin(b"b\na\n")
    command.close_stdin()
    command.close_stdin()

    assert sent == 4
    assert command.wait(5) == 0
    assert command.outputs()[0].data == b"a\nb\n"


def test_a_full_stdin_is_reported_not_waited_for(box: Sandbox) -> None:
    """A program that does not read takes a pipe's worth, and the caller learns how much."""
    command = box.start("sleep", "34", has_stdin=True)
    sent = command.write_stdin(bytes(MIB), timeout_s=0.2)
    command.signal(signal.SIGKILL)

    assert 0 < sent < MIB


def test_stdin_works_beyond_a_thousand_open_files(box: Sandbox) -> None:
    """A pipe whose number is too high for `select` is waited for like any other."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    with contextlib.ExitStack() as held:
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1100):
            held.enter_context(open(os.devnull, "rb"))  # noqa: PTH123 - a descriptor is wanted
        command = box.start("sh", "-c", "sleep 0.2; wc -c", has_stdin=True)
        sent = command.write_stdin(bytes(MIB))
        command.close_stdin()
        code = command.wait(10)

    assert (sent, code, command.outputs()[0].data.strip()) == (MIB, 0, b"1048576")


def test_stdin_is_empty_unless_asked_for(box: Sandbox) -> None:
    """Without `has_stdin` a program that reads sees the end, and writing is refused."""
    command = box.start("cat")

    assert command.wait(5) == 0
    with pytest.raises(StdinUnavailableError):
        command.write_stdin(b"x")


def test_stdin_of_an_ended_command_is_refused(box: Sandbox) -> None:
    """Writing to a command that has ended is a clear error."""
    command = box.start("true", has_stdin=True)
    command.wait(5)

    with pytest.raises(StdinUnavailableError):
        command.write_stdin(b"x")


@pytest.mark.parametrize("name", ["nope-nope", "/vercel/nope", "/etc/passwd", "/usr"])
def test_a_missing_program_is_named(box: Sandbox, name: str) -> None:
    """A program that is not there, or is none, is refused with its name."""
    with pytest.raises(ExecutableNotFoundError, match=f"'{name}'"):
        box.start(name)


def test_a_name_is_looked_up_as_a_shell_does(box: Sandbox) -> None:
    """The first folder of PATH that has such a program wins; folders and closed files do not."""
    made = """
mkdir -p one/tool two three; echo 'echo two' > two/tool; cp two/tool three/tool
sed -i 's/^/#!\\/bin\\/sh\\n/; s/two/three/' three/tool; chmod 755 three/tool; chmod 644 two/tool
"""
    box.shell(made)
    found = "/vercel/one:/vercel/two:/vercel/three:/usr/bin"

    assert box.run("tool", env={"PATH": found}) == (0, "three\n")
    assert box.run("tool", env={"PATH": "three"}) == (0, "three\n")
    assert box.run("true", env={"PATH": "/nowhere:/usr/bin"}) == (0, "")
    with pytest.raises(ExecutableNotFoundError):
        box.start("tool", env={"PATH": "/vercel/one:/vercel/two"})


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "", "."])
def test_a_name_that_is_none_ends_nothing(box: Sandbox, name: str) -> None:
    """What no program can be called is refused, and the sandbox runs on."""
    with pytest.raises(OpencodeMagicError):
        box.start(name)

    assert box.run("echo", "on") == (0, "on\n")


@pytest.mark.parametrize("folder", ["/nope", "/etc/passwd"])
def test_a_bad_working_folder_is_named(box: Sandbox, folder: str) -> None:
    """A working folder that cannot be entered is refused with its name."""
    with pytest.raises(BadFolderError, match=folder):
        box.start("true", cwd=folder)


def test_environment_and_folder_are_those_asked_for(box: Sandbox) -> None:
    """The command's own variables are stronger than the sandbox's; `cwd` is where it runs."""
    code, text = box.shell(
        "echo $HOME $A $TMPDIR; pwd", env={"A": "1", "TMPDIR": "/tmp"}, cwd="/var/tmp"
    )

    assert (code, text) == (0, "/vercel 1 /tmp\n/var/tmp\n")


def test_large_arguments_and_environment_pass(box: Sandbox) -> None:
    """A hundred kilobytes in one argument and one variable arrive whole."""
    big = "x" * 100_000

    assert box.shell('printf %s "$1$BIG" | wc -c', env={"BIG": big}) == (0, "100000\n")
    assert box.run("sh", "-c", 'printf %s "$1" | wc -c', "sh", big) == (0, "100000\n")


def test_too_large_arguments_are_a_clear_error(box: Sandbox) -> None:
    """What the kernel refuses to pass on is an error with the kernel's reason, not a hang."""
    with pytest.raises(Exception, match="too long"):
        box.run("true", "x" * 200_000)

    assert box.run("true") == (0, "")


def test_many_commands_at_once(box: Sandbox) -> None:
    """Fifty commands side by side each get their own output and code."""
    running = [box.start("sh", "-c", f"echo {n}; exit {n}") for n in range(50)]

    assert [command.wait(20) for command in running] == list(range(50))
    assert [command.outputs()[0].data for command in running] == [
        f"{n}\n".encode() for n in range(50)
    ]


def test_output_that_no_disk_takes_is_told(box: Sandbox) -> None:
    """A full disk costs output and says so; the command ends as it would, and others run on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        command = box.start("head", "-c", "400000", "/dev/zero")
        code = command.wait(20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    outputs = command.outputs()

    assert (code, outputs[0].data[:4]) == (0, bytes(4))
    assert outputs[-1].data == b"opencode-magic: output was lost: File too large\n"
    assert box.run("true") == (0, "")


def test_limit_does_not_hold_what_has_ended(box: Sandbox) -> None:
    """A command that ended long before its limit goes at once with the last who asks for it.

    Its output may be an open file: none may wait for a collector of garbage.
    """
    gc.collect()
    gc.disable()
    try:
        command = box.start("head", "-c", "400000", "/dev/zero", kill_after_s=3600.0)
        code = command.wait(10)
        held = weakref.ref(command)
        del command
        is_gone = eventually(lambda: held() is None, timeout_s=5)
    finally:
        gc.enable()

    assert (code, is_gone) == (0, True)
