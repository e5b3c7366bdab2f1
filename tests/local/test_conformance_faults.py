"""Each call of the SDK, in both its halves, with a fault between it and the server.

A call that is refused has no effect, one whose answer is lost has it once, and only those that may
be asked twice are asked twice.
"""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING

import httpx2
import pytest
from vercel.sandbox import sync as sdk

from tests.faults import Answer, Cut, FaultProxy
from tests.local.calls import (
    CALLS,
    DENY,
    UNHEARD,
    Call,
    Caller,
    Found,
    async_client,
    far_of,
    make_far,
    sync_client,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults import Fault
    from tests.local.servers import LocalServer

UNAVAILABLE = Answer(503, {}, b'{"error":{"code":"unavailable","message":"try again"}}')
TOO_MANY = Answer(429, {"retry-after": "0"}, b'{"error":{"code":"rate_limited","message":"wait"}}')
LOST = Cut(after_bytes=1)
"""The server has done it, and nobody hears."""


@pytest.fixture(scope="module", autouse=True)
def base(tcp_server: LocalServer) -> None:
    """Have a saved sandbox to fork."""
    with closing(tcp_server.client()) as near:
        near.create_sandbox(name="base", **DENY).snapshot()  # type: ignore[arg-type] # fits


@pytest.fixture
def near(tcp_server: LocalServer) -> Iterator[sdk.SyncSandboxClient]:
    """A client that goes around the proxy, to prepare and to see what happened."""
    with closing(tcp_server.client()) as client:
        yield client


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
