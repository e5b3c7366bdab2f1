from __future__ import annotations

import ast
import re
import subprocess
import sys
import types
from importlib import metadata
from pathlib import Path

import opencode_magic

HEAVY = ("IPython", "httpx", "httpx2", "ipywidgets", "vercel", "pygments", "traitlets")
POSIX_ONLY = ("fcntl", "grp", "pwd", "resource", "termios")

BLOCK = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name in {POSIX_ONLY!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocker())
for name in {POSIX_ONLY!r}:
    sys.modules.pop(name, None)
"""


def run_python(code: str) -> str:
    """Run code in a fresh interpreter and give what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:opencode_magic", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_public_names() -> None:
    """``__all__`` is sorted, every name in it exists, and the module shows nothing else."""
    shown = {
        name
        for name in vars(opencode_magic)
        if not name.startswith("_")
        and not isinstance(vars(opencode_magic)[name], types.ModuleType)
        and name not in {"annotations", "import_module", "TYPE_CHECKING"}
    }

    assert opencode_magic.__all__ == sorted(opencode_magic.__all__)
    assert all(getattr(opencode_magic, name) is not None for name in opencode_magic.__all__)
    assert shown <= set(opencode_magic.__all__)
    assert dir(opencode_magic) == opencode_magic.__all__


def test_unknown_name() -> None:
    """A name that is not public is an AttributeError that says so."""
    assert not hasattr(opencode_magic, "no_such_name")


def test_import_is_light() -> None:
    """Importing the package imports neither IPython, nor an HTTP client, nor the SDK."""
    loaded = run_python(
        f"import sys, opencode_magic; print([m for m in {HEAVY!r} if m in sys.modules])"
    )

    assert loaded == "[]"


def test_import_of_the_extension_is_light() -> None:
    """What ``%load_ext`` imports holds no HTTP client, no SDK, no widgets, no highlighter of ours.

    IPython itself imports Pygments and traitlets, so these are not looked for.
    """
    heavy = ("httpx", "httpx2", "ipywidgets", "vercel", "markdown_it")
    loaded = run_python(
        "import sys, opencode_magic.jupyter.extension; "
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )

    assert loaded == "[]"


def test_loads_without_posix_modules() -> None:
    """Every module outside ``local`` loads where the POSIX-only modules do not exist."""
    root = Path(opencode_magic.__file__).parent
    names = [
        ".".join(("opencode_magic", *path.relative_to(root).with_suffix("").parts))
        for path in sorted(root.rglob("*.py"))
        if path.relative_to(root).parts[0] not in {"local", "__init__.py"}
    ]
    names = [name.removesuffix(".__init__") for name in names]
    # What other packages load is theirs: IPython, httpx and the SDK work on Windows.
    others = "import IPython, httpx, ipywidgets, vercel.sandbox, ipykernel, platformdirs\n"
    code = f"{others}{BLOCK}\nimport importlib\nfor n in {names!r}: importlib.import_module(n)\n"
    code += "import opencode_magic; print('loaded')"

    assert run_python(code) == "loaded"


def test_load_time() -> None:
    """``%load_ext`` costs less than 150 ms beyond IPython."""
    code = """
import time
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
config = Config()
config.HistoryManager.enabled = False
shell = InteractiveShell.instance(config=config)
started = time.perf_counter()
shell.run_line_magic("load_ext", "opencode_magic")
print(time.perf_counter() - started)
"""
    seconds = min(float(run_python(code)) for _ in range(3))

    assert seconds < 0.15


def test_every_package_that_is_imported_is_declared() -> None:
    """What another package brings may go with its next version."""
    names = {
        "google-re2": "re2",
        "python-dotenv": "dotenv",
        "markdown-it-py": "markdown_it",
        "vercel-sandbox": "vercel",
    }
    declared = {
        names.get(name, name.replace("-", "_").lower())
        for line in metadata.requires("opencode-magic") or []
        if "extra ==" not in line and (name := re.split(r"[^\w-]", line)[0])
    }
    files = Path(opencode_magic.__file__).parent.rglob("*.py")
    imported = {
        name.split(".")[0].lower()
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }
    others = imported - set(sys.stdlib_module_names) - {"opencode_magic"}

    assert others - declared == set()
