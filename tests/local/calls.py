"""The calls of the SDK as a table, and a caller that makes them through a fault proxy."""

from __future__ import annotations

import asyncio
import inspect
import ssl
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2
from vercel import sandbox as async_sdk
from vercel.sandbox import sync as sdk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from tests.faults import Fault, FaultProxy
    from tests.local.servers import LocalServer

UNHEARD = 0
DENY = {"persistent": False, "network_policy": sdk.NetworkPolicy.deny_all()}
PROCESS, SNAPSHOT = "the process of the sandbox", "the snapshot of base"
TLS = ssl.create_default_context()
"""Made once: each client would make its own, for which there is no use here."""


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
