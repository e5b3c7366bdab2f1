from __future__ import annotations

import os
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
