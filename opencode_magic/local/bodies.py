"""The Sandbox REST API's request bodies: outside JSON becomes our values, or an error.

Source: the models of ``vercel-sandbox`` 0.10.
"""

from __future__ import annotations

import base64
import posixpath
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opencode_magic.core.policy import NetworkPolicy
from opencode_magic.core.policy_wire import parse_policy
from opencode_magic.core.surroundings import PARAMETER
from opencode_magic.errors import PolicyError
from opencode_magic.local.company import parse_surroundings
from opencode_magic.local.payloads import CWD, IMAGE, ApiError, bad_request
from opencode_magic.local.resources import Resources, parse_resources
from opencode_magic.local.retention import parse_expiration, parse_retention
from opencode_magic.local.sources import Source, parse_source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opencode_magic.local.state import Sandbox

DEFAULT_TIMEOUT_MS = 300_000
TIMEOUT_LIMIT_MS = 7 * 24 * 3_600_000
PORTS_LIMIT = 15
TAGS_LIMIT = 5
RESERVED_PORT = 23456
FIREWALL_PORTS = {53, 80, 443, 3128}
"""The firewall listens there inside: published, it would serve all who can reach this machine's
loopback, with the injected headers."""
_OWN_NAMES = {"sessions", "snapshots", "drives"}
"""What stands in the place of a name in the paths of other calls."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """A parsed create body."""

    name: str
    project_id: str
    timeout_ms: int = DEFAULT_TIMEOUT_MS
    resources: Resources = field(default_factory=Resources)
    is_persistent: bool = True
    policy: NetworkPolicy = field(default_factory=lambda: NetworkPolicy(mode="allow-all"))
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    surroundings: Mapping[str, str] | None = field(default=None, repr=False)
    tags: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[int, ...] = ()
    snapshot_id: str = ""
    source: Source | None = None
    snapshot_expiration_ms: int | None = None
    keep_last_snapshots: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A parsed command body."""

    command: str
    args: tuple[str, ...] = ()
    cwd: str = ""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_ms: int | None = None
    has_stdin: bool = False
    is_sudo: bool = False
    is_waited: bool = False
    has_logs: bool = False


def parse_create(value: object) -> CreateRequest:
    """Parse a create body.

    Raises:
        ApiError: A field is unknown, malformed, or not to be had here.
    """
    body = mapping(value, "the body")
    known = {
        "projectId", "name", "image", "source", "ports", "timeout", "resources", "persistent",
        "networkPolicy", "networkId", "env", "tags", "mounts", "snapshotExpiration",
        "keepLastSnapshots", "region", "failoverRegions",
    }  # fmt: skip
    _only(body, known)
    for key in ("mounts", "networkId"):
        if body.get(key):
            raise ApiError(501, "not_implemented", f"{key} is not available in the local home")
    _check_image(body.get("image"))
    return CreateRequest(
        name=parse_name(body["name"]) if body.get("name") else new_name(),
        project_id=_text(body.get("projectId") or "", "projectId"),
        timeout_ms=_timeout(body.get("timeout", DEFAULT_TIMEOUT_MS)),
        resources=_resources(body.get("resources")),
        is_persistent=_flag(body.get("persistent", True), "persistent"),
        policy=read_policy(body.get("networkPolicy", {"mode": "allow-all"})),
        env=parse_env(body.get("env")),
        surroundings=parse_surroundings(body.get(PARAMETER)),
        tags=_tags(body.get("tags")),
        ports=_ports(body.get("ports")),
        snapshot_id=_snapshot_of(body),
        source=_source_of(body),
        snapshot_expiration_ms=_expiration(body.get("snapshotExpiration")),
        keep_last_snapshots=parse_retention(body.get("keepLastSnapshots")),
    )


def parse_update(value: object) -> dict[str, object]:
    """Parse a sparse update into the fields of `Sandbox` that it changes.

    Raises:
        ApiError: A field is unknown, malformed, or not to be had here.
    """
    body = mapping(value, "the body")
    parsers = {
        "ports": ("ports", _ports),
        "timeout": ("timeout_ms", _timeout),
        "resources": ("resources", _resources),
        "persistent": ("is_persistent", lambda item: _flag(item, "persistent")),
        "networkPolicy": ("policy", read_policy),
        "env": ("env", parse_env),
        "tags": ("tags", _tags),
        "snapshotExpiration": ("snapshot_expiration_ms", _expiration),
        "keepLastSnapshots": ("keep_last_snapshots", parse_retention),
        "currentSnapshotId": ("snapshot_id", lambda item: _text(item, "currentSnapshotId")),
    }
    ignored = {"region", "failoverRegions", "projectId"}
    for key in ("mounts", "networkId"):
        if body.get(key):
            raise ApiError(501, "not_implemented", f"{key} is not available in the local home")
    _only(body, parsers.keys() | ignored | {"mounts", "networkId"})
    changes: dict[str, object] = {}
    for key, item in body.items():
        if key in parsers:
            name, parse = parsers[key]
            changes[name] = parse(item)
    return changes


def parse_fork(value: object) -> tuple[str, dict[str, object]]:
    """Parse a fork body: the name, given or made, and the fields that differ from the source's.

    Raises:
        ApiError: A field is unknown, malformed, or not to be had here.
    """
    body = dict(mapping(value, "the body"))
    name = body.pop("name", None)
    _check_image(body.pop("image", None))
    changes = parse_update(body)
    changes.pop("snapshot_id", None)
    return (parse_name(name) if name else new_name()), changes


def new_name() -> str:
    """Give a name for a sandbox that was given none."""
    return f"sbx-{secrets.token_hex(6)}"


def forked(
    source: Sandbox, name: str, snapshot_id: str, changes: Mapping[str, object]
) -> CreateRequest:
    """Ask for a sandbox like another one."""
    fields: dict[str, Any] = {
        "timeout_ms": source.timeout_ms,
        "resources": source.resources,
        "is_persistent": source.is_persistent,
        "policy": source.policy,
        "env": source.env,
        "surroundings": source.surroundings,
        "tags": source.tags,
        "ports": source.ports,
        "snapshot_expiration_ms": source.snapshot_expiration_ms,
        "keep_last_snapshots": source.keep_last_snapshots,
        **changes,
    }
    return CreateRequest(name=name, project_id=source.project_id, snapshot_id=snapshot_id, **fields)


def parse_run(value: object) -> RunRequest:
    """Parse a command body.

    Raises:
        ApiError: A field is unknown or malformed.
    """
    body = mapping(value, "the body")
    _only(body, {"command", "args", "cwd", "env", "sudo", "wait", "logs", "timeout", "attachStdin"})
    command = _text(body.get("command"), "command")
    args = tuple(_text(item, "args") for item in _sequence(body.get("args") or [], "args"))
    if not command or "\0" in command or any("\0" in arg for arg in args):
        raise bad_request("command and args must be text without a zero character")
    timeout = _optional_int(body.get("timeout"), "timeout")
    if timeout is not None and timeout <= 0:
        raise bad_request("timeout must be positive")
    return RunRequest(
        command=command,
        args=args,
        cwd=posixpath.join(CWD, _text(body.get("cwd") or "", "cwd")) if body.get("cwd") else "",
        env=parse_env(body.get("env")),
        # No sandbox lives longer, so that a longer limit is none.
        timeout_ms=None if timeout is None else min(timeout, TIMEOUT_LIMIT_MS),
        has_stdin=_flag(body.get("attachStdin") or False, "attachStdin"),
        is_sudo=_flag(body.get("sudo") or False, "sudo"),
        is_waited=_flag(body.get("wait") or False, "wait"),
        has_logs=_flag(body.get("logs") or False, "logs"),
    )


def parse_input(body: Mapping[str, object]) -> tuple[bytes, int | None, bool]:
    """Parse a body of input: what to write, from which byte on, and whether it ends there.

    Raises:
        ApiError: A field is malformed.
    """
    try:
        data = base64.b64decode(_text(body.get("data") or "", "data"), validate=True)
    except ValueError as exc:
        raise bad_request("data must be base64") from exc
    offset = _optional_int(body.get("offset"), "offset")
    if offset is not None and offset < 0:
        raise bad_request("offset must not be negative")
    return data, offset, _flag(body.get("close") or False, "close")


def read_policy(value: object) -> NetworkPolicy:
    """Parse a network policy of a body.

    Raises:
        ApiError: It is no network policy.
    """
    try:
        return parse_policy(value)
    except PolicyError as exc:
        raise bad_request(f"networkPolicy: {exc.message}") from exc


def parse_name(value: object) -> str:
    """Parse a sandbox name, which is a file name here too.

    Raises:
        ApiError: It is empty, too long, or has characters that a file name should not have.
    """
    name = _text(value, "name")
    if not _NAME.fullmatch(name):
        raise bad_request("name must be 1 to 128 letters, digits, '.', '_' or '-'")
    if name in _OWN_NAMES:
        raise bad_request(f"name {name!r} is the API's own")
    return name


def parse_env(value: object) -> Mapping[str, str]:
    """Parse environment variables. An error names the variable and never its value.

    Raises:
        ApiError: A name or a value cannot be an environment variable.
    """
    env: dict[str, str] = {}
    for name, item in mapping({} if value is None else value, "env").items():
        if not name or "=" in name or "\0" in name:
            raise bad_request("env has a name that no variable can have")
        if not isinstance(item, str) or "\0" in item:
            raise bad_request(f"env[{name!r}] must be text without a zero character")
        env[name] = item
    return env


def duration_ms(value: object, where: str, *, least: int = 1) -> int:
    """Parse a number of milliseconds, from ``least`` to what a sandbox may live.

    Raises:
        ApiError: It is not one.
    """
    number = _int(value, where)
    if not least <= number <= TIMEOUT_LIMIT_MS:
        raise bad_request(f"{where} must be from {least} to {TIMEOUT_LIMIT_MS} milliseconds")
    return number


def mapping(value: object, where: str) -> Mapping[str, object]:
    """Give a JSON object.

    Raises:
        ApiError: It is something else.
    """
    if not isinstance(value, dict):
        raise bad_request(f"{where} must be an object")
    return value


def _check_image(image: object) -> None:
    if image is not None and not re.fullmatch(f"{IMAGE}([:@].*)?", _text(image, "image")):
        raise bad_request(f"image {image!r} is not available in the local home")


def _snapshot_of(body: Mapping[str, object]) -> str:
    """Give the snapshot that a create body starts from; empty where none."""
    source = body.get("source")
    if source is None or mapping(source, "source").get("type") != "snapshot":
        return ""
    if body.get("image") is not None:
        raise bad_request("image and a snapshot source exclude each other")
    return _text(mapping(source, "source").get("snapshotId"), "source.snapshotId")


def _source_of(body: Mapping[str, object]) -> Source | None:
    """Give what a create body wants fetched; None where nothing."""
    source = mapping(body.get("source") or {"type": "snapshot"}, "source")
    kind = source.get("type")
    if kind == "snapshot":
        return None
    if kind not in {"git", "tarball"}:
        raise bad_request("source.type must be 'git', 'tarball' or 'snapshot'")
    return parse_source(source)


def _expiration(value: object) -> int | None:
    return parse_expiration(value, "snapshotExpiration")


def _timeout(value: object) -> int:
    return duration_ms(value, "timeout")


def _resources(value: object) -> Resources:
    return Resources() if value is None else parse_resources(mapping(value, "resources"))


def _tags(value: object) -> Mapping[str, str]:
    tags = {
        name: _text(item, "tags")
        for name, item in mapping({} if value is None else value, "tags").items()
    }
    if len(tags) > TAGS_LIMIT:
        raise bad_request(f"at most {TAGS_LIMIT} tags")
    return tags


def _ports(value: object) -> tuple[int, ...]:
    ports = tuple(_int(item, "ports") for item in _sequence(value or [], "ports"))
    if RESERVED_PORT in ports:
        raise bad_request(f"port {RESERVED_PORT} is reserved", code="reserved_port")
    if taken := sorted(FIREWALL_PORTS.intersection(ports)):
        raise bad_request(
            f"port {taken[0]} is the firewall's own inside: let the program listen on another one",
            code="reserved_port",
        )
    if len(set(ports)) != len(ports) or len(ports) > PORTS_LIMIT:
        raise bad_request(f"ports must be at most {PORTS_LIMIT}, each once")
    if not all(1 <= port <= 65535 for port in ports):  # noqa: PLR2004 - the range of ports
        raise bad_request("ports must be from 1 to 65535")
    return ports


def _sequence(value: object, where: str) -> Sequence[object]:
    if not isinstance(value, list):
        raise bad_request(f"{where} must be a list")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise bad_request(f"{where} must be text")
    return value


def _int(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise bad_request(f"{where} must be a whole number")
    return value


def _optional_int(value: object, where: str) -> int | None:
    return None if value is None else _int(value, where)


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise bad_request(f"{where} must be true or false")
    return value


def _only(body: Mapping[str, object], known: set[str]) -> None:
    unknown = sorted(key for key in body if key not in known and not key.startswith("__"))
    if unknown:
        raise bad_request(f"should NOT have additional property {unknown[0]!r}")
