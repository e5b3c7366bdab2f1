from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opencode_magic.core.status import LeaseExtended, WentDown
from opencode_magic.sandbox.connect import find_server
from opencode_magic.sandbox.launch import launch
from opencode_magic.sandbox.lease import (
    LeaseFile,
    is_orphaned,
    load_leases,
    new_lease,
    write_lease,
)
from opencode_magic.sandbox.local_api import LocalApi
from opencode_magic.sandbox.sweep import sweep
from opencode_magic.settings import load_settings
from tests.sandbox.homes import Events, local_home, quick_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opencode_magic.sandbox.launch import LaunchRequest
    from opencode_magic.settings import Settings

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the local home needs Linux")

KERNEL = """
import sys, time
from opencode_magic.core.providers import demo_choice
from opencode_magic.sandbox.launch import LaunchRequest, launch
from opencode_magic.settings import load_settings
from tests.sandbox.homes import LOCAL, Events, quick_server

request = LaunchRequest(settings=load_settings(), choice=LOCAL, model=demo_choice(""))
sandbox = launch(request, quick_server(), Events())
print(sandbox.name, flush=True)
sys.stdin.read()
"""


INTERRUPTED = """
from opencode_magic.core.providers import demo_choice
from opencode_magic.sandbox.launch import LaunchRequest, launch
from opencode_magic.settings import load_settings
from tests.sandbox.homes import LOCAL, ScriptServer

def emit(event):
    if type(event).__name__ == "StepStarted":
        print(event.name, flush=True)

request = LaunchRequest(settings=load_settings(), choice=LOCAL, model=demo_choice(""))
try:
    launch(request, ScriptServer("sleep 600"), emit)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.fixture
def local() -> Iterator[LaunchRequest]:
    """The local home."""
    with local_home() as request:
        yield request


@pytest.fixture
def kernel() -> Iterator[subprocess.Popen[str]]:
    """Another process that has launched a sandbox; its end of input is its end."""
    process = subprocess.Popen(
        [sys.executable, "-c", KERNEL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    yield process
    process.kill()
    process.communicate()


def sandbox_count(settings: Settings) -> int:
    server = find_server(settings)
    assert server is not None
    count = LocalApi(server.socket, server.token).info()["sandboxes"]
    return len(count) if isinstance(count, list) else int(str(count))


def kept_names(settings: Settings) -> list[str]:
    """Whose files the local server keeps."""
    server = find_server(settings)
    assert server is not None
    kept = LocalApi(server.socket, server.token).info()["kept"]
    assert isinstance(kept, list)
    return [str(entry["name"]) for entry in kept]


def read_name(kernel: subprocess.Popen[str]) -> str:
    assert kernel.stdout is not None
    return kernel.stdout.readline().strip()


@needs_linux
@pytest.mark.usefixtures("opencode_binary")
def test_kernel_that_exits_takes_its_sandbox_along(
    local: LaunchRequest, kernel: subprocess.Popen[str]
) -> None:
    """At the interpreter's exit the sandbox is destroyed, within two seconds."""
    assert read_name(kernel).startswith("ocm-")
    before = sandbox_count(local.settings)
    started = time.monotonic()

    kernel.communicate("", timeout=20)

    assert time.monotonic() - started < 5
    assert (before, sandbox_count(local.settings)) == (1, 0)
    assert list(load_leases(local.settings)) == []


@needs_linux
@pytest.mark.usefixtures("opencode_binary")
def test_sandbox_of_a_killed_kernel_is_swept(
    local: LaunchRequest, kernel: subprocess.Popen[str]
) -> None:
    """After ``kill -9`` of the kernel the sandbox lives on until the next launch removes it."""
    name = read_name(kernel)
    os.kill(kernel.pid, signal.SIGKILL)
    kernel.wait()
    before = sandbox_count(local.settings)

    removed = sweep(local.settings)

    assert (before, removed, sandbox_count(local.settings)) == (1, (name,), 0)
    assert list(load_leases(local.settings)) == []
    assert kept_names(local.settings) == [name]


@needs_linux
@pytest.mark.usefixtures("opencode_binary")
def test_sandbox_of_a_running_kernel_is_left_alone(
    local: LaunchRequest, kernel: subprocess.Popen[str]
) -> None:
    """A sweep touches nothing of a kernel that lives."""
    name = read_name(kernel)

    removed = sweep(local.settings)

    assert (removed, sandbox_count(local.settings)) == ((), 1)
    assert [lease.name for lease in load_leases(local.settings)] == [name]


@needs_linux
@pytest.mark.usefixtures("opencode_binary")
def test_two_kernels_at_once_have_a_sandbox_each(local: LaunchRequest) -> None:
    """Two first launches at the same moment share one local server and disturb nobody."""
    kernels = [
        subprocess.Popen(
            [sys.executable, "-c", KERNEL],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(2)
    ]
    try:
        names = {read_name(kernel) for kernel in kernels}
        count = sandbox_count(local.settings)
    finally:
        for kernel in kernels:
            kernel.communicate("", timeout=20)

    assert "" not in names
    assert (len(names), count) == (2, 2)
    assert sandbox_count(local.settings) == 0


@needs_linux
@pytest.mark.usefixtures("opencode_binary")
def test_interrupt_of_the_whole_process_group_ends_the_launch_alone(local: LaunchRequest) -> None:
    """Jupyter's Interrupt meets the kernel's group: the launch is undone, the server lives on."""
    kernel = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    assert kernel.stdout is not None
    steps = []
    for line in kernel.stdout:
        steps.append(line.strip())
        if steps[-1] == "serve":
            time.sleep(0.3)
            os.killpg(kernel.pid, signal.SIGINT)
            break
    rest, _ = kernel.communicate(timeout=30)

    assert rest.split() == ["interrupted"]
    assert sandbox_count(local.settings) == 0
    assert list(load_leases(local.settings)) == []


@needs_linux
@pytest.mark.usefixtures("opencode_binary")
def test_heartbeat_extends_up_to_the_time_limit(local: LaunchRequest) -> None:
    """A beat moves the end to one time limit from now, at the home too."""
    events = Events()
    sandbox = launch(local, quick_server(), events)
    try:
        sandbox._expires_ms -= 300_000
        before = sandbox._parts.session.execution_time_limit
        assert sandbox._beat()
        sandbox._parts.session.refresh()
        after = sandbox._parts.session.execution_time_limit
    finally:
        sandbox.terminate()

    assert before is not None
    assert after is not None
    assert 299 <= (after - before).total_seconds() <= 310
    assert [e for e in events.seen if isinstance(e, LeaseExtended)]


@needs_linux
@pytest.mark.usefixtures("opencode_binary")
def test_heartbeat_notices_a_sandbox_that_ended(local: LaunchRequest) -> None:
    """When the home has ended the sandbox the next beat says so, and is the last."""
    events = Events()
    sandbox = launch(local, quick_server(), events)
    sandbox._parts.connection.client.get_sandbox(name=sandbox.name).destroy()
    sandbox._expires_ms -= 300_000

    goes_on = sandbox._beat()
    gone = sandbox.terminate()

    assert not goes_on
    assert [e for e in events.seen if isinstance(e, WentDown)]
    assert len(gone.removed) == 1


@needs_linux
@pytest.mark.usefixtures("opencode_binary")
def test_terminate_twice_says_the_same(local: LaunchRequest) -> None:
    """The second end of a sandbox does nothing and says what the first did."""
    sandbox = launch(local, quick_server(), Events())

    assert sandbox.terminate() is sandbox.terminate()


@needs_linux
@pytest.mark.usefixtures("opencode_binary")
def test_lease_file_is_private_and_holds_the_route(local: LaunchRequest) -> None:
    """Only its owner can read the state file; the attach command finds all it needs there."""
    sandbox = launch(local, quick_server(), Events())
    try:
        path = local.settings.state_dir / "leases" / f"{sandbox.name}.json"
        mode = path.stat().st_mode & 0o777
        lease = json.loads(path.read_text())
    finally:
        sandbox.terminate()

    assert mode == 0o600
    assert (lease["url"], lease["password"]) == (sandbox.url, "x")
    assert lease["workspace"] == "/vercel/workspace"
    assert not path.exists()


def lease_of(settings: Settings, **changes: object) -> LeaseFile:
    # The changes are field values of the dataclass, which mypy cannot see through **.
    return replace(new_lease(settings, "ocm-test-lease", "local"), **changes)  # type: ignore[arg-type]


def test_orphan_is_told_by_process_and_start_time() -> None:
    """A later process with the same number is not the kernel; another machine's is not judged."""
    settings = load_settings()
    dead = subprocess.Popen(["true"])
    dead.wait()

    verdicts = [
        is_orphaned(lease)
        for lease in (
            lease_of(settings),
            lease_of(settings, pid=dead.pid),
            lease_of(settings, pid=dead.pid, host="another"),
            lease_of(settings, pid_started="1"),
        )
    ]

    assert verdicts == [False, True, False, sys.platform == "linux"]


def test_repr_of_a_lease_holds_no_password() -> None:
    """The password is in the file, and in no repr."""
    assert "planted" not in repr(lease_of(load_settings(), password="planted"))


def test_broken_lease_files_are_passed_over() -> None:
    """Rubbish among the lease files stops neither listing nor sweep."""
    settings = load_settings()
    write_lease(settings, lease_of(settings))
    folder = settings.state_dir / "leases"
    (folder / "rubbish.json").write_text("{")
    (folder / "list.json").write_text("[]")
    (folder / "other.json").write_text((folder / "ocm-test-lease.json").read_text())

    assert [lease.name for lease in load_leases(settings)] == ["ocm-test-lease"]


def test_very_old_lease_is_forgotten() -> None:
    """A lease older than any sandbox can be is removed without asking a home."""
    settings = load_settings()
    write_lease(settings, lease_of(settings, created_ms=1, host="another"))

    assert sweep(settings) == ()
    assert list(load_leases(settings)) == []


def test_sandbox_of_a_server_that_is_gone_is_gone() -> None:
    """Where no local server runs, a dead kernel's lease names nothing: the file goes."""
    settings = load_settings()
    dead = subprocess.Popen(["true"])
    dead.wait()
    write_lease(settings, lease_of(settings, pid=dead.pid))

    assert sweep(settings) == ("ocm-test-lease",)
    assert list(load_leases(settings)) == []
