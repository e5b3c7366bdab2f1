"""The life of all sandboxes of this server: create, change, extend, stop, resume, delete.

One lock per sandbox keeps its create, stop and delete apart; reading waits for none of them.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from opencode_magic.errors import HomeUnavailableError, OpencodeMagicError, SettingsError
from opencode_magic.local.bodies import TIMEOUT_LIMIT_MS, forked
from opencode_magic.local.ledger import Ledger, begin_session, now_ms, require_secrets, sandbox_of
from opencode_magic.local.leftovers import start_ticks
from opencode_magic.local.name_locks import NameLocks
from opencode_magic.local.payloads import ApiError, bad_request
from opencode_magic.local.snapshots import Snapshots, nothing_saved
from opencode_magic.local.sources import fetch
from opencode_magic.local.state import View
from opencode_magic.local.store import Kept, Store, remove_tree
from opencode_magic.local.upkeep import Upkeep

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opencode_magic.core.policy import NetworkPolicy
    from opencode_magic.local.bodies import CreateRequest
    from opencode_magic.local.box import Box, BoxFactory
    from opencode_magic.local.sources import Source
    from opencode_magic.local.state import Sandbox, Session, Snapshot

log = logging.getLogger(__name__)


class Registry:
    """The sandboxes. Safe to use from any thread."""

    def __init__(self, store: Store, factory: BoxFactory, *, keeps_files: bool) -> None:
        self.snapshots = Snapshots(store)
        self._store = store
        self._factory = factory
        self._keeps_files = keeps_files
        self._ledger = Ledger(store)
        self._boxes: dict[str, Box] = {}
        self._deadlines: dict[str, float] = {}
        """When each session must end, on a clock that stands still while the machine sleeps."""
        self._name_locks = NameLocks()
        self._lock = threading.Lock()
        self._discards: set[str] = set()
        self._is_ending = False
        self._upkeep = Upkeep(self, store, factory)

    @property
    def live_count(self) -> int:
        """How many sessions may have processes."""
        return self._ledger.live_count

    def start(self) -> None:
        """Read the disk, end what a crashed server left, and begin to watch the clock."""
        self._ledger.load()
        self._upkeep.start()

    def close(self) -> None:
        """End every sandbox; their files and records stay. Twice is harmless."""
        self._is_ending = True
        self._upkeep.close()
        threads = [
            threading.Thread(target=self._stop_quietly, args=(session.session_id, "server ended"))
            for _, session in self._ledger.sessions()
            if session.is_live
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._factory.close()

    def create(self, request: CreateRequest) -> View:
        """Create and start a sandbox.

        Raises:
            ApiError: The name is taken, the snapshot or the source cannot be had, or no sandbox
                can be had here.
        """
        with self._name_locks.of(request.name), self.snapshots.held(request.snapshot_id):
            if self._is_ending:
                raise ApiError(503, "server_ending", "the server is ending")
            if self._ledger.has(request.name):
                raise ApiError(409, "conflict", f"a sandbox of the name {request.name!r} exists")
            return self._begin(sandbox_of(request, now_ms()), request.source)

    def fork(self, source: str, name: str, changes: Mapping[str, object]) -> View:
        """Create a sandbox like another one, from that one's saved files.

        Raises:
            ApiError: There is no such sandbox, nothing of it is saved, or as `create` raises.
        """
        with self._name_locks.of(source):
            view = self.get(source)
            require_secrets(view.sandbox, changes.keys())
            snapshot_id = view.sandbox.snapshot_id
            if not view.session.is_live and not view.sandbox.is_to_restore:
                snapshot_id = self.snapshots.end_of(view, now_ms()) or snapshot_id
            if not snapshot_id:
                raise nothing_saved("fork")
        made = self.create(forked(view.sandbox, name, snapshot_id, changes))
        self._upkeep.retain(source)
        return made

    def get(self, name: str) -> View:
        """Give a sandbox with its current session.

        Raises:
            ApiError: There is none.
        """
        sandbox = self._ledger.sandbox(name)
        return self._view(sandbox, self._ledger.session(sandbox.session_id))

    def resume(self, name: str) -> View:
        """Give a running sandbox: the one that runs, or a new session on its files.

        Raises:
            ApiError: There is no such sandbox, or it cannot be resumed.
        """
        with self._name_locks.of(name):
            view = self.get(name)
            if view.session.status == "running":
                return view
            if not (view.sandbox.is_persistent or view.sandbox.snapshot_id):
                raise nothing_saved("resume")
            require_secrets(view.sandbox)
            if view.sandbox.is_to_restore:
                return self._restore(view)
            box = self._start_box(view.sandbox, view.session.box_id)
            return replace(self._adopt(box, view.sandbox), is_resumed=True)

    def update(self, name: str, changes: Mapping[str, object]) -> View:
        """Change the saved part of a sandbox; ports are published at once where it runs.

        Raises:
            ApiError: There is none, or a snapshot that it names does not exist.
        """
        with self._name_locks.of(name):
            wanted = changes.get("snapshot_id")
            if isinstance(wanted, str):
                self.snapshots.get(wanted)
                changes = {**changes, "is_to_restore": True}
            lost = self._ledger.sandbox(name).lost - changes.keys()
            sandbox = self._ledger.change_sandbox(name, **{**changes, "lost": lost})
            box = self._boxes.get(sandbox.session_id)
            if box is not None and "ports" in changes:
                box.publish(sandbox.ports)
            return self.get(name)

    def delete(
        self, name: str, *, discard: bool = False, with_snapshots: bool = False
    ) -> tuple[View, Kept | None]:
        """End and remove a sandbox; the agent's files are kept for a while unless discarded.

        Raises:
            ApiError: There is none.
        """
        with self._name_locks.of(name):
            view = self.get(name)
            if view.session.is_live:
                view = self.stop(view.session.session_id, "it was deleted")
            kept = None
            if self._keeps_files and not discard and name not in self._discards:
                home = self._store.boxes / view.session.box_id / "home"
                kept = self._store.keep(name, home, now_ms())
            self._erase(name)
            self._discards.discard(name)
            in_use = {view.sandbox.snapshot_id for view in self.views()}
            for item in self.snapshots.all(name) if with_snapshots else []:
                if item.snapshot_id not in in_use:
                    self.snapshots.discard(item.snapshot_id)
            return view, kept

    def set_keep(self, name: str, *, is_kept: bool) -> None:
        """Say whether the agent's files outlive a sandbox; they do unless told otherwise.

        Raises:
            ApiError: There is no such sandbox.
        """
        with self._name_locks.of(name):
            self.get(name)
            (self._discards.discard if is_kept else self._discards.add)(name)

    def views(self) -> list[View]:
        """Give all sandboxes in the order of their creation."""
        return [self._view(*pair) for pair in self._ledger.pairs()]

    def session(self, session_id: str) -> View:
        """Give a session.

        Raises:
            ApiError: There is none.
        """
        session = self._ledger.session(session_id)
        return self._view(self._ledger.sandbox(session.sandbox_name), session)

    def sessions(self, name: str | None = None) -> list[View]:
        """Give sessions, oldest first; of one sandbox where it is named."""
        return [self._view(*pair) for pair in self._ledger.sessions(name)]

    def box(self, session_id: str) -> Box:
        """Give the running parts of a session.

        Raises:
            ApiError: There is no such session, or it does not run.
        """
        session = self._ledger.session(session_id)
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
        with self._name_locks.of(self._ledger.session(session_id).sandbox_name):
            self.box(session_id).firewall.set_policy(policy)
            self._ledger.change_session(session_id, policy=policy)
            return self.session(session_id)

    def extend(self, session_id: str, duration_ms: int) -> View:
        """Let a running session live longer.

        Raises:
            ApiError: There is no such session, it does not run, or it would live too long.
        """
        with self._name_locks.of(self._ledger.session(session_id).sandbox_name):
            self.box(session_id)
            timeout_ms = self._ledger.session(session_id).timeout_ms + duration_ms
            if timeout_ms > TIMEOUT_LIMIT_MS:
                raise bad_request("timeout restricted to <= 7d")
            self._deadlines[session_id] += duration_ms / 1000
            self._ledger.change_session(session_id, timeout_ms=timeout_ms)
            return self.session(session_id)

    def stop(self, session_id: str, reason: str = "it was stopped") -> View:
        """End a session; its files stay. One that has ended is left as it is.

        Raises:
            ApiError: There is no such session.
        """
        with self._name_locks.of(self._ledger.session(session_id).sandbox_name):
            if not self._ledger.session(session_id).is_live:
                return self.session(session_id)
            self._ledger.set_status(session_id, "stopping", reason)
            self._close_box(session_id)
            self._ledger.set_status(session_id, "stopped", reason)
            log.info("session %s stopped: %s", session_id, reason)
            return self.session(session_id)

    def snapshot(self, session_id: str, expiration_ms: int | None) -> tuple[Snapshot, View]:
        """Save the files of a running session, which ends.

        Raises:
            ApiError: There is no such session, it does not run, or the disk is full.
        """
        view = self.session(session_id)
        with self._name_locks.of(view.sandbox.name):
            self.box(session_id)
            self._ledger.set_status(session_id, "snapshotting", "a snapshot was taken")
            self._close_box(session_id)
            try:
                snapshot = self.snapshots.fold_end(view, now_ms(), expiration_ms)
            finally:
                self._ledger.set_status(session_id, "stopped", "a snapshot was taken")
            saved = {"snapshot_id": snapshot.snapshot_id, "is_to_restore": False}
            self._ledger.change_sandbox(view.sandbox.name, **saved)
            self._upkeep.retain(view.sandbox.name)
            return snapshot, self.session(session_id)

    def kept(self) -> list[Kept]:
        """Give what is kept of removed sandboxes, oldest first."""
        return self._store.kept()

    def end_what_is_over(self) -> None:
        """End the sessions whose time is over, and those whose keeper has ended."""
        moment = time.monotonic()
        with self._lock:
            late = [key for key, deadline in self._deadlines.items() if deadline <= moment]
            dead = [key for key, box in self._boxes.items() if not box.is_alive]
        for session_id in late:
            self._stop_quietly(session_id, "its execution time limit was reached")
        for session_id in dead:
            self._stop_quietly(session_id, "its keeper ended")

    def _begin(self, sandbox: Sandbox, source: Source | None = None) -> View:
        """Start a sandbox on a folder of its own, with its snapshot's files and what is fetched."""
        box = self._start_box(sandbox, "")
        try:
            if sandbox.snapshot_id:
                # Nobody can run anything in it yet.
                self.snapshots.unfold(
                    sandbox.snapshot_id, box.box_id, owner=box.keeper.uid, moment_ms=now_ms()
                )
            if source is not None:
                fetch(box, source)
            return self._adopt(box, sandbox)
        except BaseException:
            box.close()
            remove_tree(self._store.boxes / box.box_id)
            self._upkeep.refill()
            raise

    def _restore(self, view: View) -> View:
        """Start a sandbox again from the snapshot that was chosen; what it had is saved first."""
        if not self.snapshots.has(view.sandbox.snapshot_id):
            raise nothing_saved("resume")
        with self.snapshots.held(view.sandbox.snapshot_id):
            self.snapshots.end_of(view, now_ms())
            made = self._begin(replace(view.sandbox, is_to_restore=False))
        self._upkeep.retain(view.sandbox.name)
        return replace(made, is_resumed=True)

    def _start_box(self, sandbox: Sandbox, box_id: str) -> Box:
        """Start a sandbox's processes, on a folder of its own or on the one of this name."""
        make = partial(self._factory.make, box_id) if box_id else self._factory.take
        try:
            box = make(sandbox.policy, sandbox.surroundings)
        except ApiError:
            raise
        except SettingsError as exc:  # never repeats a password
            raise bad_request(str(exc)) from exc
        except HomeUnavailableError as exc:
            raise ApiError(503, "isolation_unavailable", str(exc)) from exc
        except OpencodeMagicError as exc:
            raise ApiError(500, "sandbox_start_failed", str(exc)) from exc
        try:
            box.env = sandbox.env
            box.keeper.limit(sandbox.resources)
            box.publish(sandbox.ports)
        except OSError as exc:
            box.close()
            raise ApiError(503, "no_port", f"a port could not be published: {exc}") from exc
        return box

    def _adopt(self, box: Box, sandbox: Sandbox) -> View:
        """Enter what runs into the books; it ends where that fails."""
        session = begin_session(sandbox, box.box_id, now_ms())
        try:
            self._ledger.add(replace(sandbox, session_id=session.session_id), session)
        except ApiError:
            box.close()
            raise
        with self._lock:
            self._boxes[session.session_id] = box
            self._deadlines[session.session_id] = time.monotonic() + session.timeout_ms / 1000
        moment = now_ms()
        self._ledger.change_session(
            session.session_id,
            status="running",
            started_ms=moment,
            keeper_pid=box.keeper.pid,
            keeper_start_ticks=start_ticks(box.keeper.pid),
        )
        self._ledger.change_sandbox(session.sandbox_name, status_updated_ms=moment)
        self._upkeep.refill()
        return self.get(session.sandbox_name)

    def _close_box(self, session_id: str) -> None:
        with self._lock:
            box = self._boxes.pop(session_id, None)
            self._deadlines.pop(session_id, None)
            is_last = not self._boxes
        if box is None:
            return
        box.close()
        if is_last:
            # Who ended the last sandbox may look for what is left, and there shall be nothing.
            self._factory.drop_spare()
            self._upkeep.refill()

    def _erase(self, name: str) -> None:
        gone = self._ledger.erase(name)
        for session in gone:
            self._close_box(session.session_id)
        for box_id in {session.box_id for session in gone}:
            remove_tree(self._store.boxes / box_id)

    def _view(self, sandbox: Sandbox, session: Session) -> View:
        box = self._boxes.get(session.session_id)
        return View(sandbox, session, {} if box is None else box.routes)

    def _stop_quietly(self, session_id: str, reason: str) -> None:
        try:
            self.stop(session_id, reason)
        except OpencodeMagicError as exc:
            log.warning("session %s could not be stopped: %s", session_id, exc)
