"""The promises of the Sandbox API, seen through the unmodified SDK: one test each."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from datetime import timedelta
from io import StringIO
from typing import TYPE_CHECKING

import httpx2
import pytest
from vercel.sandbox import sync as sdk

from tests.local.servers import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.local.servers import LocalServer

SERVE = ("-u", "-m", "http.server", "4096", "--bind", "127.0.0.1")


class TimedWriter(StringIO):
    """Notes when each piece of text came."""

    def __init__(self) -> None:
        super().__init__()
        self.at: list[float] = []

    def write(self, text: str) -> int:
        """Take a piece."""
        self.at.append(time.monotonic())
        return super().write(text)


def brokered(secret: str) -> sdk.NetworkPolicy:
    rule = sdk.NetworkPolicyRule(
        match=sdk.NetworkPolicyRequestMatcher(path=sdk.NetworkPolicyMatcher.starts_with("/v1")),
        transform=[sdk.NetworkPolicyTransform(headers={"authorization": f"Bearer {secret}"})],
    )
    return sdk.NetworkPolicy.custom(allow={"api.example.com": [rule], "*.example.org": ()})


def session_of(box: sdk.SyncSandbox) -> sdk.SyncSandboxRuntimeSession:
    session = box.current_session
    assert session is not None
    return session


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


def test_files_are_written_and_read(box: sdk.SyncSandbox) -> None:
    """A file has its text and its mode, and its folders are made."""
    box.fs.write_text("/vercel/deep/er/file.txt", "grüße\n", mode=0o640)
    mode = box.run_process("stat", ["-c", "%a %U", "/vercel/deep/er/file.txt"], capture_output=True)

    assert box.fs.read_text("/vercel/deep/er/file.txt") == "grüße\n"
    assert mode.stdout == "640 ubuntu\n"


def test_relative_paths_are_below_the_cwd(box: sdk.SyncSandbox) -> None:
    """Writing and reading agree on what a relative path means."""
    box.fs.write_text("relative.txt", "here")

    assert box.fs.read_text("relative.txt") == box.fs.read_text("/vercel/relative.txt") == "here"


def test_files_of_any_bytes(box: sdk.SyncSandbox) -> None:
    """Binary content arrives as it is, also when it is large."""
    content = bytes(range(256)) * 20_000
    box.fs.write_bytes("/tmp/blob", content)

    assert box.fs.read_bytes("/tmp/blob") == content


def test_modes_are_kept(box: sdk.SyncSandbox) -> None:
    """A program that is written as one can be run, and a closed file stays closed to others."""
    box.fs.write_text("tool", "#!/bin/sh\necho ran\n", mode=0o755)
    box.fs.write_text("closed", "x", mode=0o600)
    stat = box.run_process("stat", ["-c", "%a", "tool", "closed"], capture_output=True)

    assert box.run_process("./tool", capture_output=True).stdout == "ran\n"
    assert stat.stdout == "755\n600\n"


def test_odd_names_come_back(box: sdk.SyncSandbox) -> None:
    """Names with spaces, quotes, dashes, newlines and other scripts are names."""
    names = ["-rf", "a b", "a'b\"c", "new\nline", "$(id)", "grüße", "\u202eodd", "x" * 200]
    for name in names:
        box.fs.write_text(f"/vercel/odd/{name}", name)

    assert sorted(entry.path for entry in box.fs.listdir("/vercel/odd")) == sorted(names)
    assert [box.fs.read_text(f"/vercel/odd/{name}") for name in names] == names


def test_link_that_leaves_leads_nowhere(box: sdk.SyncSandbox, tmp_path: Path) -> None:
    """A link to a place of this machine is a link to nothing inside, to read and to write."""
    (tmp_path / "secret").write_text("of the host")
    box.run_process("ln", ["-s", str(tmp_path), "way-out"])
    with pytest.raises(sdk.SandboxPathNotFoundError):
        box.fs.read_text("way-out/secret")
    with pytest.raises(sdk.SandboxFilesystemWriteError):
        box.fs.write_text("way-out/planted", "x")

    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_empty_file(box: sdk.SyncSandbox) -> None:
    """A file without content is a file."""
    box.fs.write_text("empty", "")

    assert box.fs.read_bytes("empty") == b""


def test_batch_writes_many(box: sdk.SyncSandbox) -> None:
    """Several files go in one request."""
    with box.fs.batch() as batch:
        batch.write_text("/vercel/many/a", "A")
        batch.write_text("/vercel/many/b", "B")

    assert sorted(entry.path for entry in box.fs.listdir("/vercel/many")) == ["a", "b"]


def test_exists_tells(box: sdk.SyncSandbox) -> None:
    """What is there exists, and nothing else does."""
    box.fs.write_text("there", "x")

    assert (box.fs.exists("there"), box.fs.exists("not-there")) == (True, False)


def test_mkdir_makes_parents(box: sdk.SyncSandbox) -> None:
    """A folder is made with those above it."""
    box.fs.mkdir("/vercel/one/two/three")

    assert box.fs.is_dir("/vercel/one/two/three")


def test_remove_and_rename(box: sdk.SyncSandbox) -> None:
    """Files move and go."""
    box.fs.write_text("from", "x")
    box.fs.rename("from", "to")
    box.fs.remove("to")

    assert (box.fs.exists("from"), box.fs.exists("to")) == (False, False)


def test_missing_file_has_its_error(box: sdk.SyncSandbox) -> None:
    """A file that is not there is told from other failures."""
    with pytest.raises(sdk.SandboxPathNotFoundError):
        box.fs.read_text("/vercel/nope")


def test_reading_a_folder_is_an_error(box: sdk.SyncSandbox) -> None:
    """A folder has no bytes."""
    with pytest.raises(sdk.SandboxApiError) as caught:
        box.fs.read_bytes("/vercel")

    assert caught.value.code == "is_directory"


def test_writing_where_nobody_may_is_an_error(box: sdk.SyncSandbox) -> None:
    """The system is read-only, and the error says why."""
    with pytest.raises(sdk.SandboxFilesystemWriteError) as caught:
        box.fs.write_text("/usr/bin/mine", "x")

    assert "Read-only" in str(caught.value.__cause__ or caught.value)


def test_published_port_answers(box: sdk.SyncSandbox) -> None:
    """A server inside is reached from outside, over many connections."""
    box.fs.write_text("page.html", "served")
    process = box.create_process(
        "python3", SERVE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"{box.routes[0].url}/page.html"
    wait_for(lambda: status_of(url) == 200, 10)
    pages = {httpx2.get(url, trust_env=False).content for _ in range(20)}
    process.kill()
    process.wait()

    assert pages == {b"served"}


def test_port_without_server_answers_502(box: sdk.SyncSandbox) -> None:
    """A port where nothing listens says so at once."""
    assert status_of(box.routes[0].url) == 502


def status_of(url: str) -> int:
    return httpx2.get(url, trust_env=False, timeout=5).status_code


def test_policy_is_read_back_without_values(box: sdk.SyncSandbox) -> None:
    """The policy in force shows header names, and never a value."""
    box.update(network_policy=brokered("planted-value"))
    readback = box.network_policy

    assert readback is not None
    assert (readback.mode, readback.allowed_domains) == (
        "custom",
        ("api.example.com", "*.example.org"),
    )
    assert readback.injection_rules[0].header_names == ("authorization",)
    assert "planted-value" not in repr(readback)


def test_extend_adds_time(box: sdk.SyncSandbox) -> None:
    """An extension is added to the session's limit."""
    session = session_of(box)
    before = session.execution_time_limit
    box.extend_execution_time_limit(timedelta(minutes=3))
    session.refresh()

    assert before is not None
    assert session.execution_time_limit == before + timedelta(minutes=3)


def test_named_lookup_finds_it(client: sdk.SyncSandboxClient, box: sdk.SyncSandbox) -> None:
    """Another client finds a sandbox by its name."""
    found = client.get_sandbox(name="shared")

    assert (found.current_session_id, found.routes[0].url) == (
        box.current_session_id,
        box.routes[0].url,
    )


def test_unknown_name_is_404(client: sdk.SyncSandboxClient) -> None:
    """A sandbox that does not exist is not found."""
    with pytest.raises(sdk.SandboxApiError) as caught:
        client.get_sandbox(name="nobody")

    assert (caught.value.status_code, caught.value.code) == (404, "not_found")


def test_stop_ends_it_and_later_calls_get_410(client: sdk.SyncSandboxClient) -> None:
    """A stopped sandbox that is not persistent stays stopped."""
    box = client.create_sandbox(name="stopped", persistent=False)
    session = session_of(box)
    box.stop()
    with pytest.raises(sdk.SandboxApiError) as caught:
        session.run_process("true")
    with pytest.raises(sdk.SandboxApiError) as resumed:
        box.run_process("true")
    status = client.get_sandbox(name="stopped").status
    box.destroy()

    assert (caught.value.status_code, caught.value.code) == (410, "sandbox_stopped")
    assert (resumed.value.status_code, resumed.value.code) == (410, "snapshot_not_found")
    assert status == sdk.SandboxStatus.STOPPED


def test_stop_ends_a_stream_that_is_open(client: sdk.SyncSandboxClient) -> None:
    """Who waits for a command is told when its sandbox ends."""
    box = client.create_sandbox(name="streaming", persistent=False)
    codes: list[int | None] = []
    waiter = threading.Thread(
        target=lambda: codes.append(box.run_process("sleep", ["60"]).returncode)
    )
    waiter.start()
    wait_for(lambda: bool(list(box.query_processes())), 5)
    session_of(box).stop()
    waiter.join(10)
    box.destroy()

    assert codes == [137]


def test_persistent_sandbox_resumes_with_its_files(client: sdk.SyncSandboxClient) -> None:
    """A persistent sandbox starts again by itself, with what it had."""
    box = client.create_sandbox(name="lasting", persistent=True)
    first = box.current_session_id
    box.fs.write_text("keep.txt", "kept")
    box.stop()
    text = box.fs.read_text("keep.txt")
    box.destroy()

    assert (text, box.current_session_id != first) == ("kept", True)


def test_destroy_removes_it(client: sdk.SyncSandboxClient) -> None:
    """A destroyed sandbox is gone from every list."""
    with client.create_sandbox(name="brief", persistent=False) as box:
        box.run_process("true")
    with pytest.raises(sdk.SandboxApiError) as caught:
        client.get_sandbox(name="brief")
    query = sdk.SandboxQueryByName(name_prefix="brief")

    assert caught.value.status_code == 404
    assert list(client.query_sandboxes(query=query)) == []


def test_snapshot_restores_files_under_the_new_policy(client: sdk.SyncSandboxClient) -> None:
    """A sandbox from a snapshot has the files, and the policy that it is created with."""
    box = client.create_sandbox(name="source", persistent=False)
    box.fs.write_text("work.txt", "work")
    snapshot = box.snapshot(expiration=timedelta(days=7))
    copy = client.create_sandbox(
        name="copy",
        persistent=False,
        source=sdk.SnapshotSource(snapshot_id=snapshot.id),
        network_policy=sdk.NetworkPolicy.deny_all(),
    )
    text, policy = copy.fs.read_text("work.txt"), copy.network_policy
    copy.destroy()
    box.destroy(delete_orphan_snapshots=True)

    assert (text, policy.mode if policy else "") == ("work", "deny-all")
    assert list(client.query_snapshots()) == []


def test_pages_of_a_list(client: sdk.SyncSandboxClient) -> None:
    """A long list comes in pages, each sandbox once."""
    names = [f"page-{number}" for number in range(3)]
    boxes = [client.create_sandbox(name=name, persistent=False) for name in names]
    query = sdk.SandboxQueryByName(name_prefix="page-", sort_order="asc")
    found = [item.name for item in client.query_sandboxes(query=query, page_size=2)]
    for box in boxes:
        box.destroy()

    assert found == names


def test_tags_filter_a_list(client: sdk.SyncSandboxClient, box: sdk.SyncSandbox) -> None:
    """A sandbox is found by its tag, and not by another."""

    def named(value: str) -> list[str]:
        query = sdk.SandboxQueryByCreatedAt(tag=sdk.TagFilter(key="app", value=value))
        return [item.name for item in client.query_sandboxes(query=query)]

    assert (named("tests"), named("other")) == ([box.name], [])


def test_expiry_ends_it(client: sdk.SyncSandboxClient) -> None:
    """A sandbox ends when its time is up."""
    box = client.create_sandbox(
        name="short", persistent=False, execution_time_limit=timedelta(milliseconds=400)
    )
    wait_for(lambda: client.get_sandbox(name="short").status == sdk.SandboxStatus.STOPPED, 5)
    status = client.get_sandbox(name="short").status
    box.destroy()

    assert status == sdk.SandboxStatus.STOPPED


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
