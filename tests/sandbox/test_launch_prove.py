"""Proofs in a sandbox whose agent works against them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from opencode_magic.sandbox.launch import launch
from tests.sandbox.homes import Events, quick_server

if TYPE_CHECKING:
    from opencode_magic.sandbox.launch import LaunchRequest

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the local home needs Linux"),
    pytest.mark.usefixtures("opencode_binary"),
]


def test_settings_of_the_agent_do_not_run_in_a_probe(local: LaunchRequest) -> None:
    """A runtime's settings that the agent wrote are not read by the probes."""
    sandbox = launch(local, quick_server(), Events())
    session = sandbox._parts.session
    try:
        for folder in (sandbox.place.home, sandbox.place.workspace):
            for name in ("bunfig.toml", ".bunfig.toml"):
                session.fs.write_text(f"{folder}/{name}", f'preload = ["{folder}/evil.js"]\n')
            session.fs.write_text(f"{folder}/.env", "BUN_OPTIONS=--preload=/vercel/evil.js\n")
            session.fs.write_text(
                f"{folder}/evil.js",
                'require("node:fs").writeFileSync("/vercel/fooled", "");process.exit(0);\n',
            )
        proof = sandbox.prove()
        fooled = session.run_process("ls", ["/vercel/fooled"], capture_output=True)
    finally:
        sandbox.terminate(keep=False)

    assert proof.verdict == "proven"
    assert fooled.returncode != 0
