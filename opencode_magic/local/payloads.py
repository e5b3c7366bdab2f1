"""The Sandbox REST API's answers: our values become its bodies and its errors.

Source: the models of ``vercel-sandbox`` 0.10 and the validators of its JavaScript sibling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opencode_magic.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opencode_magic.local.state import Sandbox, Session, Snapshot

REGION = "local"
IMAGE = "vercel/sandbox/universal"
CWD = "/vercel"


class ApiError(SandboxError):
    """A request that is answered with an error body."""

    def __init__(self, status_code: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.code = code

    def body(self) -> dict[str, object]:
        """Give the error body of the wire."""
        return {"error": {"code": self.code, "message": self.message}}


def bad_request(message: str, *, code: str = "bad_request") -> ApiError:
    """Give the error for a body that does not fit."""
    return ApiError(400, code, message)


def not_found(what: str) -> ApiError:
    """Give the error for something that does not exist."""
    return ApiError(404, "not_found", f"{what} not found.")


def sandbox_payload(sandbox: Sandbox, session: Session) -> dict[str, object]:
    """Give a sandbox as the API shows it; its status is that of its current session."""
    payload: dict[str, object] = {
        "name": sandbox.name,
        "currentSessionId": sandbox.session_id,
        "image": IMAGE,
        "status": session.status,
        "persistent": sandbox.is_persistent,
        "projectId": sandbox.project_id,
        "cwd": CWD,
        "region": REGION,
        "memory": sandbox.resources.memory_mb,
        "vcpus": sandbox.resources.vcpus,
        "timeout": sandbox.timeout_ms,
        "networkPolicy": sandbox.policy.to_readback(),
        "statusUpdatedAt": sandbox.status_updated_ms,
        "createdAt": sandbox.created_ms,
        "updatedAt": sandbox.updated_ms,
        "tags": dict(sandbox.tags),
    }
    optional = {
        "currentSnapshotId": sandbox.snapshot_id or None,
        "snapshotExpiration": sandbox.snapshot_expiration_ms,
        "keepLastSnapshots": sandbox.keep_last_snapshots,
    }
    payload.update({key: item for key, item in optional.items() if item is not None})
    return payload


def session_payload(session: Session, sandbox: Sandbox) -> dict[str, object]:
    """Give a session as the API shows it."""
    payload: dict[str, object] = {
        "id": session.session_id,
        "sourceSandboxName": session.sandbox_name,
        "projectId": sandbox.project_id,
        "status": session.status,
        "cwd": CWD,
        "region": REGION,
        "memory": session.resources.memory_mb,
        "vcpus": session.resources.vcpus,
        "timeout": session.timeout_ms,
        "networkPolicy": session.policy.to_readback(),
        "requestedAt": session.requested_ms,
        "createdAt": session.requested_ms,
        "updatedAt": session.updated_ms,
    }
    if session.started_ms is not None:
        payload["startedAt"] = session.started_ms
    if session.stopped_ms is not None:
        payload["stoppedAt"] = session.stopped_ms
    return payload


def snapshot_payload(snapshot: Snapshot) -> dict[str, object]:
    """Give a snapshot as the API shows it."""
    payload: dict[str, object] = {
        "id": snapshot.snapshot_id,
        "sourceSessionId": snapshot.session_id,
        "region": REGION,
        "regions": [REGION],
        "status": snapshot.status,
        "sizeBytes": snapshot.size_bytes,
        "createdAt": snapshot.created_ms,
        "updatedAt": snapshot.updated_ms,
        "creationMethod": snapshot.method,
    }
    if snapshot.expires_ms is not None:
        payload["expiresAt"] = snapshot.expires_ms
    if snapshot.last_used_ms is not None:
        payload["lastUsedAt"] = snapshot.last_used_ms
    return payload


def route_payloads(routes: Mapping[int, str], session_id: str) -> list[dict[str, object]]:
    """Give the published ports as the API shows them."""
    return [
        {"url": url, "port": port, "subdomain": f"{session_id.replace('_', '-')}-{port}"}
        for port, url in routes.items()
    ]
