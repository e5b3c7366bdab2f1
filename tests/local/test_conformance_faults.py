"""Each call of the SDK, in both its halves, with a fault between it and the server.

A call that is refused has no effect, one whose answer is lost has it once, and only those that may
be asked twice are asked twice.
"""

from __future__ import annotations

import asyncio
import inspect
import ssl
import subprocess
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from vercel import sandbox as async_sdk
from vercel.sandbox import sync as sdk

from tests.faults import Answer, Cut, FaultProxy, fault_proxy
from tests.local.servers import LocalServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from tests.faults import Fault

UNAVAILABLE = Answer(503, {}, b'{"error":{"code":"unavailable","message":"try again"}}')
TOO_MANY = Answer(429, {"retry-after": "0"}, b'{"error":{"code":"rate_limited","message":"wait"}}')
LOST = Cut(after_bytes=1)
"""The server has done it, and nobody hears."""
UNHEARD = 0
TLS = ssl.create_default_context()
"""Made once: each client would make its own, for which there is no use here."""
DENY = {"persistent": False, "network_policy": sdk.NetworkPolicy.deny_all()}
PROCESS, SNAPSHOT = "the process of the sandbox", "the snapshot of base"


@dataclass(frozen=True)
class Call:
    """A call: where it is found on the client or the sandbox, and how its effect is seen."""

    name: str
    path: str
    """What its request's path holds."""
    args: Sequence[object] = ()
    more: Mapping[str, object] = field(default_factory=dict)
    method: str = "POST"
    effect: Callable[[sdk.SyncSandboxClient], object] | None = None
    times: int = 1
    """How often a server that is always busy is asked."""


@dataclass(frozen=True)
class Found:
    """What a call came to: 200, the status of its error or UNHEARD, the requests, the effect."""

    status: int
    times: int
    effect: object


def names(client: sdk.SyncSandboxClient) -> list[str]:
    return sorted(item.name for item in client.query_sandboxes())


def far_of(client: sdk.SyncSandboxClient) -> sdk.SyncSandbox:
    return client.get_sandbox(name="far")


def session_of(client: sdk.SyncSandboxClient) -> sdk.SyncSandboxRuntimeSession:
    session = far_of(client).current_session
    assert session is not None
    return session


def mode_of(client: sdk.SyncSandboxClient) -> str:
    policy = session_of(client).network_policy
    return policy.mode if policy else ""


def snapshots_of(client: sdk.SyncSandboxClient) -> int:
    return len(list(client.query_snapshots(name="far")))


def processes_of(client: sdk.SyncSandboxClient) -> int:
    return len(session_of(client).query_processes())


def lines_of(client: sdk.SyncSandboxClient) -> str | None:
    return session_of(client).run_process("cat", ["lines.txt"], capture_output=True).stdout


def files_of(client: sdk.SyncSandboxClient) -> list[str]:
    return [entry.path for entry in session_of(client).fs.listdir(".")]


APPEND = ("sh", ["-c", "echo line >> lines.txt"])
ALL = sdk.NetworkPolicy.allow_all()
CALLS = [
    Call("client.create_sandbox", "/v3/sandboxes", (), {"name": "new", **DENY}, effect=names),
    Call(
        "client.fork_sandbox", "/fork", (), {"source_sandbox": "base", "name": "new"}, effect=names
    ),
    Call("client.get_sandbox", "/sandboxes/far", (), {"name": "far"}, "GET"),
    Call("client.resume_sandbox", "resume=true", (), {"name": "far"}, "GET"),
    Call("client.query_sandboxes", "/v2/sandboxes?", method="GET"),
    Call("client.query_sessions", "/sandboxes/sessions?", (), {"name": "far"}, "GET"),
    Call("client.query_snapshots", "/sandboxes/snapshots?", method="GET"),
    Call("client.get_snapshot", "/snapshots/", (), {"snapshot_id": SNAPSHOT}, "GET"),
    Call(
        "box.update", "/sandboxes/far", (), {"tags": {"a": "b"}}, "PATCH",
        effect=lambda client: far_of(client).tags,
    ),
    Call("box.destroy", "/sandboxes/far", method="DELETE", effect=names),
    Call("box.current_session.refresh", "/sandboxes/sessions/", method="GET"),
    Call("box.stop", "/stop", effect=lambda client: far_of(client).status),
    Call(
        "box.extend_execution_time_limit", "/extend-timeout", (60,),
        effect=lambda client: session_of(client).execution_time_limit,
    ),
    Call("box.current_session.update_network_policy", "/network-policy", (ALL,), effect=mode_of),
    Call("box.snapshot", "/snapshot", effect=snapshots_of),
    Call("box.create_process", "/cmd", ("true",), effect=processes_of),
    Call("box.run_process", "/cmd?", APPEND, effect=lines_of),
    Call("box.query_processes", "/cmd?", method="GET"),
    Call("box.get_process", "/cmd/", (PROCESS,), method="GET", times=3),
    Call("box.fs.mkdir", "/fs/mkdir", ("made",), effect=files_of),
    Call("box.fs.write_text", "/fs/write", ("made.txt", "made"), effect=files_of),
    Call("box.fs.read_text", "/fs/read", ("lines.txt",)),
]  # fmt: skip


@pytest.fixture(scope="module")
def tcp_server() -> Iterator[LocalServer]:
    """The stand-in for the cloud, with a saved sandbox to fork."""
    running = LocalServer.make()
    running.arguments = ("--tcp", "127.0.0.1:0", "--token-file", str(running.base / "token"))
    try:
        running.start()
        with closing(running.client()) as near:
            near.create_sandbox(name="base", **DENY).snapshot()  # type: ignore[arg-type] # fits
        yield running
    finally:
        running.close()


@pytest.fixture
def proxy(tcp_server: LocalServer) -> Iterator[FaultProxy]:
    """A proxy in front of the server, with no fault yet."""
    with fault_proxy(str(tcp_server.state["url"])) as made:
        yield made


@pytest.fixture
def near(tcp_server: LocalServer) -> Iterator[sdk.SyncSandboxClient]:
    """A client that goes around the proxy, to prepare and to see what happened."""
    with closing(tcp_server.client()) as client:
        yield client


def remove_all(client: sdk.SyncSandboxClient) -> None:
    """Leave the saved sandbox alone."""
    for name in set(names(client)) - {"base"}:
        client.get_sandbox(name=name).destroy(delete_orphan_snapshots=True)


def make_far(client: sdk.SyncSandboxClient) -> dict[str, str]:
    """Make the sandbox that is called anew; gives what stands for the placeholders."""
    remove_all(client)
    box = client.create_sandbox(name="far", **DENY)  # type: ignore[arg-type] # fits
    box.fs.write_text("lines.txt", "first\n")
    process = box.create_process("true")
    process.wait()
    (snapshot,) = client.query_snapshots(name="base")
    return {PROCESS: process.id, SNAPSHOT: snapshot.id}


@asynccontextmanager
async def async_client(url: str, token: str) -> AsyncIterator[async_sdk.SandboxClient]:
    async def credentials() -> async_sdk.SandboxCredentials:
        return async_sdk.SandboxCredentials(token, "local", "local")

    client = async_sdk.SandboxClient.create(
        options=async_sdk.SandboxServiceOptions(
            base_url=f"{url}/api", credentials_factory=credentials
        ),
        httpx_client_factory=lambda: httpx2.AsyncClient(timeout=30, trust_env=False, verify=TLS),
    )
    try:
        yield client
    finally:
        await client.aclose()


def sync_client(url: str, token: str) -> sdk.SyncSandboxClient:
    return sdk.SyncSandboxClient.create(
        options=sdk.SandboxServiceOptions(
            base_url=f"{url}/api",
            credentials_factory=lambda: sdk.SandboxCredentials(token, "local", "local"),
        ),
        httpx_client_factory=lambda: httpx2.Client(timeout=30, trust_env=False, verify=TLS),
    )


class Caller:
    """Makes calls through the proxy, with one half of the SDK."""

    def __init__(self, server: LocalServer, proxy: FaultProxy, near: sdk.SyncSandboxClient) -> None:
        self.token = server.token
        self.proxy = proxy
        self.near = near
        self.places: dict[str, str] = {}

    def renew(self) -> None:
        """Make the sandbox that is called anew."""
        self.places = make_far(self.near)

    def find(self, half: str, call: Call, fault: Fault | None) -> Found:
        """Make a call with a fault before it, and see what it came to."""
        args = [self._filled(item) for item in call.args]
        more = {key: self._filled(item) for key, item in call.more.items()}
        status = 200
        try:
            if half == "sync":
                self._call(call, args, more, fault)
            else:
                asyncio.run(self._call_async(call, args, more, fault))
        except (sdk.SandboxApiError, sdk.SandboxFilesystemWriteError) as exc:
            status = getattr(getattr(exc, "cause", None) or exc, "status_code", -1)
        except httpx2.TransportError:
            status = UNHEARD
        asked = [request.partition(" ") for request in self.proxy.requests]
        times = sum(method == call.method and call.path in path for method, _, path in asked)
        self.proxy.clear()
        return Found(status, times, call.effect(self.near) if call.effect else None)

    def _call(
        self, call: Call, args: Sequence[object], more: Mapping[str, object], fault: Fault | None
    ) -> None:
        with closing(sync_client(self.proxy.url, self.token)) as client:
            box = client.get_sandbox(name="far")
            self._begin(call, fault)
            given = _resolve(call.name, client, box)(*args, **more)
            if inspect.isgenerator(given):
                list(given)

    async def _call_async(
        self, call: Call, args: Sequence[object], more: Mapping[str, object], fault: Fault | None
    ) -> None:
        async with async_client(self.proxy.url, self.token) as client:
            box = await client.get_sandbox(name="far")
            self._begin(call, fault)
            given = _resolve(call.name, client, box)(*args, **more)
            if inspect.isawaitable(given):
                await given
            else:
                async for _ in given:
                    pass

    def _filled(self, item: object) -> object:
        return self.places.get(item, item) if isinstance(item, str) else item

    def _begin(self, call: Call, fault: Fault | None) -> None:
        self.proxy.requests.clear()
        if fault is not None:
            self.proxy.add(fault, path=call.path, method=call.method)


# The halves have the same names, and nothing more in common that a type could say.
def _resolve(name: str, client: Any, box: Any) -> Any:  # noqa: ANN401
    """Give the method that a dotted name means."""
    first, *rest = name.split(".")
    found = client if first == "client" else box
    for part in rest:
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("half", ["sync", "async"])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_fault_before_a_call(
    call: Call,
    half: str,
    tcp_server: LocalServer,
    proxy: FaultProxy,
    near: sdk.SyncSandboxClient,
) -> None:
    """A busy server is told, and nothing has happened; where an answer is lost, it has, once."""
    caller = Caller(tcp_server, proxy, near)
    caller.renew()
    before = call.effect(near) if call.effect else None
    unavailable = caller.find(half, call, UNAVAILABLE)
    busy = caller.find(half, call, TOO_MANY)
    lost = caller.find(half, call, LOST)
    if call.effect:
        caller.renew()
    done = caller.find(half, call, None)

    assert done == Found(200, 1, done.effect)
    assert unavailable == Found(503, call.times, before)
    assert busy == Found(429, call.times, before)
    assert lost == Found(UNHEARD, call.times, done.effect)
    assert call.effect is None or done.effect != before


@pytest.mark.parametrize("fault", [UNAVAILABLE, TOO_MANY, Cut(), LOST])
@pytest.mark.parametrize("half", ["sync", "async"])
def test_input_arrives_once_whatever_happens(
    half: str,
    fault: Fault,
    tcp_server: LocalServer,
    proxy: FaultProxy,
    near: sdk.SyncSandboxClient,
) -> None:
    """Input and its end are sent again where that is safe, and the command reads them once."""
    make_far(near)

    def talk() -> tuple[str, int]:
        with closing(sync_client(proxy.url, tcp_server.token)) as client:
            process = far_of(client).create_process("cat", stdin=subprocess.PIPE)
            assert process.stdin is not None
            assert process.stdout is not None
            for text in (b"one\n", b"two\n"):
                proxy.add(fault, path="/stdin", times=1)
                process.stdin.write(text)
            proxy.add(fault, path="/stdin", times=1)
            process.stdin.close()
            return process.stdout.read(), process.wait()

    async def talk_async() -> tuple[str, int]:
        async with async_client(proxy.url, tcp_server.token) as client:
            box = await client.get_sandbox(name="far")
            process = await box.create_process("cat", stdin=subprocess.PIPE)
            assert process.stdin is not None
            assert process.stdout is not None
            for text in (b"one\n", b"two\n"):
                proxy.add(fault, path="/stdin", times=1)
                await process.stdin.send(text)
            proxy.add(fault, path="/stdin", times=1)
            await process.stdin.aclose()
            return await process.stdout.read(), await process.wait()

    found = talk() if half == "sync" else asyncio.run(talk_async())

    assert found == ("one\ntwo\n", 0)


@pytest.mark.parametrize("half", ["sync", "async"])
def test_file_that_is_cut_on_its_way_is_an_error(
    half: str, tcp_server: LocalServer, proxy: FaultProxy, near: sdk.SyncSandboxClient
) -> None:
    """Half a file is never given as a whole one, and the next read has all of it."""
    make_far(near)
    data = bytes(range(256)) * 8000
    far_of(near).fs.write_bytes("data.bin", data)
    proxy.add(Cut(after_bytes=500_000), path="/fs/read", times=1)

    def read() -> bytes:
        with closing(sync_client(proxy.url, tcp_server.token)) as client:
            files = far_of(client).fs
            with pytest.raises(httpx2.TransportError):
                files.read_bytes("data.bin")
            return files.read_bytes("data.bin")

    async def read_async() -> bytes:
        async with async_client(proxy.url, tcp_server.token) as client:
            files = (await client.get_sandbox(name="far")).fs
            with pytest.raises(httpx2.TransportError):
                await files.read_bytes("data.bin")
            return await files.read_bytes("data.bin")

    assert (read() if half == "sync" else asyncio.run(read_async())) == data


@pytest.mark.parametrize("fault", [UNAVAILABLE, TOO_MANY])
@pytest.mark.parametrize("half", ["sync", "async"])
def test_signal_that_is_refused_is_told(
    half: str,
    fault: Answer,
    tcp_server: LocalServer,
    proxy: FaultProxy,
    near: sdk.SyncSandboxClient,
) -> None:
    """A signal is sent once; the process that did not get it runs on until the next one."""
    make_far(near)
    proxy.add(fault, path="/kill", times=1)

    def end() -> int:
        with closing(sync_client(proxy.url, tcp_server.token)) as client:
            process = far_of(client).create_process("sleep", ["60"])
            with pytest.raises(sdk.SandboxApiError):
                process.kill()
            process.terminate()
            return process.wait()

    async def end_async() -> int:
        async with async_client(proxy.url, tcp_server.token) as client:
            box = await client.get_sandbox(name="far")
            process = await box.create_process("sleep", ["60"])
            with pytest.raises(sdk.SandboxApiError):
                await process.kill()
            await process.terminate()
            return await process.wait()

    assert (end() if half == "sync" else asyncio.run(end_async())) == 143
    assert sum("/kill" in request for request in proxy.requests) == 2


def test_server_that_restarts_under_asynchronous_calls(tcp_server: LocalServer) -> None:
    """A run, a wait and logs that a crash cuts all end soon, and the sandbox is found ended."""
    url = str(tcp_server.state["url"]).removesuffix("/api")

    async def work() -> list[BaseException | object]:
        async with async_client(url, tcp_server.token) as client:
            box = await client.create_sandbox(name="crashing", persistent=False)
            process = await box.create_process("sh", ["-c", "echo on; sleep 60"])
            assert process.stdout is not None
            line = await process.stdout.readline()
            waits = [
                asyncio.create_task(wait)
                for wait in (
                    box.run_process("sleep", ["60"]),
                    process.wait(),
                    process.stdout.read(),
                )
            ]
            await asyncio.sleep(0.2)
            tcp_server.kill()
            results = await asyncio.wait_for(asyncio.gather(*waits, return_exceptions=True), 20)
            return [line, *results]

    line, *results = asyncio.run(work())
    tcp_server.start()
    with closing(tcp_server.client()) as client:
        found = client.get_sandbox(name="crashing")
        found.destroy()

    assert line == "on\n"
    assert [isinstance(item, httpx2.TransportError | sdk.SandboxError) for item in results] == [
        True,
        True,
        True,
    ]
    assert found.status == sdk.SandboxStatus.ABORTED
