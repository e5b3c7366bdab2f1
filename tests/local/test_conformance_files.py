"""The promises of the Sandbox API about files and ports, seen through the unmodified SDK."""

from __future__ import annotations

import subprocess
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
