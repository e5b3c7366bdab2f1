"""Sandboxes that start with something: a repository, a tarball, another sandbox's files."""

from __future__ import annotations

import functools
import http.server
import io
import subprocess
import tarfile
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from vercel.sandbox import sync as sdk

from tests.local.servers import LocalServer
from tests.tls import tls_front

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "files.example.com"
RULE = sdk.NetworkPolicyRule(
    transform=[sdk.NetworkPolicyTransform(headers={"authorization": "Bearer planted-value"})]
)
ALLOWED = sdk.NetworkPolicy.custom(allow={HOST: [RULE]})
"""With a rule TLS ends at the firewall, so that the sandbox trusts what it sees."""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Say nothing."""


@pytest.fixture(scope="module")
def origin() -> Iterator[int]:
    """A web server with a repository and a tarball on it; gives its port."""
    with tempfile.TemporaryDirectory(prefix="om-origin-") as name:
        folder = Path(name)
        make_repository(folder)
        make_tarball(folder / "work.tar.gz")
        handler = functools.partial(Quiet, directory=name)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
            thread = threading.Thread(target=web.serve_forever, args=(0.05,))
            thread.start()
            yield web.server_address[1]
            web.shutdown()
            thread.join()


def make_repository(folder: Path) -> None:
    work, bare = folder / "work", folder / "work.git"
    who = ["-c", "user.name=n", "-c", "user.email=n@example.com"]
    for words in (
        ["init", "-q", "-b", "main", str(work)],
        ["-C", str(work), *who, "commit", "-q", "--allow-empty", "-m", "first"],
    ):
        subprocess.run(["git", *words], check=True)
    (work / "code.py").write_text("print('from git')\n")
    for words in (
        ["-C", str(work), "add", "code.py"],
        ["-C", str(work), *who, "commit", "-q", "-m", "second"],
        ["clone", "-q", "--bare", str(work), str(bare)],
        ["-C", str(bare), "update-server-info"],
    ):
        subprocess.run(["git", *words], check=True)


def make_tarball(path: Path) -> None:
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("inside/data.txt")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"data"))


@pytest.fixture(scope="module")
def fetching(origin: int) -> Iterator[LocalServer]:
    """A server that finds the web server under its name, behind TLS."""
    running = LocalServer.make()
    with tls_front(origin) as front:
        authority = front.write_ca(running.base)
        upstream = ("--upstream", front.upstream(HOST), "--upstream-ca", str(authority))
        running.arguments = upstream
        try:
            running.start()
            yield running
        finally:
            running.close()


@pytest.fixture
def far_client(fetching: LocalServer) -> Iterator[sdk.SyncSandboxClient]:
    made = fetching.client()
    yield made
    made.close()


def test_repository_is_there(far_client: sdk.SyncSandboxClient) -> None:
    """A sandbox from a repository has its files and its history, on a branch."""
    source = sdk.GitSource(url=f"https://{HOST}/work.git")
    with far_client.create_sandbox(
        name="git", persistent=False, source=source, network_policy=ALLOWED
    ) as box:
        text = box.fs.read_text("/vercel/work/code.py")
        log = box.run_process(
            "git", ["-C", "/vercel/work", "log", "--format=%s"], capture_output=True
        )

    assert (text, log.stdout) == ("print('from git')\n", "second\nfirst\n")


def test_tarball_is_there(far_client: sdk.SyncSandboxClient) -> None:
    """A sandbox from a tarball has what was packed, and not the tarball."""
    source = sdk.TarballSource(url=f"https://{HOST}/work.tar.gz")
    with far_client.create_sandbox(
        name="tar", persistent=False, source=source, network_policy=ALLOWED
    ) as box:
        text = box.fs.read_text("/vercel/inside/data.txt")
        left = box.run_process("ls", ["/var/tmp"], capture_output=True)

    assert (text, left.stdout) == ("data", "")


def test_source_obeys_the_policy(far_client: sdk.SyncSandboxClient) -> None:
    """What the policy does not allow is not fetched either, and no sandbox is left."""
    source = sdk.GitSource(url=f"https://{HOST}/work.git")
    with pytest.raises(sdk.SandboxApiError) as caught:
        far_client.create_sandbox(
            name="denied",
            persistent=False,
            source=source,
            network_policy=sdk.NetworkPolicy.deny_all(),
        )

    assert caught.value.code == "source_failed"
    assert list(far_client.query_sandboxes()) == []


@pytest.mark.parametrize(
    "source",
    [
        {"type": "git", "url": "ext::sh -c whoami"},
        {"type": "git", "url": "https://example.com/x.git", "revision": "--upload-pack=x"},
        {"type": "git", "url": "https://example.com/x.git", "depth": 0},
        {"type": "tarball", "url": "file:///etc/passwd"},
        {"type": "tarball", "url": 5},
    ],
)
def test_bad_sources(fetching: LocalServer, source: dict[str, object]) -> None:
    """A source that is no http address, or that smuggles an option, is refused."""
    answer = fetching.ask("POST", "/v3/sandboxes", {"name": "bad", "source": source})

    assert (answer.status, answer.code) == (400, "bad_request")


def test_fork_has_the_files_and_goes_its_own_way(far_client: sdk.SyncSandboxClient) -> None:
    """A fork starts from what was saved, with the differences that are asked for."""
    box = far_client.create_sandbox(
        name="origin", persistent=True, tags={"a": "b"}, network_policy=ALLOWED
    )
    box.fs.write_text("work.txt", "work")
    box.stop()
    copy = far_client.fork_sandbox(
        source_sandbox="origin", name="fork", network_policy=sdk.NetworkPolicy.deny_all()
    )
    text, policy, tags = copy.fs.read_text("work.txt"), copy.network_policy, copy.tags
    copy.destroy()
    box.destroy(delete_orphan_snapshots=True)

    assert (text, policy.mode if policy else "", tags) == ("work", "deny-all", {"a": "b"})


def test_fork_of_what_is_not_saved_is_410(far_client: sdk.SyncSandboxClient) -> None:
    """A running sandbox without a snapshot cannot be forked."""
    with (
        far_client.create_sandbox(name="running", persistent=False),
        pytest.raises(sdk.SandboxApiError) as caught,
    ):
        far_client.fork_sandbox(source_sandbox="running")

    assert (caught.value.status_code, caught.value.code) == (410, "snapshot_not_found")
