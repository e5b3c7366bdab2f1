"""Saved files of sandboxes. A sandbox's folder holds only what changed: that is what is copied."""

from __future__ import annotations

import os
import secrets
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from opencode_magic.errors import SandboxError
from opencode_magic.local import image, retention
from opencode_magic.local.payloads import ApiError
from opencode_magic.local.state import Snapshot
from opencode_magic.local.store import copy_tree, measure, remove_tree

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from opencode_magic.local.state import Sandbox, View
    from opencode_magic.local.store import Store

SAVED = ("home", "tmp")
"""The folders of a sandbox that are on disk and the agent's."""


class Snapshots:
    """The snapshots of this server. Safe to use from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._items = {item.snapshot_id: item for item in store.load_snapshots()}
        self._held: Counter[str] = Counter()

    def all(self, name: str | None = None) -> list[Snapshot]:
        """Give the snapshots, oldest first; of one sandbox where it is named."""
        with self._lock:
            found = [item for item in self._items.values() if name in {None, item.sandbox_name}]
        return sorted(found, key=lambda item: item.created_ms)

    def has(self, snapshot_id: str) -> bool:
        """Whether there is such a snapshot."""
        with self._lock:
            return snapshot_id in self._items

    def get(self, snapshot_id: str) -> Snapshot:
        """Give a snapshot.

        Raises:
            ApiError: There is none.
        """
        with self._lock:
            snapshot = self._items.get(snapshot_id)
        if snapshot is None:
            raise _missing()
        return snapshot

    @contextmanager
    def held(self, snapshot_id: str) -> Iterator[None]:
        """Keep a snapshot from being taken away by time or by count; an empty id is harmless.

        Raises:
            ApiError: There is no such snapshot.
        """
        with self._lock:
            if snapshot_id and snapshot_id not in self._items:
                raise _missing()
            self._held[snapshot_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._held[snapshot_id] -= 1
                self._held += Counter()  # what is at nought is forgotten

    def fold(
        self,
        sandbox: Sandbox,
        session_id: str,
        box_id: str,
        *,
        moment_ms: int,
        expiration_ms: int | None,
    ) -> Snapshot:
        """Save the files of a session that has ended.

        Args:
            sandbox: Whose session it is.
            session_id: It must have no process any more.
            box_id: Its folder.
            moment_ms: Now.
            expiration_ms: How long to keep it after each use; 0 for ever; None as the sandbox says.

        Raises:
            ApiError: The files cannot be copied.
        """
        lifetime = retention.lifetime_ms(sandbox) if expiration_ms is None else expiration_ms
        snapshot_id = f"snap_{secrets.token_hex(8)}"
        folder = self._store.snapshot_folder(snapshot_id)
        try:
            folder.mkdir(mode=0o700)
            for name in SAVED:
                copy_tree(self._store.boxes / box_id / name, folder / name)
        except (SandboxError, OSError) as exc:
            remove_tree(folder)
            raise ApiError(507, "snapshot_failed", str(exc)) from exc
        snapshot = Snapshot(
            snapshot_id=snapshot_id,
            project_id=sandbox.project_id,
            session_id=session_id,
            sandbox_name=sandbox.name,
            size_bytes=measure(folder)[1],
            created_ms=moment_ms,
            updated_ms=moment_ms,
            last_used_ms=moment_ms,
            expires_ms=moment_ms + lifetime if lifetime else None,
            lifetime_ms=lifetime,
        )
        self._keep(snapshot)
        return snapshot

    def fold_end(self, view: View, moment_ms: int, expiration_ms: int | None = None) -> Snapshot:
        """Save the files of a sandbox's last session, which has ended; see `fold`."""
        return self.fold(
            view.sandbox,
            view.session.session_id,
            view.session.box_id,
            moment_ms=moment_ms,
            expiration_ms=expiration_ms,
        )

    def end_of(self, view: View, moment_ms: int) -> str:
        """Give the snapshot of a session's end, made now where a persistent sandbox has none.

        Returns:
            Its id; empty where the sandbox is not persistent and nothing was saved.
        """
        for item in self.all(view.sandbox.name):
            if item.session_id == view.session.session_id:
                return item.snapshot_id
        return self.fold_end(view, moment_ms).snapshot_id if view.sandbox.is_persistent else ""

    def unfold(self, snapshot_id: str, box_id: str, *, owner: int, moment_ms: int) -> None:
        """Copy a snapshot's files to the folder of a sandbox in which nothing was run yet.

        Args:
            snapshot_id: Which one.
            box_id: The folder, whose files then belong to...
            owner: ...this user id of the host.
            moment_ms: Now.

        Raises:
            ApiError: There is no such snapshot, or its files cannot be copied.
        """
        with self.held(snapshot_id):
            snapshot = _used(self.get(snapshot_id), moment_ms)
            try:
                folder = self._store.boxes / box_id
                folder.mkdir(mode=0o700, exist_ok=True)
                for name in SAVED:
                    copy_tree(self._store.snapshot_folder(snapshot_id) / name, folder / name)
                    if owner != os.geteuid():
                        image.give_to(folder / name, owner)
            except (SandboxError, OSError) as exc:
                raise ApiError(507, "snapshot_failed", str(exc)) from exc
            self._keep(snapshot)

    def delete(self, snapshot_id: str) -> Snapshot:
        """Remove a snapshot.

        Raises:
            ApiError: There is none, or a sandbox is being made from it.
        """
        snapshot = self.get(snapshot_id)
        if not self.discard(snapshot_id):
            raise ApiError(409, "conflict", "a sandbox is being made from this snapshot")
        return replace(snapshot, status="deleted")

    def discard(self, snapshot_id: str) -> bool:
        """Remove a snapshot, unless a sandbox is being made from it: then it stays."""
        with self._lock:
            if self._held[snapshot_id]:
                return False
            self._items.pop(snapshot_id, None)
        # Nobody can find it any more, so nobody copies what goes now.
        self._store.delete_snapshot(snapshot_id)
        return True

    def expire(self, moment_ms: int) -> None:
        """Remove the snapshots whose time is over."""
        for item in self.all():
            is_over = item.expires_ms is not None and item.expires_ms <= moment_ms
            if is_over:
                self.discard(item.snapshot_id)

    def retain(self, sandbox: Sandbox, in_use: Collection[str], moment_ms: int) -> None:
        """Take away what falls out of a sandbox's retention, or let it live for a while.

        Args:
            sandbox: Whose snapshots are counted.
            in_use: Snapshots that a sandbox was made from: they stay.
            moment_ms: Now.
        """
        for item in retention.evicted(sandbox, self.all(sandbox.name), in_use):
            if retention.is_deleted_when_evicted(sandbox):
                self.discard(item.snapshot_id)
            else:
                lifetime = retention.lifetime_ms(sandbox, is_evicted=True)
                self._keep(_used(replace(item, lifetime_ms=lifetime, is_evicted=True), moment_ms))

    def _keep(self, snapshot: Snapshot) -> None:
        self._store.save_snapshot(snapshot)
        with self._lock:
            self._items[snapshot.snapshot_id] = snapshot


def _used(snapshot: Snapshot, moment_ms: int) -> Snapshot:
    """Give a snapshot as its use leaves it: its time begins again."""
    lifetime = snapshot.lifetime_ms
    if not lifetime and snapshot.expires_ms is not None:
        lifetime = snapshot.expires_ms - snapshot.created_ms  # from a record without the field
    expires_ms = moment_ms + lifetime if lifetime else None
    return replace(snapshot, last_used_ms=moment_ms, expires_ms=expires_ms, lifetime_ms=lifetime)


def nothing_saved(wish: str) -> ApiError:
    """Give the error of a sandbox that has no files to do this with."""
    return ApiError(410, "snapshot_not_found", f"Cannot {wish} sandbox: no snapshot available.")


def _missing() -> ApiError:
    return ApiError(404, "snapshot_not_found", "Snapshot not found.")
