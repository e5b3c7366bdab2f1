from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from vercel.sandbox.sync import SandboxApiError

from opencode_magic.errors import CredentialsError, SandboxConnectionError, SettingsError
from opencode_magic.sandbox import connect as connecting
from opencode_magic.sandbox.connect import connect, connect_local, ensure_server, find_server
from opencode_magic.sandbox.faults import as_connection_error
from opencode_magic.sandbox.local_api import LocalApi, load_server_file
from opencode_magic.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opencode_magic.sandbox.local_api import ServerFile
    from opencode_magic.settings import Settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the local server needs Linux")

KEY = "planted-key-0123456789"


@pytest.fixture
def settings() -> Iterator[Settings]:
    """Settings with folders of the test's own; a server that runs there is ended."""
    found = load_settings()
    yield found
    stop_server(found)


def stop_server(settings: Settings) -> None:
    server = load_server_file(settings.runtime_dir / "server.json")
    if server is not None:
        with contextlib.suppress(SandboxConnectionError):
            LocalApi(server.socket, server.token).shutdown()
        wait_gone(server)
    connecting.reap()


def wait_gone(server: ServerFile) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        connecting.reap()
        if not Path(f"/proc/{server.pid}").exists():
            return
        time.sleep(0.02)
    msg = f"the server {server.pid} still runs"
    raise AssertionError(msg)


def test_another_users_server_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was first in a folder that all may write to is not taken for the local server."""
    path = tmp_path / "server.json"
    path.write_text('{"pid": 1, "socket": "/s", "token": "t", "version": "1", "protocol": 1}')
    ours = load_server_file(path)
    monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)

    assert ours is not None
    assert load_server_file(path) is None


def test_server_is_started_once_and_used_again(settings: Settings) -> None:
    """The second connection meets the server that the first one started."""
    first = ensure_server(settings)
    second = ensure_server(settings)

    assert first == second
    assert first.pid != os.getpid()


def test_nothing_is_started_by_looking(settings: Settings) -> None:
    """Looking for a server finds none and starts none."""
    assert find_server(settings) is None
    assert not (settings.runtime_dir / "server.json").exists()


def test_server_has_a_session_of_its_own_and_no_key(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Jupyter Interrupt does not reach the server, and it knows none of the kernel's keys."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("VERCEL_TOKEN", KEY)

    server = ensure_server(settings)

    assert os.getsid(server.pid) == server.pid
    assert KEY.encode() not in Path(f"/proc/{server.pid}/environ").read_bytes()


def test_killed_server_is_replaced(settings: Settings) -> None:
    """After ``kill -9`` the state file still names the dead server; a new one is started."""
    first = ensure_server(settings)
    os.kill(first.pid, signal.SIGKILL)
    wait_gone(first)

    second = ensure_server(settings)

    assert second.pid != first.pid
    assert LocalApi(second.socket, second.token).info()["pid"] == second.pid


def test_idle_server_of_another_version_is_replaced(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an upgrade of the package an old server without sandboxes makes room."""
    first = ensure_server(settings)
    monkeypatch.setattr(connecting, "PROTOCOL", first.protocol + 1)

    with pytest.MonkeyPatch.context() as patch:
        # The new server is of today's protocol too: stop at its first answer.
        patch.setattr(connecting, "_start", lambda *_: first)
        ensure_server(settings)

    wait_gone(first)


def test_server_without_the_asked_upstreams_is_replaced(settings: Settings) -> None:
    """Upstreams count when a server starts: an idle one without them makes room."""
    first = ensure_server(settings)

    second = ensure_server(replace(settings, upstreams=("example.com=127.0.0.1:9",)))

    assert second.pid != first.pid
    assert ensure_server(replace(settings, upstreams=("example.com=127.0.0.1:9",))) == second


def test_server_that_is_not_strict_is_replaced(settings: Settings) -> None:
    """Strict counts when a server starts: an idle one without it makes room, and it stays."""
    first = ensure_server(settings)

    second = ensure_server(replace(settings, is_strict=True))

    assert second.pid != first.pid
    assert ensure_server(replace(settings, is_strict=True)) == second
    assert ensure_server(settings) == second


def test_server_of_another_proxy_is_replaced(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way out counts when a server starts: an idle one makes room when the user's changes."""
    first = ensure_server(settings)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:8080")

    second = ensure_server(settings)

    assert second.pid != first.pid
    assert LocalApi(second.socket, second.token).info()["way_out"] == "proxy.example:8080"
    assert ensure_server(settings) == second


def test_a_server_with_sandboxes_is_told_how_each_goes_out(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that holds a sandbox stays, and what is created by another kernel goes out as that."""
    first = ensure_server(settings)
    earlier = connect_local(first)
    earlier.client.create_sandbox(name="earlier", persistent=False, **earlier.extras)  # type: ignore[arg-type] # passed on
    monkeypatch.setenv("HTTPS_PROXY", "socks5://me:SECRET@proxy.example")
    second = ensure_server(settings)
    later = connect_local(second)
    with pytest.raises(SandboxApiError, match="must be an http:// URL, not socks5://") as caught:
        later.client.create_sandbox(name="later", persistent=False, **later.extras)  # type: ignore[arg-type] # passed on
    monkeypatch.delenv("HTTPS_PROXY")
    again = connect_local(second)
    again.client.create_sandbox(name="later", persistent=False, **again.extras)  # type: ignore[arg-type] # passed on
    names = {item.name for item in again.client.query_sandboxes()}
    for connection in (earlier, later, again):
        connection.close()

    assert second == first
    assert names == {"earlier", "later"}
    assert "SECRET" not in str(caught.value) + repr(later)


def test_proxy_that_cannot_be_used_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong with the user's proxy is the error of the launch, without a password."""
    monkeypatch.setenv("HTTPS_PROXY", "socks5://me:SECRET@proxy.example")

    with pytest.raises(SandboxConnectionError, match="must be an http:// URL") as caught:
        ensure_server(settings)

    assert "SECRET" not in str(caught.value)


def test_two_kernels_at_once_share_one_server(settings: Settings) -> None:
    """Two first launches at the same moment end with one server."""
    found: list[ServerFile] = []
    threads = [
        threading.Thread(target=lambda: found.append(ensure_server(settings))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found[0] == found[1]


def test_sdk_speaks_to_the_server(settings: Settings) -> None:
    """The unmodified SDK lists sandboxes over the socket."""
    connection = connect(settings, "local")
    try:
        names = [box.name for box in connection.client.query_sandboxes()]
    finally:
        connection.close()

    assert names == []


def test_wrong_token_is_one_clear_line(settings: Settings) -> None:
    """A refused token is our own error, and the SDK's exception is not shown behind it."""
    server = replace(ensure_server(settings), token=KEY)
    connection = connect_local(server)
    try:
        with pytest.raises(CredentialsError) as caught, as_connection_error():
            list(connection.client.query_sandboxes())
    finally:
        connection.close()

    assert KEY not in str(caught.value)
    assert caught.value.__suppress_context__
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_socket_path_that_is_too_long_is_told(tmp_path: Path) -> None:
    """A runtime folder too deep for a socket names the variable to set."""
    deep = tmp_path / ("d" * 100)

    with pytest.raises(SandboxConnectionError, match="OPENCODE_MAGIC_RUNTIME_DIR"):
        ensure_server(replace(load_settings(), runtime_dir=deep))


def test_server_that_cannot_start_says_why(settings: Settings) -> None:
    """What the server said last stands in the error."""
    broken = replace(settings, upstreams=("example.com=somewhere.example:1",))

    with pytest.raises(SandboxConnectionError, match=r"not 127\.0\.0\.1 and a port"):
        ensure_server(broken)


def test_runtime_folder_that_is_a_file_is_told(settings: Settings, tmp_path: Path) -> None:
    """A file where the runtime folder should be is one clear error."""
    (tmp_path / "file").write_text("")

    with pytest.raises(SettingsError, match="cannot be used"):
        ensure_server(replace(settings, runtime_dir=tmp_path / "file"))


def test_expired_credentials_stop_before_any_call(settings: Settings) -> None:
    """Connecting to the cloud without credentials makes no request."""
    with pytest.raises(CredentialsError):
        connect(replace(settings, cloud_url="http://127.0.0.1:9/api"), "cloud")


def test_importing_the_parts_imports_no_sdk() -> None:
    """The SDK is imported when a home is used, not when the package is."""
    script = (
        "import sys, opencode_magic.sandbox.launch, opencode_magic.sandbox.sweep;"
        "print(sorted(set(sys.modules) & {'vercel', 'httpx2', 'httpx', 'IPython', 'pydantic'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )

    assert done.stdout.strip() == "[]"
