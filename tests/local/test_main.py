from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from opencode_magic.local.__main__ import main

if TYPE_CHECKING:
    import pytest

    from tests.local.servers import LocalServer


def test_another_users_state_file_is_not_followed(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who was first in a folder that all may write to is not asked, and not told our token."""
    owner = os.geteuid()
    assert main(["list", "--runtime-dir", str(server.runtime_dir)]) == 0
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert main(["list", "--runtime-dir", str(server.runtime_dir)]) == 0

    assert capsys.readouterr().out.endswith("}\nNo local server runs.\n")


def test_no_crash_writes_keys_to_disk(server: LocalServer) -> None:
    """The server holds the keys that are injected: it leaves no core file, by no handler."""
    assert server.process is not None
    lines = Path(f"/proc/{server.process.pid}/limits").read_text().splitlines()
    [core] = [line for line in lines if line.startswith("Max core file size")]

    assert core.split()[4:6] == ["1", "1"]
