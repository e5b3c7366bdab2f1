"""Every test runs without the user's settings, keys, proxies, folders or network addresses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
import pytest

from tests.timing import FolderTiming

if TYPE_CHECKING:
    from collections.abc import Iterator

PRIVATE_VARIABLE = re.compile(
    r"^(VERCEL|OPENCODE|OPENAI|ANTHROPIC|AI_GATEWAY|AWS|AZURE|GOOGLE|GEMINI)_|_API_KEY$|_TOKEN$|"
    r"^(https?|all|no|ftp)_proxy$|^(JUPYTER|IPYTHON)|^(PYTHONPATH|PYTHONWARNINGS)$",
    re.IGNORECASE,
)
USER_ENVIRONMENT = dict(os.environ)
"""What the user started the run with: for the one thing that fetches, see ``opencode_binary``."""

FOLDERS = {
    "OPENCODE_MAGIC_CACHE_DIR": "cache",
    "OPENCODE_MAGIC_STATE_DIR": "state",
    "OPENCODE_MAGIC_RUNTIME_DIR": "run",
    "HOME": "home",
    "IPYTHONDIR": "ipython",
    "JUPYTER_CONFIG_DIR": "jupyter",
    "JUPYTER_DATA_DIR": "jupyter-data",
    "JUPYTER_RUNTIME_DIR": "jupyter-run",
}


def pytest_configure(config: pytest.Config) -> None:
    """Clean the environment before any fixture of any scope can see it."""
    config.pluginmanager.register(FolderTiming(), "folder-timing")
    for name in list(os.environ):
        if PRIVATE_VARIABLE.search(name):
            del os.environ[name]


@pytest.fixture(autouse=True)
def isolated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the test's own, with a path short enough for sockets, for all that we write."""
    base = Path(tempfile.mkdtemp(prefix="om-", dir="/tmp" if os.name == "posix" else None))
    base.chmod(0o755)
    for name, folder in FOLDERS.items():
        (base / folder).mkdir(mode=0o700)
        monkeypatch.setenv(name, str(base / folder))
    (base / "work").mkdir()
    monkeypatch.chdir(base / "work")
    if "opencode_binary" in request.fixturenames:
        seed_cache(request.getfixturevalue("opencode_binary"), base / "cache")
    yield base
    monkeypatch.chdir("/")
    shutil.rmtree(base, ignore_errors=True)


def seed_cache(binary: Path, cache_dir: Path) -> None:
    """Put the verified binary and its tarball where the product's cache has them, with no copy."""
    version_dir = binary.parent.parent
    for path in version_dir.rglob("*"):
        target = cache_dir / "opencode" / version_dir.name / path.relative_to(version_dir)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path, target)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; a copy where the two are on different file systems."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


@pytest.fixture(scope="session")
def opencode_binary() -> Path:
    """The pinned OpenCode from the user's own cache, verified; fetched once where it is missing.

    A test that asks for it finds it in its own cache folder too.
    """
    cache_dir = USER_ENVIRONMENT.get("OPENCODE_MAGIC_CACHE_DIR") or str(
        platformdirs.user_cache_path("opencode-magic")
    )
    fetched = subprocess.run(
        [sys.executable, "-m", "tests.fetch_binary", cache_dir],
        cwd=Path(__file__).parent.parent,
        env=USER_ENVIRONMENT,
        check=True,
        capture_output=True,
        text=True,
    )
    return Path(fetched.stdout.strip())
