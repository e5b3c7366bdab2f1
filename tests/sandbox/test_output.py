"""What is printed inside reaches the notebook, up to what an honest program has to say."""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING

import pytest
from vercel.sandbox import sync as sdk

from opencode_magic.errors import SandboxConnectionError
from opencode_magic.sandbox.output import LIMIT_CHARS, SHELL, SYSTEM_FIRST, run_inside
from tests.local.servers import LocalServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vercel.sandbox.sync import SyncSandboxRuntimeSession


@pytest.fixture(scope="module")
def session() -> Iterator[SyncSandboxRuntimeSession]:
    server = LocalServer.make()
    server.start()
    try:
        client = server.client()
        policy = sdk.NetworkPolicy.deny_all()
        session = client.create_sandbox(name="prints", network_policy=policy).current_session
        assert session is not None
        yield session
        client.close()
    finally:
        server.close()


def test_output_and_exit_code_are_given(session: SyncSandboxRuntimeSession) -> None:
    """Both streams, apart, with the exit code; and the last line of complaint."""
    done = run_inside(
        session, SHELL, ["-c", "echo a; echo b >&2; echo c >&2; exit 3"], kill_after=9
    )

    assert (done.returncode, done.stdout, done.stderr) == (3, "a\n", "b\nc\n")
    assert done.last_line == "c"


@pytest.mark.parametrize("where", ["", ">&2"])
def test_endless_output_is_not_kept(session: SyncSandboxRuntimeSession, where: str) -> None:
    """It ends soon, with one clear line, and takes no memory of this process."""
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.monotonic()
    with pytest.raises(SandboxConnectionError, match="printed more than 4 MB"):
        run_inside(session, SHELL, ["-c", f"yes {'x' * 1000} {where}"], kill_after=20)

    assert time.monotonic() - begun < 15
    taken_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    assert taken_kb < 20 * LIMIT_CHARS // 1024


def test_the_systems_programs_come_first(session: SyncSandboxRuntimeSession) -> None:
    """A program of the agent's is not taken for one of the system's."""
    fake = 'mkdir -p ~/.local/bin; printf "#!/bin/sh\\necho fake\\n" > ~/.local/bin/tail'
    run_inside(session, SHELL, ["-c", f"{fake}; chmod +x ~/.local/bin/tail"], kill_after=9)
    script = "echo real > /tmp/log; tail -n 1 /tmp/log"
    plain = run_inside(session, SHELL, ["-c", script], kill_after=9)
    careful = run_inside(session, SHELL, ["-c", SYSTEM_FIRST + script], kill_after=9)

    assert (plain.stdout, careful.stdout) == ("fake\n", "real\n")
