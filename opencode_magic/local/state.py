"""What the server knows of a sandbox, its sessions and its snapshots: values, and their disk form.

The disk form holds no injected header's value and no environment value: both are needed only while
a session runs, and a session does not outlive its server.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from dataclasses import fields as fields_of
from typing import TYPE_CHECKING, Literal

from opencode_magic.core.policy import NetworkPolicy
from opencode_magic.core.policy_wire import parse_policy, policy_to_wire
from opencode_magic.local.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opencode_magic.core.policy import Rule

Status = Literal["pending", "running", "stopping", "stopped", "failed", "aborted", "snapshotting"]
LIVE_STATUSES = frozenset({"pending", "running", "stopping", "snapshotting"})


@dataclass(frozen=True, slots=True)
class Session:
    """One run of a sandbox: a life in processes."""

    session_id: str
    sandbox_name: str
    box_id: str
    """The folder that holds the sandbox's files."""
    status: Status
    timeout_ms: int
    requested_ms: int
    updated_ms: int
    started_ms: int | None = None
    stopped_ms: int | None = None
    resources: Resources = field(default_factory=Resources)
    policy: NetworkPolicy = field(default_factory=NetworkPolicy)
    keeper_pid: int = 0
    keeper_start_ticks: int = 0
    """When the keeper started, as the kernel counts: a pid alone may be someone else's by now."""
    stop_reason: str = ""

    @property
    def is_live(self) -> bool:
        """Whether processes of it may exist."""
        return self.status in LIVE_STATUSES


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A named sandbox, running or not."""

    name: str
    project_id: str
    session_id: str
    timeout_ms: int
    created_ms: int
    updated_ms: int
    status_updated_ms: int
    is_persistent: bool = True
    resources: Resources = field(default_factory=Resources)
    policy: NetworkPolicy = field(default_factory=NetworkPolicy)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    surroundings: Mapping[str, str] | None = field(default=None, repr=False)
    """How its creator's kernel goes out; None is as the server does. Never on disk: a later server
    goes its own way."""
    tags: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[int, ...] = ()
    snapshot_id: str = ""
    snapshot_expiration_ms: int | None = None
    keep_last_snapshots: Mapping[str, object] | None = None
    is_to_restore: bool = False
    """An update named the snapshot: the next session starts from it, not from the last's end."""
    lost: frozenset[str] = frozenset()
    """Fields whose secret values went with the server that knew them: ``env``, ``policy``."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Saved files of a sandbox."""

    snapshot_id: str
    project_id: str
    session_id: str
    sandbox_name: str
    size_bytes: int
    created_ms: int
    updated_ms: int
    expires_ms: int | None = None
    last_used_ms: int | None = None
    lifetime_ms: int = 0
    """How long it lives after each use; 0 where that is not known, or for ever."""
    is_evicted: bool = False
    """It fell out of its sandbox's retention, and lives on for a while."""
    method: str = "manual"
    status: Literal["created", "deleted", "failed"] = "created"


@dataclass(frozen=True, slots=True)
class View:
    """A sandbox with one of its sessions and, where that runs, its published ports."""

    sandbox: Sandbox
    session: Session
    routes: Mapping[int, str]
    is_resumed: bool = False


def sandbox_to_json(sandbox: Sandbox) -> dict[str, object]:
    """Give the disk form of a sandbox."""
    return {
        "name": sandbox.name,
        "project_id": sandbox.project_id,
        "session_id": sandbox.session_id,
        "timeout_ms": sandbox.timeout_ms,
        "created_ms": sandbox.created_ms,
        "updated_ms": sandbox.updated_ms,
        "status_updated_ms": sandbox.status_updated_ms,
        "is_persistent": sandbox.is_persistent,
        "resources": sandbox.resources.to_json(),
        "policy": policy_to_json(sandbox.policy),
        "tags": dict(sandbox.tags),
        "ports": list(sandbox.ports),
        "snapshot_id": sandbox.snapshot_id,
        "is_to_restore": sandbox.is_to_restore,
        "snapshot_expiration_ms": sandbox.snapshot_expiration_ms,
        "keep_last_snapshots": sandbox.keep_last_snapshots,
        "lost": sorted(sandbox.lost | _secret_fields(sandbox)),
    }


def sandbox_from_json(body: Mapping[str, object]) -> Sandbox:
    """Read the disk form of a sandbox.

    Raises:
        TypeError: A field is missing.
        PolicyError: The policy cannot be parsed.
    """
    fields = known(Sandbox, body)
    fields["policy"] = parse_policy(fields.get("policy"))
    resources = fields.get("resources")
    fields["resources"] = Resources(**known(Resources, resources))  # type: ignore[arg-type] # see below
    ports = fields.get("ports")
    fields["ports"] = tuple(ports) if isinstance(ports, list) else ()
    fields["lost"] = frozenset(str(name) for name in _texts(fields.get("lost")))
    # The file is our own, in a folder that only the user can write.
    return Sandbox(**fields)  # type: ignore[arg-type]


def session_to_json(session: Session) -> dict[str, object]:
    """Give the disk form of a session."""
    return {
        "session_id": session.session_id,
        "sandbox_name": session.sandbox_name,
        "box_id": session.box_id,
        "status": session.status,
        "timeout_ms": session.timeout_ms,
        "requested_ms": session.requested_ms,
        "updated_ms": session.updated_ms,
        "started_ms": session.started_ms,
        "stopped_ms": session.stopped_ms,
        "resources": session.resources.to_json(),
        "policy": policy_to_json(session.policy),
        "keeper_pid": session.keeper_pid,
        "keeper_start_ticks": session.keeper_start_ticks,
        "stop_reason": session.stop_reason,
    }


def session_from_json(body: Mapping[str, object]) -> Session:
    """Read the disk form of a session.

    Raises:
        TypeError: A field is missing.
        PolicyError: The policy cannot be parsed.
    """
    fields = known(Session, body)
    fields["policy"] = parse_policy(fields.get("policy"))
    resources = known(Resources, fields.get("resources"))
    fields["resources"] = Resources(**resources)  # type: ignore[arg-type] # see below
    # The file is our own, in a folder that only the user can write.
    return Session(**fields)  # type: ignore[arg-type]


def policy_to_json(policy: NetworkPolicy) -> dict[str, object]:
    """Give a policy in the wire form that is sent, with every injected value left empty."""
    hosts = tuple(
        replace(entry, rules=tuple(_without_values(rule) for rule in entry.rules))
        for entry in policy.hosts
    )
    return policy_to_wire(replace(policy, hosts=hosts))


def known(kind: type, body: object) -> dict[str, object]:
    """Give the fields that this version knows: the record may be of an earlier or a later one."""
    names = {item.name for item in fields_of(kind)}
    items = body.items() if isinstance(body, dict) else ()
    return {name: item for name, item in items if name in names}


def _secret_fields(sandbox: Sandbox) -> frozenset[str]:
    """Give the fields that hold values which no disk gets."""
    injects = any(rule.headers for entry in sandbox.policy.hosts for rule in entry.rules)
    held = {"env": bool(sandbox.env), "policy": injects}
    return frozenset(name for name, is_secret in held.items() if is_secret)


def _texts(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _without_values(rule: Rule) -> Rule:
    if rule.headers is None:
        return rule
    return replace(rule, headers=dict.fromkeys(rule.headers, ""))
