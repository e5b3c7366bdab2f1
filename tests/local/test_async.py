"""The same promises through the SDK's other half, which is asynchronous."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from contextlib import asynccontextmanager
from datetime import timedelta
from io import StringIO
from typing import TYPE_CHECKING

import httpx2
import pytest
from vercel import sandbox as sdk

from tests.faults import Answer, Cut, fault_proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.local.servers import LocalServer

COUNT = "for i in 1 2 3 4 5 6; do echo line $i; sleep 0.05; done; exit 7"
COUNTED = "".join(f"line {number}\n" for number in range(1, 7))
UNAVAILABLE = Answer(503, {}, b'{"error":{"code":"unavailable","message":"try again"}}')


@asynccontextmanager
async def open_client(url: str, token: str, uds: str | None) -> AsyncIterator[sdk.SandboxClient]:
    async def credentials() -> sdk.SandboxCredentials:
        return sdk.SandboxCredentials(token, "local", "local")

    transport = httpx2.AsyncHTTPTransport(uds=uds, trust_env=False)
    client = sdk.SandboxClient.create(
        options=sdk.SandboxServiceOptions(base_url=url, credentials_factory=credentials),
        httpx_client_factory=lambda: httpx2.AsyncClient(transport=transport, timeout=60),
    )
    try:
        yield client
    finally:
        await client.aclose()


def with_client(server: LocalServer, work: Callable[[sdk.SandboxClient], Awaitable[None]]) -> None:
    async def run() -> None:
        url, uds = str(server.state["url"]), str(server.state["socket"])
        async with open_client(url, server.token, uds) as client:
            await work(client)

    asyncio.run(run())


def with_box(
    server: LocalServer, work: Callable[[sdk.Sandbox], Awaitable[None]], name: str = "async"
) -> None:
    async def run(client: sdk.SandboxClient) -> None:
        async with client.create_sandbox(name=name, persistent=False) as box:
            await work(box)

    with_client(server, run)


def test_whole_round(server: LocalServer) -> None:
    """Create, files, a streamed run, a process with input, and the end."""

    async def work(box: sdk.Sandbox) -> None:
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

    with_box(server, work)


def test_many_waits_at_once(server: LocalServer) -> None:
    """A hundred commands are waited for together: no wait holds another one up."""

    async def work(box: sdk.Sandbox) -> None:
        started = [await box.create_process("sleep", ["1"]) for _ in range(100)]
        codes = await asyncio.gather(*(process.wait() for process in started))

        assert codes == [0] * 100

    with_box(server, work)


def test_runs_at_once_keep_their_streams_apart(server: LocalServer) -> None:
    """Each of many runs gets its own output and code, and those of both streams in order."""

    async def one(box: sdk.Sandbox, number: int) -> tuple[int, str]:
        writer = StringIO()
        script = f"echo out {number}; sleep 0.1; echo err {number} >&2; exit {number}"
        done = await box.run_process("sh", ["-c", script], stdout=writer, stderr=writer)
        return done.returncode, writer.getvalue()

    async def work(box: sdk.Sandbox) -> None:
        found = await asyncio.gather(*(one(box, number) for number in range(20)))

        assert found == [(number, f"out {number}\nerr {number}\n") for number in range(20)]

    with_box(server, work)


def test_wrong_calls_have_their_errors(server: LocalServer) -> None:
    """A missing program, file or name is told as on the cloud."""

    async def work(box: sdk.Sandbox) -> None:
        with pytest.raises(sdk.SandboxApiError) as missing:
            await box.run_process("nope-nope")
        with pytest.raises(sdk.SandboxPathNotFoundError):
            await box.fs.read_bytes("nope")
        with pytest.raises(sdk.SandboxFilesystemWriteError):
            await box.fs.write_text("/usr/bin/mine", "x")

        assert (missing.value.status_code, missing.value.code) == (400, "executable_not_found")

    with_box(server, work)


def test_signals_and_limits_end_a_process(server: LocalServer) -> None:
    """Terminate gives 143, kill and a limit give 137."""

    async def work(box: sdk.Sandbox) -> None:
        terminated = await box.create_process("sleep", ["30"])
        killed = await box.create_process("sleep", ["30"])
        limited = await box.create_process("sleep", ["30"], kill_after=timedelta(milliseconds=200))
        await terminated.terminate()
        await killed.send_signal(signal.SIGKILL)
        codes = [await process.wait() for process in (terminated, killed, limited)]

        assert codes == [143, 137, 137]

    with_box(server, work)


def test_logs_follow_what_reads_input(server: LocalServer) -> None:
    """A late reader has the early line, and the one that its input causes."""

    async def work(box: sdk.Sandbox) -> None:
        process = await box.create_process(
            "sh",
            ["-c", "echo early; read line; echo late $line"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        assert process.stdin is not None
        first = await process.stdout.readline()
        await process.stdin.send(b"word\n")
        await process.stdin.aclose()
        rest = await process.stdout.read()
        again = await box.get_process(process.id)
        assert again.stdout is not None

        assert (first, rest, await process.wait()) == ("early\n", "late word\n", 0)
        assert await again.stdout.read() == "early\nlate word\n"

    with_box(server, work)


def test_files_of_any_bytes_in_a_batch(server: LocalServer) -> None:
    """Several files of any bytes and names go in one request, with their modes."""
    content = bytes(range(256)) * 4000

    async def work(box: sdk.Sandbox) -> None:
        async with box.fs.batch() as batch:
            batch.write_bytes("/vercel/in/blob", content)
            batch.write_text("/vercel/in/a tool", "#!/bin/sh\necho ran\n", mode=0o755)
        done = await box.run_process("/vercel/in/a tool", capture_output=True)
        await box.fs.rename("/vercel/in/blob", "/vercel/in/moved")
        await box.fs.remove("/vercel/in/a tool")

        assert (await box.fs.read_bytes("/vercel/in/moved"), done.stdout) == (content, "ran\n")
        assert [entry.path for entry in await box.fs.listdir("/vercel/in")] == ["moved"]

    with_box(server, work)


def test_lists_names_and_tags(server: LocalServer) -> None:
    """Sandboxes are found by name, prefix and tag, page by page."""

    async def work(client: sdk.SandboxClient) -> None:
        for number in range(3):
            await client.create_sandbox(
                name=f"list-{number}", persistent=False, tags={"n": str(number)}
            )
        by_name = sdk.SandboxQueryByName(name_prefix="list-", sort_order="asc")
        by_tag = sdk.SandboxQueryByCreatedAt(tag=sdk.TagFilter(key="n", value="1"))
        names = [box.name async for box in client.query_sandboxes(query=by_name, page_size=2)]
        tagged = [box.name async for box in client.query_sandboxes(query=by_tag)]
        found = await client.get_sandbox(name="list-2")
        for name in names:
            await (await client.get_sandbox(name=name)).destroy()

        assert (names, tagged) == (["list-0", "list-1", "list-2"], ["list-1"])
        assert found.tags == {"n": "2"}

    with_client(server, work)


def test_policy_and_limit_change_while_it_runs(server: LocalServer) -> None:
    """A policy is in force at once and read back without values; an extension is added."""
    rule = sdk.NetworkPolicyRule(
        transform=[sdk.NetworkPolicyTransform(headers={"authorization": "Bearer planted-value"})]
    )

    async def work(box: sdk.Sandbox) -> None:
        await box.update(network_policy=sdk.NetworkPolicy.custom(allow={"api.example.com": [rule]}))
        session = box.current_session
        assert session is not None
        before = session.execution_time_limit
        await box.extend_execution_time_limit(timedelta(minutes=3))
        await session.refresh()
        assert box.network_policy is not None
        assert before is not None

        assert box.network_policy.allowed_domains == ("api.example.com",)
        assert "planted-value" not in repr(box.network_policy)
        assert session.execution_time_limit == before + timedelta(minutes=3)

    with_box(server, work)


def test_snapshot_fork_and_second_life(server: LocalServer) -> None:
    """Saved files are in a sandbox from a snapshot, in a fork, and in the next life."""

    async def work(client: sdk.SandboxClient) -> None:
        box = await client.create_sandbox(name="life", persistent=True)
        await box.fs.write_text("work.txt", "work")
        first = box.current_session_id
        snapshot = await box.snapshot(expiration=timedelta(days=1))
        source = sdk.SnapshotSource(snapshot_id=snapshot.id)
        copies = [
            await client.create_sandbox(name="copy", persistent=False, source=source),
            await client.fork_sandbox(source_sandbox="life", name="fork"),
        ]
        texts = [await copy.fs.read_text("work.txt") for copy in (box, *copies)]
        is_resumed = box.current_session_id != first
        for made in copies:
            await made.destroy()
        await box.destroy(delete_orphan_snapshots=True)

        assert (texts, is_resumed) == (["work"] * 3, True)
        assert [item async for item in client.query_snapshots()] == []

    with_client(server, work)


def test_expiry_is_told_to_waiters(server: LocalServer) -> None:
    """Who waits when the time is up is told at once."""

    async def work(client: sdk.SandboxClient) -> None:
        box = await client.create_sandbox(
            name="short", persistent=False, execution_time_limit=timedelta(milliseconds=400)
        )
        began = time.monotonic()
        done = await box.run_process("sleep", ["60"])
        took_s = time.monotonic() - began
        await box.destroy()

        assert done.returncode == 137
        assert took_s < 5

    with_client(server, work)


def test_faults_between_are_survived_or_told(tcp_server: LocalServer) -> None:
    """A cut run goes on, a refused wait and cut logs are asked again, a create is not."""

    async def work(url: str) -> tuple[str | None, int, str, int | None, int]:
        async with open_client(f"{url}/api", tcp_server.token, None) as client:
            box = await client.create_sandbox(name="far", persistent=False)
            proxy.add(Cut(after_bytes=400), path="logs=true", times=1)
            done = await box.run_process("sh", ["-c", COUNT], capture_output=True)
            process = await box.create_process("sh", ["-c", COUNT])
            proxy.add(Cut(after_bytes=60), path="/logs", times=1)
            proxy.add(UNAVAILABLE, path="wait=true", times=1)
            assert process.stdout is not None
            text, code = await process.stdout.read(), await process.wait()
            proxy.add(UNAVAILABLE, path="/v3/sandboxes", times=1)
            with pytest.raises(sdk.SandboxApiError) as caught:
                await client.create_sandbox(name="never", persistent=False)
            await box.destroy()
            return done.stdout, done.returncode, text, code, caught.value.status_code

    with fault_proxy(str(tcp_server.state["url"])) as proxy:
        found = asyncio.run(work(proxy.url))

    assert found == (COUNTED, 7, COUNTED, 7, 503)
