from __future__ import annotations

import os
from pathlib import Path

from tests.conftest import FOLDERS, PRIVATE_VARIABLE

SOCKET_PATH_LIMIT = 108


def test_no_test_sees_the_users_keys_or_proxies() -> None:
    """Variables that hold a key, a token, a proxy or a setting of ours are gone."""
    seen = {name for name in os.environ if PRIVATE_VARIABLE.search(name)}

    assert {name for name in seen if name not in FOLDERS} == set()


def test_every_folder_is_the_tests_own(isolated: Path) -> None:
    """Home, cache, state, runtime and working folder lie in the test's own temporary folder."""
    assert {Path(os.environ[name]).parent for name in FOLDERS} == {isolated}
    assert Path.cwd() == isolated / "work"


def test_a_socket_path_fits(isolated: Path) -> None:
    """The runtime folder leaves room for a socket's name."""
    assert len(str(isolated / "run" / "api.sock")) < SOCKET_PATH_LIMIT / 2


def test_the_binary_is_in_the_tests_own_cache(opencode_binary: Path, isolated: Path) -> None:
    """Whoever asks for the binary has it in the cache folder too, as the same file."""
    folder = opencode_binary.parent
    seeded = isolated / "cache" / "opencode" / folder.parent.name / folder.name / "opencode"

    assert seeded.stat().st_size == opencode_binary.stat().st_size
    assert os.access(seeded, os.X_OK)
