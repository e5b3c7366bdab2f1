"""The SDK's retries and resumptions against the server, with faults between the two."""

from __future__ import annotations

import subprocess
import threading
from typing import TYPE_CHECKING

import httpx2
import pytest
from vercel.sandbox import sync as sdk

from tests.faults import Answer, Cut, FaultProxy
from tests.local.servers import LocalServer, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

UNAVAILABLE = Answer(503, {}, b'{"error":{"code":"unavailable","message":"try again"}}')
TOO_MANY = Answer(429, {"retry-after": "0"}, b'{"error":{"code":"rate_limited","message":"wait"}}')
COUNT = "for i in 1 2 3 4 5 6; do echo line $i; sleep 0.1; done; exit 7"
COUNTED = "".join(f"line {number}\n" for number in range(1, 7))


@pytest.fixture
def far_client(tcp_server: LocalServer, proxy: FaultProxy) -> Iterator[sdk.SyncSandboxClient]:
    """A client whose every call goes through the proxy."""
    client = sdk.SyncSandboxClient.create(
        options=sdk.SandboxServiceOptions(
            base_url=f"{proxy.url}/api",
            credentials_factory=lambda: sdk.SandboxCredentials(tcp_server.token, "t", "p"),
        ),
        httpx_client_factory=lambda: httpx2.Client(timeout=30, trust_env=False),
    )
    yield client
    proxy.clear()
    client.close()


@pytest.fixture
def far_box(proxy: FaultProxy, far_client: sdk.SyncSandboxClient) -> Iterator[sdk.SyncSandbox]:
    """A sandbox of that client."""
    box = far_client.create_sandbox(name="far", persistent=False)
    yield box
    proxy.clear()
    box.destroy()


def test_run_that_is_cut_goes_on_where_it_was(proxy: FaultProxy, far_box: sdk.SyncSandbox) -> None:
    """A stream that breaks in the middle is followed to its end; nothing comes twice."""
    proxy.add(Cut(after_bytes=400), path="logs=true", times=1)
    done = far_box.run_process("sh", ["-c", COUNT], capture_output=True)

    assert (done.stdout, done.returncode) == (COUNTED, 7)


def test_logs_that_are_cut_are_read_on(proxy: FaultProxy, far_box: sdk.SyncSandbox) -> None:
    """Logs that break are asked for again, and each line arrives once."""
    process = far_box.create_process(
        "sh", ["-c", COUNT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    proxy.add(Cut(after_bytes=60), path="/logs", times=2)
    assert process.stdout is not None

    assert (process.stdout.read(), process.wait()) == (COUNTED, 7)


def test_long_output_that_is_cut_twice_is_whole(
    proxy: FaultProxy, far_box: sdk.SyncSandbox
) -> None:
    """Much output of both streams survives a cut of the run and one of the logs that follow."""
    count = "i=0; while [ $i -lt 20000 ]; do echo out $i; echo err $i >&2; i=$((i + 1)); done"
    proxy.add(Cut(after_bytes=70_000), path="logs=true", times=1)
    proxy.add(Cut(after_bytes=200_000), path="/logs", times=1)
    done = far_box.run_process("sh", ["-c", count], capture_output=True)
    out, err = ("".join(f"{name} {i}\n" for i in range(20_000)) for name in ("out", "err"))

    assert (done.stdout == out, done.stderr == err, done.returncode) == (True, True, 0)
    assert sum("/logs" in request for request in proxy.requests) == 2


@pytest.mark.parametrize("fault", [UNAVAILABLE, TOO_MANY])
def test_logs_that_are_refused_are_asked_again(
    proxy: FaultProxy, far_box: sdk.SyncSandbox, fault: Answer
) -> None:
    """A server that is busy for a moment loses no line."""
    process = far_box.create_process(
        "sh", ["-c", COUNT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    proxy.add(fault, path="/logs", times=2)
    assert process.stdout is not None

    assert (process.stdout.read(), process.wait()) == (COUNTED, 7)


@pytest.mark.parametrize("fault", [UNAVAILABLE, TOO_MANY, Cut()])
def test_wait_is_asked_again(
    proxy: FaultProxy, far_box: sdk.SyncSandbox, fault: Answer | Cut
) -> None:
    """A wait that fails on its way is repeated, and gives the code."""
    process = far_box.create_process("sh", ["-c", "exit 5"])
    proxy.add(fault, path="wait=true", times=1)

    assert process.wait() == 5


@pytest.mark.parametrize("fault", [UNAVAILABLE, TOO_MANY, Cut()])
def test_input_is_sent_again_and_arrives_once(
    proxy: FaultProxy, far_box: sdk.SyncSandbox, fault: Answer | Cut
) -> None:
    """Input whose answer was lost is sent again, and the command reads it once."""
    process = far_box.create_process(
        "cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"one\n")
    proxy.add(fault, path="/stdin", times=1)
    process.stdin.write(b"two\n")
    process.stdin.close()

    assert (process.stdout.read(), process.wait()) == ("one\ntwo\n", 0)


@pytest.mark.parametrize("fault", [UNAVAILABLE, TOO_MANY])
def test_create_is_not_repeated(
    proxy: FaultProxy, far_client: sdk.SyncSandboxClient, fault: Answer
) -> None:
    """A create that fails is told at once, was asked once, and has made nothing."""
    proxy.add(fault, path="/v3/sandboxes", method="POST")
    with pytest.raises(sdk.SandboxApiError) as caught:
        far_client.create_sandbox(name="never", persistent=False)
    proxy.clear()
    made = list(far_client.query_sandboxes(query=sdk.SandboxQueryByName(name_prefix="never")))

    assert (caught.value.status_code, made) == (fault.status, [])
    assert sum(request.startswith("POST /api/v3/") for request in proxy.requests) == 1


def test_create_whose_answer_is_lost_can_be_found(
    proxy: FaultProxy, far_client: sdk.SyncSandboxClient
) -> None:
    """A create that was cut has happened: it is found by its name, and ends like any other."""
    proxy.add(Cut(after_bytes=10), path="/v3/sandboxes", times=1)
    with pytest.raises(httpx2.TransportError):
        far_client.create_sandbox(name="unheard", persistent=False)
    found = far_client.get_sandbox(name="unheard")
    code = found.run_process("true").returncode
    found.destroy()

    assert code == 0


def test_create_process_is_not_repeated(proxy: FaultProxy, far_box: sdk.SyncSandbox) -> None:
    """A start that fails is told at once: who knows whether it ran."""
    proxy.add(UNAVAILABLE, path="/cmd", method="POST", times=1)
    with pytest.raises(sdk.SandboxApiError) as caught:
        far_box.create_process("true")

    assert caught.value.status_code == 503


def test_answer_of_a_stop_may_be_lost(proxy: FaultProxy, far_box: sdk.SyncSandbox) -> None:
    """A stop whose answer is lost has happened, and a second one does no harm."""
    proxy.add(Cut(), path="/stop", times=1)
    with pytest.raises(httpx2.TransportError):
        far_box.stop()
    far_box.stop()

    assert far_box.status == sdk.SandboxStatus.STOPPED


def test_restarted_server_says_that_a_command_is_gone(tcp_server: LocalServer) -> None:
    """A client that waits while the server crashes is told, and finds its sandbox ended."""
    client = tcp_server.client()
    box = client.create_sandbox(name="crashing", persistent=False)
    process = box.create_process("sleep", ["60"])
    tcp_server.kill()
    with pytest.raises(httpx2.TransportError):
        process.wait()
    tcp_server.start()
    client.close()
    client = tcp_server.client()
    again = client.get_sandbox(name="crashing")
    with pytest.raises(sdk.SandboxApiError) as caught:
        again.run_process("true")
    again.destroy()
    client.close()

    assert (caught.value.status_code, again.status) == (410, sdk.SandboxStatus.ABORTED)


def test_restarted_server_ends_a_stream_with_the_truth(tcp_server: LocalServer) -> None:
    """A run that is streamed while the server crashes fails soon; its files are there."""
    client = tcp_server.client()
    box = client.create_sandbox(name="streaming", persistent=True)
    failures: list[Exception] = []
    started = threading.Event()

    def run() -> None:
        try:
            script = "echo kept > work.txt; echo one; sleep 60"
            box.run_process("sh", ["-c", script], on_start=lambda _: started.set())
        except (sdk.SandboxError, httpx2.TransportError) as exc:
            failures.append(exc)

    runner = threading.Thread(target=run)
    runner.start()
    started.wait(10)
    wait_for(lambda: box.fs.exists("work.txt"), 5)
    tcp_server.kill()
    tcp_server.start()
    runner.join(15)
    client.close()
    client = tcp_server.client()
    again = client.get_sandbox(name="streaming")
    status, text = again.status, again.fs.read_text("work.txt")
    again.destroy()
    client.close()

    assert (runner.is_alive(), len(failures)) == (False, 1)
    assert (status, text) == (sdk.SandboxStatus.ABORTED, "kept\n")


def test_restarted_server_gives_codes_to_old_ids(tcp_server: LocalServer) -> None:
    """Every call on a session that a crash ended says 410, and nothing hangs."""
    client = tcp_server.client()
    box = client.create_sandbox(name="old", persistent=False)
    process = box.create_process("sleep", ["60"])
    session = f"/v2/sandboxes/sessions/{box.current_session_id}"
    tcp_server.kill()
    tcp_server.start()
    client.close()
    asked = [
        tcp_server.ask("GET", f"{session}/cmd/{process.id}?wait=true"),
        tcp_server.ask("GET", f"{session}/cmd/{process.id}/logs"),
        tcp_server.ask("POST", f"{session}/cmd/{process.id}/stdin", {}),
        tcp_server.ask("POST", f"{session}/cmd/{process.id}/kill", {"signal": 9}),
        tcp_server.ask("POST", f"{session}/extend-timeout", {"duration": 1000}),
        tcp_server.ask("POST", f"{session}/network-policy", {"mode": "deny-all"}),
        tcp_server.ask("POST", f"{session}/fs/read", {"path": "x"}),
        tcp_server.ask("POST", f"{session}/snapshot", {}),
    ]
    stopped = tcp_server.ask("POST", f"{session}/stop", {})
    removed = tcp_server.ask("DELETE", "/v2/sandboxes/old")

    assert {(answer.status, answer.code) for answer in asked} == {(410, "sandbox_stopped")}
    assert (stopped.status, removed.status) == (200, 200)
