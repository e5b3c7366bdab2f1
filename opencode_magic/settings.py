"""Arguments, environment, ``.env`` files and the system-wide file -> one ``Settings``."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args
from urllib.parse import urlsplit

import platformdirs
from dotenv import dotenv_values

from opencode_magic.core.providers import PROVIDERS
from opencode_magic.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HomeName = Literal["auto", "local", "cloud"]

SYSTEM_FILE = Path("/etc/opencode-magic/config.toml")
ENV_FILES = (".env.local", ".env")
"""In this order in each folder; the notebook's folder first, then its parents."""

DEFAULT_TIME_LIMIT_S = 15 * 60.0
SHORTEST_TIME_LIMIT_S = 60.0
LONGEST_TIME_LIMIT_S = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that a launch may be told from outside. Its repr holds no secret."""

    folder: Path
    """The notebook's folder, where the search for ``.env`` files starts."""
    cache_dir: Path
    state_dir: Path
    runtime_dir: Path
    home: HomeName = "auto"
    model: str = ""
    base_url: str = ""
    """An OpenAI-compatible endpoint that stands in for a known provider."""
    api_key: str = field(default="", repr=False)
    """The key for ``base_url``."""
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Key variables of known providers that are set, by name."""
    mappings: Mapping[str, str] = field(default_factory=dict)
    """Names ending in ``.internal`` and where the local home sends requests for them."""
    binary: Path | None = None
    """An OpenCode binary to use in place of the cached one."""
    oidc_token: str = field(default="", repr=False)
    """This and the next three are those given as arguments; what the environment holds of them is
    read again at each request, since it expires."""
    token: str = field(default="", repr=False)
    team_id: str = ""
    project_id: str = ""
    cloud_url: str = ""
    """Another address of the cloud's API; empty for Vercel's own."""
    upstreams: tuple[str, ...] = ()
    """``HOST=127.0.0.1:PORT``: read only when the local server is started."""
    upstream_ca: Path | None = None
    is_strict: bool = False
    """The local home's firewall reads plain allowed hosts too; read when its server is started."""
    time_limit_s: float = DEFAULT_TIME_LIMIT_S
    """How long a sandbox lives without a heartbeat."""


def load_settings(
    arguments: Mapping[str, object] | None = None,
    *,
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
    system_file: Path = SYSTEM_FILE,
) -> Settings:
    """Read every source once; the first that says something about a setting decides it.

    Sources in order: ``arguments``, ``environ``, ``.env.local`` and ``.env`` from ``folder``
    upwards, ``system_file``. Nothing is written, and ``os.environ`` is left as it is.

    Args:
        arguments: By field name of ``Settings``; None and empty text mean "not said".
        folder: The notebook's folder; by default the current one.
        environ: By default the process's own environment.
        system_file: A TOML file with field names as keys; may be missing.

    Raises:
        SettingsError: A value is malformed; names the setting and where it came from.
    """
    start = (folder or Path.cwd()).absolute()
    env = dict(os.environ) if environ is None else dict(environ)
    sources = _Sources(
        given={
            key: value
            for key, value in (arguments or {}).items()
            if value is not None and value != ""
        },
        env=env,
        files=tuple(load_env_files(start)),
        system=_load_system_file(system_file),
        system_file=system_file,
    )
    unknown = sorted(sources.given.keys() - _VARIABLES.keys())
    if unknown:
        msg = f"there is no setting {unknown[0]!r}"
        raise SettingsError(msg)
    return _settings(sources, start)


def load_env_files(folder: Path) -> Iterator[tuple[Path, Mapping[str, str]]]:
    """Read ``.env.local`` and ``.env`` from a folder upwards, nearest first.

    Files that cannot be read or parsed are passed over: they belong to other programs too.
    """
    for parent in (folder, *folder.parents):
        for name in ENV_FILES:
            path = parent / name
            try:
                if not path.is_file():
                    continue
                values = dotenv_values(path, interpolate=False)
            except (OSError, UnicodeDecodeError):
                continue
            yield path, {key: value for key, value in values.items() if value}


def make_private_dir(path: Path) -> Path:
    """Make a folder that only its owner can enter, or check that it is one.

    Raises:
        SettingsError: It cannot be made, belongs to another user, or is a link.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as exc:
        msg = f"the folder {str(path)!r} cannot be used: {exc.strerror}"
        raise SettingsError(msg, next_step="free the disk or name another folder") from exc
    if not stat.S_ISDIR(found.st_mode):
        msg = f"{str(path)!r} is not a folder"
        raise SettingsError(msg, next_step="remove it or name another folder")
    if hasattr(os, "getuid"):
        if found.st_uid != os.getuid():
            msg = f"the folder {str(path)!r} belongs to another user"
            raise SettingsError(msg, next_step="name another folder in OPENCODE_MAGIC_RUNTIME_DIR")
        if stat.S_IMODE(found.st_mode) & 0o077:
            path.chmod(0o700)
    return path


_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "home": ("OPENCODE_MAGIC_HOME",),
    "model": ("OPENCODE_MAGIC_MODEL",),
    "base_url": ("OPENCODE_MAGIC_BASE_URL",),
    "api_key": ("OPENCODE_MAGIC_API_KEY",),
    "keys": (),
    "mappings": ("OPENCODE_MAGIC_MAP",),
    "binary": ("OPENCODE_MAGIC_BINARY",),
    "oidc_token": (),
    "token": (),
    "team_id": (),
    "project_id": (),
    "cloud_url": ("OPENCODE_MAGIC_CLOUD_URL",),
    "upstreams": ("OPENCODE_MAGIC_UPSTREAM",),
    "upstream_ca": ("OPENCODE_MAGIC_UPSTREAM_CA",),
    "is_strict": ("OPENCODE_MAGIC_STRICT",),
    "time_limit_s": ("OPENCODE_MAGIC_TIME_LIMIT_S",),
    "cache_dir": ("OPENCODE_MAGIC_CACHE_DIR",),
    "state_dir": ("OPENCODE_MAGIC_STATE_DIR",),
    "runtime_dir": ("OPENCODE_MAGIC_RUNTIME_DIR",),
}
"""Fields that can be given, and the variables that set them."""

_NEVER_FROM_A_FILE = {"upstreams", "upstream_ca", "mappings", "binary", "cloud_url"}
"""A file that came with somebody's notebook must not lead the firewall or the token elsewhere."""


@dataclass(frozen=True, slots=True)
class _Sources:
    given: Mapping[str, object]
    env: Mapping[str, str]
    files: tuple[tuple[Path, Mapping[str, str]], ...]
    system: Mapping[str, object]
    system_file: Path

    def find(self, name: str) -> tuple[object, str] | None:
        """Give the value of a setting and where it stands."""
        if name in self.given:
            return self.given[name], f"the argument {name}"
        for variable in _VARIABLES[name]:
            if self.env.get(variable):
                return self.env[variable], f"the environment variable {variable}"
            if name in _NEVER_FROM_A_FILE:
                continue
            for path, values in self.files:
                if variable in values:
                    return values[variable], f"{variable} in {path}"
        if name in self.system:
            return self.system[name], f"{name} in {self.system_file}"
        return None

    def text(self, name: str, default: str = "") -> str:
        found = self.find(name)
        if found is None:
            return default
        value, where = found
        if not isinstance(value, str | os.PathLike | int | float):
            msg = f"{where} must be text"
            raise SettingsError(msg)
        return str(value).strip()

    def items(self, name: str) -> tuple[str, ...]:
        found = self.find(name)
        if found is None:
            return ()
        value, where = found
        if isinstance(value, str):
            return tuple(item.strip() for item in value.split(",") if item.strip())
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return tuple(value)
        msg = f"{where} must be a list of texts"
        raise SettingsError(msg)

    def where(self, name: str) -> str:
        found = self.find(name)
        return found[1] if found else name

    def is_in_env_file(self, name: str) -> bool:
        """Whether a setting stands in a file that may have come with somebody's notebook."""
        where = self.where(name)
        return any(where.endswith(f" in {path}") for path, _ in self.files)


def _settings(sources: _Sources, folder: Path) -> Settings:
    _check_endpoint(sources)
    binary = sources.text("binary")
    upstream_ca = sources.text("upstream_ca")
    return Settings(
        folder=folder,
        cache_dir=_folder(sources, "cache_dir", platformdirs.user_cache_path("opencode-magic")),
        state_dir=_folder(sources, "state_dir", platformdirs.user_state_path("opencode-magic")),
        runtime_dir=_folder(sources, "runtime_dir", _default_runtime_dir(sources.env)),
        home=_home(sources),
        model=sources.text("model"),
        base_url=sources.text("base_url"),
        api_key=sources.text("api_key"),
        keys=_keys(sources),
        mappings=_mappings(sources),
        binary=Path(binary).expanduser().absolute() if binary else None,
        oidc_token=sources.text("oidc_token"),
        token=sources.text("token"),
        team_id=sources.text("team_id"),
        project_id=sources.text("project_id"),
        cloud_url=sources.text("cloud_url"),
        upstreams=sources.items("upstreams"),
        upstream_ca=Path(upstream_ca).expanduser().absolute() if upstream_ca else None,
        is_strict=_is_on(sources, "is_strict", default=False),
        time_limit_s=_time_limit(sources),
    )


def _check_endpoint(sources: _Sources) -> None:
    """A file that came with somebody's notebook gets no key sent that it does not hold itself."""
    if not sources.text("api_key") or not sources.is_in_env_file("base_url"):
        return
    endpoint, key = sources.where("base_url"), sources.where("api_key")
    if endpoint.partition(" in ")[2] != key.partition(" in ")[2]:
        msg = f"{endpoint} would get the key of another source: {key}"
        next_step = "put both into one file, or give the address as an argument or variable"
        raise SettingsError(msg, next_step=next_step)


def _default_runtime_dir(env: Mapping[str, str]) -> Path:
    base = env.get("XDG_RUNTIME_DIR", "")
    if base and Path(base).is_absolute() and Path(base).is_dir():
        return Path(base) / "opencode-magic"
    uid = os.getuid() if hasattr(os, "getuid") else 0
    return Path(tempfile.gettempdir()) / f"opencode-magic-{uid}"


def _folder(sources: _Sources, name: str, default: Path) -> Path:
    text = sources.text(name)
    return Path(text).expanduser().absolute() if text else default


def _home(sources: _Sources) -> HomeName:
    text = sources.text("home", "auto").lower()
    names: tuple[HomeName, ...] = get_args(HomeName)
    for name in names:
        if text == name:
            return name
    msg = f"no home {text!r} ({sources.where('home')})"
    raise SettingsError(msg, next_step="choose 'local' or 'cloud'")


def _keys(sources: _Sources) -> dict[str, str]:
    given = sources.given.get("keys")
    keys = dict(given) if isinstance(given, dict) else {}
    for provider in PROVIDERS.values():
        variable = provider.key_variable
        candidates = (sources.env, *(values for _, values in sources.files))
        found = next((values[variable] for values in candidates if values.get(variable)), "")
        if found:
            keys.setdefault(variable, found.strip())
    return keys


def _mappings(sources: _Sources) -> dict[str, str]:
    found = sources.given.get("mappings")
    if isinstance(found, dict):
        return {str(name): _mapped(str(name), str(url)) for name, url in found.items()}
    mappings = {}
    for item in sources.items("mappings"):
        name, separator, url = item.partition("=")
        if not separator or not _can_be_mapped(name) or not _is_here(url):
            msg = f"{item!r} in {sources.where('mappings')} is no mapping"
            raise SettingsError(msg, next_step=f"write {_MAPPING}")
        mappings[name] = url
    return mappings


_HERE = frozenset({"127.0.0.1", "localhost", "::1"})
_MAPPING = "ollama.internal=http://127.0.0.1:11434"


def _mapped(name: str, url: str) -> str:
    """Check a mapping that was given as an argument; gives its address."""
    if not _can_be_mapped(name):
        msg = f"{name!r} cannot be mapped (--map): a mapped name ends in .internal"
        raise SettingsError(msg, next_step=f"write --map {_MAPPING}")
    if not url:
        msg = f"{name} is mapped to nothing (--map)"
        raise SettingsError(msg, next_step=f"write --map {_MAPPING}")
    if not _is_here(url):
        msg = f"{name} is mapped to {url!r} (--map), which is no server on this machine"
        raise SettingsError(msg, next_step=f"write --map {_MAPPING}")
    return url


def _is_here(url: str) -> bool:
    """Whether an address is one that the local home lets a mapped name lead to."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and parts.hostname in _HERE
    return False


def _can_be_mapped(name: str) -> bool:
    host = name.lower().removesuffix(".")
    return host.endswith(".internal") and not host.startswith(".")


def _time_limit(sources: _Sources) -> float:
    text = sources.text("time_limit_s", str(DEFAULT_TIME_LIMIT_S))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not SHORTEST_TIME_LIMIT_S <= seconds <= LONGEST_TIME_LIMIT_S:
        if isinstance(sources.given.get("time_limit_s"), int):  # as ``up`` gives its minutes
            msg = f"a sandbox cannot be given {seconds / 60:g} minutes"
            raise SettingsError(msg, next_step="give from 1 to 1440 minutes")
        msg = f"{sources.where('time_limit_s')} is {text!r}, not a number of seconds"
        raise SettingsError(msg, next_step="give from 60 to 86400 seconds")
    return seconds


def _is_on(sources: _Sources, name: str, *, default: bool) -> bool:
    text = sources.text(name).lower()
    if not text:
        return default
    return text not in {"0", "false", "no", "off"}


def _load_system_file(path: Path) -> dict[str, object]:
    try:
        values: dict[str, object] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        msg = f"the settings file {str(path)!r} cannot be read: {exc}"
        raise SettingsError(msg, next_step="ask who looks after this machine") from exc
    unknown = sorted(values.keys() - _VARIABLES.keys())
    if unknown:
        msg = f"the settings file {str(path)!r} has the unknown setting {unknown[0]!r}"
        raise SettingsError(msg, next_step="ask who looks after this machine")
    return values
