"""The same promises through the SDK's other half, which is asynchronous."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING

import httpx2
from vercel import sandbox as sdk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.local.servers import LocalServer


def with_client(server: LocalServer, work: Callable[[sdk.SandboxClient], Awaitable[None]]) -> None:
    async def credentials() -> sdk.SandboxCredentials:
        return sdk.SandboxCredentials(server.token, "local", "local")

    async def run() -> None:
        transport = httpx2.AsyncHTTPTransport(uds=str(server.state["socket"]), trust_env=False)
        client = sdk.SandboxClient.create(
            options=sdk.SandboxServiceOptions(
                base_url=str(server.state["url"]), credentials_factory=credentials
            ),
            httpx_client_factory=lambda: httpx2.AsyncClient(transport=transport, timeout=60),
        )
        try:
            await work(client)
        finally:
            await client.aclose()

    asyncio.run(run())


def test_whole_round(server: LocalServer) -> None:
    """Create, files, a streamed run, a process with input, and the end."""

    async def work(client: sdk.SandboxClient) -> None:
        async with client.create_sandbox(name="async", persistent=False) as box:
            await box.fs.write_text("a.txt", "text")
            done = await box.run_process("cat", ["a.txt"], capture_output=True)
            process = await box.create_process(
                "sort", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            out, _ = await process.communicate(b"b\na\n")
            names = [entry.path for entry in await box.fs.listdir("/vercel")]

            assert (await box.fs.read_text("a.txt"), done.stdout) == ("text", "text")
            assert (out, process.returncode) == ("a\nb\n", 0)
            assert "a.txt" in names

    with_client(server, work)


def test_many_waits_at_once(server: LocalServer) -> None:
    """A hundred commands are waited for together: no wait holds another one up."""

    async def work(client: sdk.SandboxClient) -> None:
        async with client.create_sandbox(name="waits", persistent=False) as box:
            started = [await box.create_process("sleep", ["1"]) for _ in range(100)]
            codes = await asyncio.gather(*(process.wait() for process in started))

            assert codes == [0] * 100

    with_client(server, work)
