"""Files in and out: archives that lie, names that are odd, links that try to leave."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import threading
from typing import TYPE_CHECKING

import pytest

from tests.local.servers import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.local.servers import Answer, LocalServer

SESSIONS = "/v2/sandboxes/sessions"
ODD_NAMES = [
    "vercel/with space", "vercel/-dash", "vercel/new\nline", "vercel/ünïcode-✓",
    "vercel/quote'\"$(x)", "vercel/" + "deep/" * 40 + "end", "vercel/" + "n" * 255,
]  # fmt: skip


@pytest.fixture(scope="module")
def session_id(server: LocalServer) -> Iterator[str]:
    """The session of a running sandbox that may reach nothing."""
    body = {"name": "files", "projectId": "local", "persistent": False}
    created = server.ask("POST", "/v3/sandboxes", body).json()["session"]
    assert isinstance(created, dict)
    yield str(created["id"])
    server.ask("DELETE", "/v2/sandboxes/files?discard=true")


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in more.items():
        setattr(info, field, value)
    return info


def write(server: LocalServer, session_id: str, body: bytes) -> Answer:
    return server.ask("POST", f"{SESSIONS}/{session_id}/fs/write", body, x_cwd="/")


def read(server: LocalServer, session_id: str, path: str) -> Answer:
    return server.ask("POST", f"{SESSIONS}/{session_id}/fs/read", {"path": path})


def shell(server: LocalServer, session_id: str, script: str) -> str:
    body = {"command": "sh", "args": ["-c", script]}
    answer = server.ask("POST", f"{SESSIONS}/{session_id}/cmd?wait=true&logs=true", body)
    return "".join(json.loads(line).get("data", "") for line in answer.body.splitlines())


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_go_in_and_come_out(server: LocalServer, session_id: str, name: str) -> None:
    """A file of any name is written and read as it is."""
    answer = write(server, session_id, archive((member(name), b"content")))

    assert answer.status == 200
    assert read(server, session_id, f"/{name}").body == b"content"


@pytest.mark.parametrize("body", [b"", b"plain", b"PK\x03\x04", b"\x1f"])
def test_what_is_no_gzip_is_415(server: LocalServer, session_id: str, body: bytes) -> None:
    """A body of another kind is refused."""
    assert write(server, session_id, body).status == 415


@pytest.mark.parametrize(
    "body", [gzip.compress(b"no tar at all" * 100), archive((member("vercel/x"), b"x" * 9999))[:60]]
)
def test_broken_archives_are_an_error(server: LocalServer, session_id: str, body: bytes) -> None:
    """An archive that is cut or is none is an error, not half a success."""
    assert (write(server, session_id, body).code) == "write_failed"


def test_names_that_climb_are_refused(server: LocalServer, session_id: str, isolated: Path) -> None:
    """A member named with dots stays inside: tar refuses it, and the host has no such file."""
    target = isolated / "escaped"
    climbing = f"vercel/{'../' * 20}{str(target)[1:]}"
    answer = write(server, session_id, archive((member(climbing), b"x")))

    assert (answer.status, target.exists()) == (400, False)


def test_a_link_leads_nowhere_outside(server: LocalServer, session_id: str, isolated: Path) -> None:
    """A link to a folder of the host is a link to nothing inside."""
    planted = isolated / "host.txt"
    planted.write_text("of the host")
    link = member("vercel/out", tarfile.SYMTYPE, linkname=str(isolated))
    write(server, session_id, archive((link, b"")))
    through = write(server, session_id, archive((member("vercel/out/new.txt"), b"x")))
    seen = read(server, session_id, "/vercel/out/host.txt")

    assert (seen.status, (isolated / "new.txt").exists()) == (404, False)
    assert through.status in {200, 400}


def test_owner_in_the_archive_is_not_believed(server: LocalServer, session_id: str) -> None:
    """Files belong to the sandbox's user, whatever the archive says; a set-uid bit wins nothing."""
    info = member("vercel/mine", uid=0, gid=0, mode=0o4755)
    write(server, session_id, archive((info, b"x")))

    assert shell(server, session_id, "stat -c %U /vercel/mine").strip() == "ubuntu"


def test_device_files_are_refused(server: LocalServer, session_id: str) -> None:
    """An archive cannot make a device."""
    info = member("vercel/disk", tarfile.BLKTYPE, devmajor=8, devminor=0)

    assert write(server, session_id, archive((info, b""))).status == 400


@pytest.mark.parametrize("path", ["/dev/zero", "/vercel/pipe", "/dev/tty"])
def test_only_regular_files_are_read(server: LocalServer, session_id: str, path: str) -> None:
    """Reading what never ends, or what blocks, is refused at once."""
    shell(server, session_id, "mkfifo /vercel/pipe")

    assert read(server, session_id, path).status in {400, 404}


def test_unreadable_file_is_403(server: LocalServer, session_id: str) -> None:
    """A file that the sandbox's user may not read is told from one that is missing."""
    shell(server, session_id, "echo x > /vercel/closed; chmod 000 /vercel/closed")

    assert read(server, session_id, "/vercel/closed").code == "permission_denied"


@pytest.mark.parametrize(
    "body", [{}, {"path": 5}, {"path": ""}, {"path": "a\0b"}, {"path": "a", "cwd": 1}]
)
def test_bad_paths_are_a_bad_request(
    server: LocalServer, session_id: str, body: dict[str, object]
) -> None:
    """What is no path is refused."""
    assert server.ask("POST", f"{SESSIONS}/{session_id}/fs/read", body).code == "bad_request"


def test_mkdir_below_a_file_is_an_error(server: LocalServer, session_id: str) -> None:
    """A folder cannot stand below a file."""
    write(server, session_id, archive((member("vercel/plain"), b"x")))
    body = {"path": "/vercel/plain/below", "recursive": True}

    assert server.ask("POST", f"{SESSIONS}/{session_id}/fs/mkdir", body).code == "mkdir_failed"


def test_mkdir_without_parents_is_404(server: LocalServer, session_id: str) -> None:
    """Where parents are not to be made, a missing one is not found."""
    body = {"path": "/vercel/no/such/parent", "recursive": False}

    assert server.ask("POST", f"{SESSIONS}/{session_id}/fs/mkdir", body).code == "not_found"


def test_agents_own_tar_is_not_run(server: LocalServer, session_id: str) -> None:
    """Programs that the agent puts before the system's have no part in moving files."""
    fake = archive((member("vercel/.local/bin/tar", mode=0o755), b"#!/bin/sh\nexit 0\n"))
    write(server, session_id, fake)
    write(server, session_id, archive((member("vercel/after"), b"real")))

    assert read(server, session_id, "/vercel/after").body == b"real"


def test_reader_that_leaves_disturbs_nobody(server: LocalServer, session_id: str) -> None:
    """A download that is broken off ends its program, and the next one is whole."""
    shell(server, session_id, "head -c 50000000 /dev/zero > /vercel/large")
    for _ in range(5):
        connection = server.connection()
        path = f"/api{SESSIONS}/{session_id}/fs/read"
        headers = {"authorization": f"Bearer {server.token}"}
        connection.request("POST", path, body=b'{"path":"/vercel/large"}', headers=headers)
        connection.getresponse().read(1000)
        connection.close()
    whole = read(server, session_id, "/vercel/large").body
    wait_for(lambda: "cat" not in shell(server, session_id, "ps -eo comm"), 5)

    assert whole == bytes(50_000_000)
    assert "cat" not in shell(server, session_id, "ps -eo comm")


def test_writer_that_leaves_disturbs_nobody(server: LocalServer, session_id: str) -> None:
    """An upload that is broken off ends its program, and the next one is whole."""
    body = archive((member("vercel/half"), os.urandom(3_000_000)))
    for _ in range(5):
        connection = server.connection()
        connection.putrequest("POST", f"/api{SESSIONS}/{session_id}/fs/write")
        connection.putheader("authorization", f"Bearer {server.token}")
        connection.putheader("transfer-encoding", "chunked")
        connection.endheaders()
        connection.send(b"%x\r\n%b\r\n" % (1_000_000, body[:1_000_000]))
        connection.close()
    wait_for(lambda: "tar" not in shell(server, session_id, "ps -eo comm"), 5)
    left = shell(server, session_id, "ps -eo comm")
    whole = write(server, session_id, body)

    assert "tar" not in left
    assert whole.status == 200
    assert len(read(server, session_id, "/vercel/half").body) == 3_000_000


def test_many_transfers_at_once(server: LocalServer, session_id: str) -> None:
    """Files that go in and out side by side stay apart."""
    contents = [os.urandom(400_000) for _ in range(12)]
    came: dict[int, bytes] = {}

    def carry(number: int) -> None:
        write(server, session_id, archive((member(f"vercel/at-once/{number}"), contents[number])))
        came[number] = read(server, session_id, f"/vercel/at-once/{number}").body

    carriers = [threading.Thread(target=carry, args=(number,)) for number in range(len(contents))]
    for carrier in carriers:
        carrier.start()
    for carrier in carriers:
        carrier.join(30)

    assert [came.get(number) for number in range(len(contents))] == contents
