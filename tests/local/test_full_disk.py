"""A disk that takes no more, under a running server: clear errors, and all goes on afterwards."""

from __future__ import annotations

import resource
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
from vercel.sandbox import sync as sdk

from tests.local.servers import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.local.servers import LocalServer


@contextmanager
def files_up_to(server: LocalServer, size: int) -> Iterator[None]:
    """Let no file of the server grow beyond a size, as a full disk would."""
    assert server.process is not None
    limit, endless = resource.RLIMIT_FSIZE, resource.RLIM_INFINITY
    resource.prlimit(server.process.pid, limit, (size, endless))
    try:
        yield
    finally:
        resource.prlimit(server.process.pid, limit, (endless, endless))


def test_full_disk_is_told_and_outlived(fresh_server: LocalServer) -> None:
    """No sandbox is created then, those that run run on, and later all is as before."""
    with closing(fresh_server.client()) as client:
        running = client.create_sandbox(name="running", persistent=False)
        running.fs.write_text("work.txt", "work")
        with files_up_to(fresh_server, 20_000):
            with pytest.raises(sdk.SandboxApiError) as caught:
                client.create_sandbox(name="never", persistent=False)
            said = running.run_process("cat", ["work.txt"], capture_output=True).stdout
            wait_for(lambda: "no spare sandbox" in fresh_server.log, 10)
        built = fresh_server.log.count("sandbox built")
        client.create_sandbox(name="later", persistent=False)
        names = sorted(box.name for box in client.query_sandboxes())
        # The one that was asked for, and the spare: what failed once is tried again.
        wait_for(lambda: fresh_server.log.count("sandbox built") == built + 2, 10)

    assert (caught.value.status_code, caught.value.code) == (507, "disk_full")
    assert (said, names) == ("work", ["later", "running"])
    assert fresh_server.log.count("sandbox built") == built + 2


def test_files_that_cannot_be_kept_are_not_removed(fresh_server: LocalServer) -> None:
    """A sandbox whose files a full disk cannot keep stands until it can, and is then removed."""
    with closing(fresh_server.client()) as client:
        box = client.create_sandbox(name="full", persistent=False)
        box.fs.write_text("work.txt", "work")
        with files_up_to(fresh_server, 50):
            box.stop()
            with pytest.raises(sdk.SandboxApiError) as caught:
                box.destroy()
        listed = [item.name for item in client.query_sandboxes()]
        box.destroy()
    (kept,) = fresh_server.state_dir.glob("kept/*/files/work.txt")

    assert (caught.value.status_code, caught.value.code) == (507, "disk_full")
    assert (listed, kept.read_text()) == (["full"], "work")
