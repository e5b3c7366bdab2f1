"""The tables of sandboxes and sessions, in memory and on disk alike.

The values in `state` are replaced, never changed, and each change is on disk before it is
answered, where the disk takes it.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from opencode_magic.local.leftovers import end_leftover
from opencode_magic.local.payloads import ApiError, not_found
from opencode_magic.local.state import LIVE_STATUSES, Sandbox, Session, Status

if TYPE_CHECKING:
    from collections.abc import Collection

    from opencode_magic.local.bodies import CreateRequest
    from opencode_magic.local.store import Store

SESSIONS_KEPT = 20
"""Of one sandbox; older ones are forgotten."""
log = logging.getLogger(__name__)


def now_ms() -> int:
    """Give Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


class Ledger:
    """Who exists, and in which state. Safe to use from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sandboxes: dict[str, Sandbox] = {}
        self._sessions: dict[str, Session] = {}
        self._lock = threading.RLock()

    def load(self) -> None:
        """Read the disk; what a crashed server left running is ended first."""
        for sandbox, sessions in self._store.load():
            with self._lock:
                self._sandboxes[sandbox.name] = sandbox
                for session in sessions:
                    self._sessions[session.session_id] = _settle(session)
            self._save(sandbox.name)
        self._store.recover()

    @property
    def live_count(self) -> int:
        """How many sessions may have processes."""
        with self._lock:
            return sum(session.is_live for session in self._sessions.values())

    def has(self, name: str) -> bool:
        """Whether a sandbox of this name exists."""
        with self._lock:
            return name in self._sandboxes

    def add(self, sandbox: Sandbox, session: Session) -> None:
        """Enter a session, and its sandbox as it is from now on.

        Raises:
            ApiError: The disk does not take it; nothing has changed then.
        """
        with self._lock:
            before = self._sandboxes.get(sandbox.name)
            self._sandboxes[sandbox.name] = sandbox
            self._sessions[session.session_id] = session
            try:
                self._write(sandbox.name)
            except OSError as exc:
                del self._sessions[session.session_id]
                del self._sandboxes[sandbox.name]
                if before is not None:
                    self._sandboxes[before.name] = before
                message = f"the state cannot be saved: {exc.strerror or exc}"
                raise ApiError(507, "disk_full", message) from exc

    def sandbox(self, name: str) -> Sandbox:
        """Give a sandbox.

        Raises:
            ApiError: There is none.
        """
        with self._lock:
            sandbox = self._sandboxes.get(name)
        if sandbox is None:
            raise not_found("Sandbox")
        return sandbox

    def session(self, session_id: str) -> Session:
        """Give a session.

        Raises:
            ApiError: There is none.
        """
        with self._lock:
            session = self._sessions.get(session_id)
        if session is None:
            raise not_found("Session")
        return session

    def pairs(self) -> list[tuple[Sandbox, Session]]:
        """Give each sandbox with its current session, in the order of their creation."""
        with self._lock:
            found = [(item, self._sessions[item.session_id]) for item in self._sandboxes.values()]
        return sorted(found, key=lambda pair: (pair[0].created_ms, pair[0].name))

    def sessions(self, name: str | None = None) -> list[tuple[Sandbox, Session]]:
        """Give sessions with their sandboxes, oldest first; of one sandbox where it is named."""
        with self._lock:
            found = [
                (self._sandboxes[item.sandbox_name], item)
                for item in self._sessions.values()
                if name in {None, item.sandbox_name}
            ]
        return sorted(found, key=lambda pair: pair[1].requested_ms)

    def change_sandbox(self, name: str, **changes: Any) -> Sandbox:  # noqa: ANN401 - the fields of a dataclass
        """Change some fields of a sandbox."""
        with self._lock:
            sandbox = replace(self.sandbox(name), updated_ms=now_ms(), **changes)
            self._sandboxes[name] = sandbox
            self._save(name)
        return sandbox

    def change_session(self, session_id: str, **changes: Any) -> Session:  # noqa: ANN401 - the same
        """Change some fields of a session."""
        with self._lock:
            session = replace(self.session(session_id), updated_ms=now_ms(), **changes)
            self._sessions[session_id] = session
            self._save(session.sandbox_name)
        return session

    def set_status(self, session_id: str, status: Status, reason: str) -> Session:
        """Move a session on in its life; says why, for whoever asks later."""
        moment = now_ms()
        stopped_ms = None if status in LIVE_STATUSES else moment
        with self._lock:
            session = self.session(session_id)
            self.change_sandbox(session.sandbox_name, status_updated_ms=moment)
            return self.change_session(
                session_id, status=status, stop_reason=reason, stopped_ms=stopped_ms
            )

    def erase(self, name: str) -> list[Session]:
        """Forget a sandbox; gives the sessions that it had."""
        with self._lock:
            self._sandboxes.pop(name, None)
            gone = [item for item in self._sessions.values() if item.sandbox_name == name]
            for session in gone:
                del self._sessions[session.session_id]
            self._store.forget(name)
        return gone

    def _save(self, name: str) -> None:
        """Bring a change to disk. That it cannot be brought there must keep nothing from ending."""
        try:
            self._write(name)
        except OSError as exc:
            log.warning("the state of %s cannot be saved: %s", name, exc.strerror or exc)

    def _write(self, name: str) -> None:
        with self._lock:
            sandbox = self._sandboxes.get(name)
            if sandbox is None:
                return
            found = [session for _, session in self.sessions(name)]
            for old in found[:-SESSIONS_KEPT]:
                del self._sessions[old.session_id]
            self._store.save(sandbox, found[-SESSIONS_KEPT:])


def sandbox_of(request: CreateRequest, moment: int) -> Sandbox:
    """Give a sandbox as it is asked for, without a session yet."""
    return Sandbox(
        name=request.name,
        project_id=request.project_id,
        session_id="",
        timeout_ms=request.timeout_ms,
        created_ms=moment,
        updated_ms=moment,
        status_updated_ms=moment,
        is_persistent=request.is_persistent,
        resources=request.resources,
        policy=request.policy,
        env=request.env,
        surroundings=request.surroundings,
        tags=request.tags,
        ports=request.ports,
        snapshot_id=request.snapshot_id,
        snapshot_expiration_ms=request.snapshot_expiration_ms,
        keep_last_snapshots=request.keep_last_snapshots,
    )


def require_secrets(sandbox: Sandbox, given: Collection[str] = ()) -> None:
    """Refuse to run a sandbox without the values that it was given once.

    Args:
        sandbox: The sandbox, perhaps read from a disk that holds no secret.
        given: Fields that its caller gives anew.

    Raises:
        ApiError: Some were lost with an earlier server. An update of those fields sets them again.
    """
    lost = sorted(sandbox.lost - set(given))
    if lost:
        kinds = {"env": "environment variables", "policy": "injected headers"}
        fields = {"env": "env", "policy": "networkPolicy"}
        message = (
            f"the values of its {' and '.join(kinds[name] for name in lost)} were lost when the"
            f" server ended: update {' and '.join(fields[name] for name in lost)} first"
        )
        raise ApiError(409, "sandbox_secrets_lost", message)


def begin_session(sandbox: Sandbox, box_id: str, moment: int) -> Session:
    """Give a session that has not started yet, on the folder of this name."""
    return Session(
        session_id=f"sbx_{secrets.token_hex(10)}",
        sandbox_name=sandbox.name,
        box_id=box_id,
        status="pending",
        timeout_ms=sandbox.timeout_ms,
        resources=sandbox.resources,
        requested_ms=moment,
        updated_ms=moment,
        policy=sandbox.policy,
    )


def _settle(session: Session) -> Session:
    """Give a session of a server that ended as it must be now: nothing of it runs."""
    if not session.is_live:
        return session
    end_leftover(session.keeper_pid, session.keeper_start_ticks)
    moment = now_ms()
    return replace(
        session,
        status="aborted",
        stopped_ms=moment,
        updated_ms=moment,
        stop_reason="the server ended without it",
    )
