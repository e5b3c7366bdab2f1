"""A server for each module, and for each test a client of the SDK and a sandbox."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from vercel.sandbox import sync as sdk

from tests.faults import FaultProxy, fault_proxy
from tests.local.servers import LocalServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    """A server that runs for the whole module."""
    running = LocalServer.make()
    try:
        running.start()
        yield running
    finally:
        running.close()


@pytest.fixture
def fresh_server() -> Iterator[LocalServer]:
    """A server of the test's own, for tests that end it."""
    running = LocalServer.make()
    try:
        running.start()
        yield running
    finally:
        running.close()


@pytest.fixture
def client(server: LocalServer) -> Iterator[sdk.SyncSandboxClient]:
    """The SDK's client, with nothing changed in it."""
    made = server.client()
    yield made
    made.close()


@pytest.fixture(scope="module")
def box(server: LocalServer) -> Iterator[sdk.SyncSandbox]:
    """A sandbox for the tests of a module that leave it running."""
    made = server.client()
    running = made.create_sandbox(
        name="shared",
        ports=[4096],
        execution_time_limit=timedelta(minutes=10),
        persistent=False,
        network_policy=sdk.NetworkPolicy.deny_all(),
        env={"GREETING": "hello"},
        tags={"app": "tests"},
    )
    yield running
    running.destroy()
    made.close()


@pytest.fixture(scope="module")
def tcp_server() -> Iterator[LocalServer]:
    """The stand-in for the cloud: the proxy speaks TCP."""
    running = LocalServer.make()
    running.arguments = ("--tcp", "127.0.0.1:0", "--token-file", str(running.base / "token"))
    try:
        running.start()
        yield running
    finally:
        running.close()


@pytest.fixture
def proxy(tcp_server: LocalServer) -> Iterator[FaultProxy]:
    """A proxy in front of the server, with no fault yet."""
    with fault_proxy(str(tcp_server.state["url"])) as made:
        yield made
