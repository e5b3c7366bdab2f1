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

import hypothesis
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

SHORT_PARENT = "/tmp" if os.name == "posix" else None
"""A socket's path must be short, and the usual place for temporary files may be deep."""

FETCH = """
from opencode_magic.sandbox.opencode import ensure_binary
from opencode_magic.settings import load_settings
print(ensure_binary(load_settings()).path)
"""

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
    examples = str(Path(__file__).parent.parent / ".hypothesis")
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", examples)
    # How long one example takes says more of what else the machine does than of the code.
    hypothesis.settings.register_profile("steady", deadline=None)
    hypothesis.settings.load_profile("steady")


@pytest.fixture(autouse=True)
def isolated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the test's own, with a path short enough for sockets, for all that we write."""
    base = Path(tempfile.mkdtemp(prefix="om-", dir=SHORT_PARENT))
    base.chmod(0o755)
    for name, folder in FOLDERS.items():
        (base / folder).mkdir(mode=0o700)
        monkeypatch.setenv(name, str(base / folder))
    (base / "work").mkdir()
    monkeypatch.chdir(base / "work")
    if "opencode_binary" in request.fixturenames:
        seed_cache(request.getfixturevalue("seeded_cache"), base / "cache")
    yield base
    monkeypatch.chdir("/")
    shutil.rmtree(base, ignore_errors=True)


def seed_cache(source: Path, cache_dir: Path) -> None:
    """Put the verified binary and its tarball where the product's cache has them, with no copy."""
    shutil.copytree(source, cache_dir, copy_function=os.link, dirs_exist_ok=True)


@pytest.fixture(scope="session")
def seeded_cache() -> Iterator[Path]:
    """A cache folder with the pinned OpenCode, copied once from the user's own.

    It is a copy so that no test can spoil the user's; that one is filled where it is empty.
    """
    fetched = subprocess.run(
        [sys.executable, "-c", FETCH],
        cwd=Path(__file__).parent.parent,
        env={**USER_ENVIRONMENT, "OPENCODE_MAGIC_BINARY": ""},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    package_dir = Path(fetched.stdout.strip()).parent
    with tempfile.TemporaryDirectory(prefix="om-", dir=SHORT_PARENT) as folder:
        base = Path(folder)
        base.chmod(0o755)
        version_dir = package_dir.parent
        target = base / "opencode" / version_dir.name / package_dir.name
        shutil.copytree(package_dir, target, ignore=shutil.ignore_patterns(".*", "*.bad"))
        yield base


@pytest.fixture(scope="session")
def opencode_binary(seeded_cache: Path) -> Path:
    """The pinned OpenCode, verified. A test that asks for it has it in its own cache too."""
    return next(seeded_cache.glob("opencode/*/*/opencode"))
