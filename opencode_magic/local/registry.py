"""All sandboxes of this server and their life: create, find, change, extend, stop, resume, delete.

The values in `state` are replaced, never changed; each change is on disk before it is answered. One
lock guards the tables; one more per sandbox keeps a create, a stop and a delete of it apart.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from opencode_magic.errors import HomeUnavailableError, OpencodeMagicError
from opencode_magic.local.bodies import TIMEOUT_LIMIT_MS
from opencode_magic.local.leftovers import end_leftover, start_ticks
from opencode_magic.local.payloads import ApiError, bad_request, not_found
from opencode_magic.local.snapshots import Snapshots
from opencode_magic.local.state import LIVE_STATUSES, Sandbox, Session, Snapshot, Status
from opencode_magic.local.store import Kept, Store, remove_tree

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opencode_magic.core.policy import NetworkPolicy
    from opencode_magic.local.bodies import CreateRequest
    from opencode_magic.local.box import Box, BoxFactory

SESSIONS_KEPT = 20
FORGET_STOPPED_MS = 7 * 24 * 3_600_000
"""A stopped sandbox that is not persistent is removed so long after its end."""
SWEEP_EVERY_S = 3600.0
TICK_S = 0.2
log = logging.getLogger(__name__)


def now_ms() -> int:
    """Give Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class View:
    """A sandbox with one of its sessions and, where that runs, its published ports."""

    sandbox: Sandbox
    session: Session
    routes: Mapping[int, str]
    is_resumed: bool = False


class Registry:
    """The sandboxes. Safe to use from any thread."""

    def __init__(self, store: Store, factory: BoxFactory, *, keeps_files: bool) -> None:
        self._store = store
        self._factory = factory
        self._keeps_files = keeps_files
        self._sandboxes: dict[str, Sandbox] = {}
        self._sessions: dict[str, Session] = {}
        self._boxes: dict[str, Box] = {}
        self._deadlines: dict[str, float] = {}
        """When each session must end, on a clock that stands still while the machine sleeps."""
        self._name_locks: dict[str, threading.RLock] = {}
        self._lock = threading.RLock()
        self._refill = threading.Event()
        self.snapshots = Snapshots(store)
        self._ending = threading.Event()
        self._next_sweep = 0.0

    @property
    def live_count(self) -> int:
        """How many sessions may have processes."""
        with self._lock:
            return sum(session.is_live for session in self._sessions.values())

    def start(self) -> None:
        """Read the disk, end what a crashed server left, and begin to watch the clock."""
        for sandbox, sessions in self._store.load():
            self._sandboxes[sandbox.name] = sandbox
            for session in sessions:
                self._sessions[session.session_id] = _settle(session)
            self._save(sandbox.name)
        for work, name in ((self._watch, "registry"), (self._keep_spare, "spare")):
            threading.Thread(target=work, name=name, daemon=True).start()

    def close(self) -> None:
        """End every sandbox; their files and records stay."""
        self._ending.set()
        self._refill.set()
        with self._lock:
            live = [item.session_id for item in self._sessions.values() if item.is_live]
        threads = [
            threading.Thread(target=self._stop_quietly, args=(session_id, "the server ended"))
            for session_id in live
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._factory.close()

    def create(self, request: CreateRequest) -> View:
        """Create and start a sandbox.

        Raises:
            ApiError: The name is taken, the snapshot is gone, or no sandbox can be had here.
        """
        with self._name_lock(request.name):
            moment = now_ms()
            with self._lock:
                if self._ending.is_set():
                    raise ApiError(503, "server_ending", "the server is ending")
                if request.name in self._sandboxes:
                    message = f"a sandbox of the name {request.name!r} exists"
                    raise ApiError(409, "conflict", message)
                sandbox = _sandbox_of(request, moment)
                session = _session_of(sandbox, f"box_{secrets.token_hex(8)}", moment)
                sandbox = replace(sandbox, session_id=session.session_id)
                self._sandboxes[sandbox.name] = sandbox
                self._sessions[session.session_id] = session
            try:
                if request.snapshot_id:
                    self.snapshots.unfold(request.snapshot_id, session.box_id, moment_ms=moment)
                return self._boot(sandbox.name, session)
            except BaseException:
                self._erase(sandbox.name)
                raise

    def get(self, name: str) -> View:
        """Give a sandbox with its current session.

        Raises:
            ApiError: There is none.
        """
        with self._lock:
            sandbox = self._sandboxes.get(name)
            if sandbox is None:
                raise not_found("Sandbox")
            return self._view(sandbox, self._sessions[sandbox.session_id])

    def resume(self, name: str) -> View:
        """Give a running sandbox: the one that runs, or a new session on its files.

        Raises:
            ApiError: There is no such sandbox, or it cannot be resumed.
        """
        with self._name_lock(name):
            view = self.get(name)
            if view.session.status == "running":
                return view
            if not (view.sandbox.is_persistent or view.sandbox.snapshot_id):
                message = "Cannot resume sandbox: no snapshot available."
                raise ApiError(410, "snapshot_not_found", message)
            session = _session_of(view.sandbox, view.session.box_id, now_ms())
            with self._lock:
                self._sessions[session.session_id] = session
                self._sandboxes[name] = replace(view.sandbox, session_id=session.session_id)
            try:
                return replace(self._boot(name, session), is_resumed=True)
            except BaseException:
                self._set_status(session.session_id, "failed", "it could not be started")
                raise

    def update(self, name: str, changes: Mapping[str, object]) -> View:
        """Change the saved part of a sandbox; ports are published at once where it runs.

        Raises:
            ApiError: There is none, or a snapshot that it names does not exist.
        """
        with self._name_lock(name):
            view = self.get(name)
            wanted = changes.get("snapshot_id")
            if isinstance(wanted, str):
                self.snapshots.get(wanted)
            # The keys and values come from parse_update, which knows the fields.
            fields: dict[str, Any] = dict(changes)
            with self._lock:
                self._sandboxes[name] = replace(view.sandbox, updated_ms=now_ms(), **fields)
                box = self._boxes.get(view.session.session_id)
            if box is not None and "ports" in changes:
                box.publish(self._sandboxes[name].ports)
            self._save(name)
            return self.get(name)

    def delete(
        self, name: str, *, discard: bool = False, with_snapshots: bool = False
    ) -> tuple[View, Kept | None]:
        """End and remove a sandbox; the agent's files are kept for a while unless discarded.

        Raises:
            ApiError: There is none.
        """
        with self._name_lock(name):
            view = self.get(name)
            if view.session.is_live:
                view = self.stop(view.session.session_id, "it was deleted")
            kept = None
            box_folder = self._store.boxes / view.session.box_id
            if self._keeps_files and not discard:
                kept = self._store.keep(name, box_folder / "home", now_ms())
            self._erase(name)
            for item in self.snapshots.all(name) if with_snapshots else []:
                self.snapshots.delete(item.snapshot_id)
            return view, kept

    def views(self) -> list[View]:
        """Give all sandboxes in the order of their creation."""
        with self._lock:
            views = [
                self._view(sandbox, self._sessions[sandbox.session_id])
                for sandbox in self._sandboxes.values()
            ]
        return sorted(views, key=lambda view: (view.sandbox.created_ms, view.sandbox.name))

    def session(self, session_id: str) -> View:
        """Give a session.

        Raises:
            ApiError: There is none.
        """
        with self._lock:
            session = self._sessions.get(session_id)
            if session is None or session.sandbox_name not in self._sandboxes:
                raise not_found("Session")
            return self._view(self._sandboxes[session.sandbox_name], session)

    def sessions(self, name: str | None = None) -> list[View]:
        """Give sessions, oldest first; of one sandbox where it is named."""
        with self._lock:
            found = [
                self._view(self._sandboxes[session.sandbox_name], session)
                for session in self._sessions.values()
                if name in {None, session.sandbox_name}
            ]
        return sorted(found, key=lambda view: view.session.requested_ms)

    def box(self, session_id: str) -> Box:
        """Give the running parts of a session.

        Raises:
            ApiError: There is no such session, or it does not run.
        """
        session = self.session(session_id).session
        with self._lock:
            box = self._boxes.get(session_id)
        if box is None or session.status != "running":
            status = session.status if session.status in {"stopping", "snapshotting"} else "stopped"
            raise ApiError(410, f"sandbox_{status}", f"Sandbox is {status}")
        return box

    def set_policy(self, session_id: str, policy: NetworkPolicy) -> View:
        """Put a policy in force on a running session; what it forbids is cut.

        Raises:
            ApiError: There is no such session, or it does not run.
        """
        with self._name_lock(self.session(session_id).sandbox.name):
            self.box(session_id).firewall.set_policy(policy)
            with self._lock:
                session = self._sessions[session_id]
                self._sessions[session_id] = replace(session, policy=policy, updated_ms=now_ms())
            self._save(session.sandbox_name)
            return self.session(session_id)

    def extend(self, session_id: str, duration_ms: int) -> View:
        """Let a running session live longer.

        Raises:
            ApiError: There is no such session, it does not run, or it would live too long.
        """
        self.box(session_id)
        with self._lock:
            session = self._sessions[session_id]
            timeout_ms = session.timeout_ms + duration_ms
            if timeout_ms > TIMEOUT_LIMIT_MS:
                raise bad_request("timeout restricted to <= 7d")
            if session_id in self._deadlines:
                self._deadlines[session_id] += duration_ms / 1000
            self._sessions[session_id] = replace(
                session, timeout_ms=timeout_ms, updated_ms=now_ms()
            )
        self._save(session.sandbox_name)
        return self.session(session_id)

    def stop(self, session_id: str, reason: str = "it was stopped") -> View:
        """End a session; its files stay. One that has ended is left as it is.

        Raises:
            ApiError: There is no such session.
        """
        view = self.session(session_id)
        with self._name_lock(view.sandbox.name):
            if not self.session(session_id).session.is_live:
                return self.session(session_id)
            self._set_status(session_id, "stopping", reason)
            self._close_box(session_id)
            self._set_status(session_id, "stopped", reason)
            log.info("session %s stopped: %s", session_id, reason)
            return self.session(session_id)

    def kept(self) -> list[Kept]:
        """Give what is kept of removed sandboxes, oldest first."""
        return self._store.kept()

    def snapshot(self, session_id: str, expiration_ms: int | None) -> tuple[Snapshot, View]:
        """Save the files of a running session, which ends.

        Raises:
            ApiError: There is no such session, it does not run, or the disk is full.
        """
        view = self.session(session_id)
        with self._name_lock(view.sandbox.name):
            self.box(session_id)
            self._set_status(session_id, "snapshotting", "a snapshot was taken")
            self._close_box(session_id)
            try:
                snapshot = self.snapshots.fold(
                    view.sandbox, view.session, moment_ms=now_ms(), expiration_ms=expiration_ms
                )
            finally:
                self._set_status(session_id, "stopped", "a snapshot was taken")
            with self._lock:
                sandbox = self._sandboxes[view.sandbox.name]
                self._sandboxes[sandbox.name] = replace(sandbox, snapshot_id=snapshot.snapshot_id)
            self._save(sandbox.name)
            return snapshot, self.session(session_id)

    def _boot(self, name: str, session: Session) -> View:
        with self._lock:
            sandbox = self._sandboxes[name]
        self._save(name)
        box = self._make_box(session.box_id, sandbox.policy)
        try:
            box.env = sandbox.env
            box.publish(sandbox.ports)
        except OSError as exc:
            box.close()
            raise ApiError(503, "no_port", f"a port could not be published: {exc}") from exc
        moment = now_ms()
        running = replace(
            session,
            status="running",
            started_ms=moment,
            updated_ms=moment,
            keeper_pid=box.keeper.pid,
            keeper_start_ticks=start_ticks(box.keeper.pid),
        )
        with self._lock:
            self._sessions[session.session_id] = running
            self._sandboxes[name] = replace(sandbox, status_updated_ms=moment, updated_ms=moment)
            self._boxes[session.session_id] = box
            self._deadlines[session.session_id] = time.monotonic() + session.timeout_ms / 1000
        self._save(name)
        self._refill.set()
        return self.get(name)

    def _make_box(self, box_id: str, policy: NetworkPolicy) -> Box:
        try:
            return self._factory.make(box_id, policy)
        except HomeUnavailableError as exc:
            raise ApiError(503, "isolation_unavailable", str(exc)) from exc
        except OpencodeMagicError as exc:
            raise ApiError(500, "sandbox_start_failed", str(exc)) from exc

    def _close_box(self, session_id: str) -> None:
        with self._lock:
            box = self._boxes.pop(session_id, None)
            self._deadlines.pop(session_id, None)
        if box is not None:
            box.close()

    def _set_status(self, session_id: str, status: Status, reason: str) -> None:
        moment = now_ms()
        with self._lock:
            session = self._sessions[session_id]
            self._sessions[session_id] = replace(
                session,
                status=status,
                updated_ms=moment,
                stop_reason=reason,
                stopped_ms=None if status in LIVE_STATUSES else moment,
            )
            sandbox = self._sandboxes[session.sandbox_name]
            self._sandboxes[sandbox.name] = replace(
                sandbox, updated_ms=moment, status_updated_ms=moment
            )
        self._save(sandbox.name)

    def _save(self, name: str) -> None:
        with self._lock:
            sandbox = self._sandboxes.get(name)
            if sandbox is None:
                return
            found = [item for item in self._sessions.values() if item.sandbox_name == name]
            found.sort(key=lambda item: item.requested_ms)
            for old in found[:-SESSIONS_KEPT]:
                del self._sessions[old.session_id]
            self._store.save(sandbox, found[-SESSIONS_KEPT:])

    def _erase(self, name: str) -> None:
        with self._lock:
            self._sandboxes.pop(name, None)
            gone = [item for item in self._sessions.values() if item.sandbox_name == name]
            for session in gone:
                del self._sessions[session.session_id]
        for session in gone:
            self._close_box(session.session_id)
        self._store.forget(name)
        for box_id in {session.box_id for session in gone}:
            remove_tree(self._store.boxes / box_id)

    def _view(self, sandbox: Sandbox, session: Session) -> View:
        box = self._boxes.get(session.session_id)
        return View(sandbox, session, {} if box is None else box.routes)

    def _name_lock(self, name: str) -> threading.RLock:
        with self._lock:
            return self._name_locks.setdefault(name, threading.RLock())

    def _keep_spare(self) -> None:
        while not self._ending.is_set():
            self._factory.refill()
            self._refill.wait()
            self._refill.clear()

    def _watch(self) -> None:
        while not self._ending.wait(TICK_S):
            try:
                self.tick()
            except Exception:  # a background thread's outer edge
                log.exception("the watch failed")

    def tick(self) -> None:
        """End the sessions whose time is over or whose keeper has ended, and sweep now and then."""
        moment = time.monotonic()
        with self._lock:
            late = [key for key, deadline in self._deadlines.items() if deadline <= moment]
            dead = [key for key, box in self._boxes.items() if not box.is_alive]
        for session_id in late:
            self._stop_quietly(session_id, "its execution time limit was reached")
        for session_id in dead:
            self._stop_quietly(session_id, "its keeper ended")
        if moment >= self._next_sweep:
            self._next_sweep = moment + SWEEP_EVERY_S
            self.sweep()

    def sweep(self) -> None:
        """Remove what is past its time: stopped sandboxes, snapshots, kept files, lost folders."""
        moment = now_ms()
        for view in self.views():
            stopped_ms = view.session.stopped_ms
            is_old = stopped_ms is not None and stopped_ms + FORGET_STOPPED_MS <= moment
            if is_old and not view.sandbox.is_persistent:
                self.delete(view.sandbox.name)
        self.snapshots.expire(moment)
        with self._lock:
            box_ids = {session.box_id for session in self._sessions.values()}
        self._store.sweep(box_ids, moment)

    def _stop_quietly(self, session_id: str, reason: str) -> None:
        try:
            self.stop(session_id, reason)
        except OpencodeMagicError as exc:
            log.warning("session %s could not be stopped: %s", session_id, exc)


def _sandbox_of(request: CreateRequest, moment: int) -> Sandbox:
    return Sandbox(
        name=request.name,
        project_id=request.project_id,
        session_id="",
        timeout_ms=request.timeout_ms,
        created_ms=moment,
        updated_ms=moment,
        status_updated_ms=moment,
        is_persistent=request.is_persistent,
        vcpus=request.vcpus,
        policy=request.policy,
        env=request.env,
        tags=request.tags,
        ports=request.ports,
        snapshot_id=request.snapshot_id,
        snapshot_expiration_ms=request.snapshot_expiration_ms,
        keep_last_snapshots=request.keep_last_snapshots,
    )


def _session_of(sandbox: Sandbox, box_id: str, moment: int) -> Session:
    return Session(
        session_id=f"sbx_{secrets.token_hex(10)}",
        sandbox_name=sandbox.name,
        box_id=box_id,
        status="pending",
        timeout_ms=sandbox.timeout_ms,
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
