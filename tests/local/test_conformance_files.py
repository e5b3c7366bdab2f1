"""The promises of the Sandbox API about files and ports, seen through the unmodified SDK."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import httpx2
import pytest
from vercel.sandbox import sync as sdk

from tests.local.servers import wait_for

if TYPE_CHECKING:
    from pathlib import Path


SERVE = ("-u", "-m", "http.server", "4096", "--bind", "127.0.0.1")


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


def test_written_file_is_of_now(box: sdk.SyncSandbox) -> None:
    """A file has the time of its writing: archives refuse those from before 1980."""
    began = time.time()
    box.fs.write_text("now.txt", "now")
    done = box.run_process("stat", ["-c", "%Y", "now.txt"], capture_output=True)

    assert abs(int(done.stdout or 0) - began) < 60


def test_read_that_breaks_off_is_an_error(client: sdk.SyncSandboxClient) -> None:
    """A download that its sandbox does not live to finish is never taken for a whole file."""
    box = client.create_sandbox(name="broken-off", persistent=False)
    box.run_process("sh", ["-c", "head -c 50000000 /dev/zero > big.bin"], check=True)
    session = box.current_session
    assert session is not None
    with box.fs.open("big.bin", "rb") as file:
        file.read(10)
        session.stop()
        with pytest.raises(httpx2.RemoteProtocolError):
            file.read()
    box.destroy()


def test_read_whose_program_is_killed_is_an_error(box: sdk.SyncSandbox) -> None:
    """The same where only the reading program ends, and the sandbox runs on."""
    box.run_process("sh", ["-c", "head -c 50000000 /dev/zero > big.bin"], check=True)
    with box.fs.open("big.bin", "rb") as file:
        file.read(10)
        box.run_process("pkill", ["-KILL", "-x", "cat"], check=True)
        with pytest.raises(httpx2.RemoteProtocolError):
            file.read()
    size = len(box.fs.read_bytes("big.bin"))

    assert size == 50_000_000


def test_modes_and_folders_as_a_shell_makes_them(box: sdk.SyncSandbox) -> None:
    """A file is 644 and its folders are 755 where nothing else is said; a read-only one yields."""
    box.fs.write_text("made/deep/er.txt", "first")
    box.fs.write_text("made/closed.txt", "first", mode=0o444)
    box.fs.write_text("made/closed.txt", "second", mode=0o444)
    box.fs.mkdir("made/more")
    names = ["made", "made/deep", "made/deep/er.txt", "made/closed.txt", "made/more"]
    modes = box.run_process("stat", ["-c", "%a", *names], capture_output=True).stdout

    assert modes == "755\n755\n644\n444\n755\n"
    assert box.fs.read_text("made/closed.txt") == "second"


def test_wrong_paths_have_their_errors(box: sdk.SyncSandbox) -> None:
    """A name that is too long, a folder below a file, a pipe, a closed file: each is told."""
    box.fs.write_text("plain", "plain")
    box.fs.write_text("closed", "closed", mode=0)
    box.run_process("mkfifo", ["pipe"], check=True)
    for path in ("n" * 256, "plain/below", "/".join(["d" * 50] * 100)):
        with pytest.raises(sdk.SandboxFilesystemWriteError) as refused:
            box.fs.write_text(path, "x")
        assert isinstance(refused.value.cause, sdk.SandboxApiError)
        assert refused.value.cause.code == "write_failed"
    for path in ("missing", "plain/below", "n" * 256):
        with pytest.raises(sdk.SandboxPathNotFoundError):
            box.fs.read_bytes(path)
    codes = []
    for path in ("pipe", "closed", "", "p" * 200_000):
        with pytest.raises(sdk.SandboxApiError) as caught:
            box.fs.read_bytes(path)
        codes.append((caught.value.status_code, caught.value.code))

    assert codes == [
        (400, "not_a_file"),
        (403, "permission_denied"),
        (400, "bad_request"),
        (400, "bad_request"),
    ]


def test_hundred_megabytes_go_in_and_out(box: sdk.SyncSandbox) -> None:
    """A large file of bytes that do not shrink arrives whole, both ways."""
    data = os.urandom(1_000_000) * 100
    box.fs.write_bytes("hundred.bin", data)
    summed = box.run_process("sha256sum", ["hundred.bin"], capture_output=True).stdout or ""
    back = box.fs.read_bytes("hundred.bin")
    box.fs.remove("hundred.bin")

    assert summed.split()[0] == hashlib.sha256(data).hexdigest()
    assert back == data


def test_write_whose_sandbox_ends_is_repeated_on_the_next_life(
    client: sdk.SyncSandboxClient,
) -> None:
    """An upload that a stop breaks off is told as the stop: the SDK resumes and repeats it."""
    box = client.create_sandbox(name="broken-off", persistent=True)
    first = box.current_session
    assert first is not None
    data = os.urandom(1_000_000) * 30

    def stop_while_writing() -> None:
        wait_for(lambda: is_writing(first), 10)
        first.stop()

    stopper = threading.Thread(target=stop_while_writing)
    stopper.start()
    box.fs.write_bytes("big.bin", data)
    stopper.join(20)
    ids, back = (first.id, box.current_session_id), box.fs.read_bytes("big.bin")
    box.destroy()

    assert ids[0] != ids[1]
    assert back == data


def is_writing(session: sdk.SyncSandboxRuntimeSession) -> bool:
    done = session.run_process("pgrep", ["-x", "tar"], stdout=subprocess.DEVNULL)
    return done.returncode == 0


def test_file_that_is_open_is_written_and_read_in_pieces(box: sdk.SyncSandbox) -> None:
    """Bytes and text go through an open file as through one of this machine's."""
    with box.fs.open("pieces.bin", "wb") as raw:
        for number in range(20):
            raw.write(bytes([number]) * 50_000)
    with box.fs.open("lines.txt", "w") as text:
        text.write("grüße\r\n")
        text.write("end")
    with box.fs.open("pieces.bin", "rb") as raw:
        first, rest = raw.read(50_001), raw.read()
    with box.fs.open("lines.txt", "r", newline="") as text:
        lines = list(text)

    assert (first, len(rest)) == (bytes(50_000) + b"\1", 949_999)
    assert lines == ["grüße\r\n", "end"]


def test_listed_entries_have_their_kinds(box: sdk.SyncSandbox) -> None:
    """A file, a folder, links that lead somewhere or nowhere, and a pipe are told apart."""
    script = "mkdir kinds kinds/folder; cd kinds; : > .file; ln -s folder link; ln -s no broken"
    box.run_process("sh", ["-c", f"{script}; mkfifo pipe"], check=True)
    listed = [(entry.path, entry.kind) for entry in box.fs.listdir("kinds")]
    links = box.fs.is_dir("kinds/link"), box.fs.is_file("kinds/link"), box.fs.exists("kinds/broken")

    assert listed == [
        (".file", "file"),
        ("broken", "symlink"),
        ("folder", "directory"),
        ("link", "symlink"),
        ("pipe", "other"),
    ]
    assert links == (True, False, False)
