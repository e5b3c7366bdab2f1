"""Saved files of sandboxes. A sandbox's folder holds only what changed: that is what is copied."""

from __future__ import annotations

import os
import secrets
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from opencode_magic.errors import SandboxError
from opencode_magic.local import image
from opencode_magic.local.payloads import ApiError
from opencode_magic.local.state import Snapshot
from opencode_magic.local.store import copy_tree, measure, remove_tree

if TYPE_CHECKING:
    from opencode_magic.local.state import Sandbox, Session
    from opencode_magic.local.store import Store

SAVED = ("home", "tmp")
"""The folders of a sandbox that are on disk and the agent's."""
DEFAULT_EXPIRATION_MS = 30 * 24 * 3_600_000


class Snapshots:
    """The snapshots of this server. Safe to use from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._items = {item.snapshot_id: item for item in store.load_snapshots()}

    def all(self, name: str | None = None) -> list[Snapshot]:
        """Give the snapshots, oldest first; of one sandbox where it is named."""
        with self._lock:
            found = [item for item in self._items.values() if name in {None, item.sandbox_name}]
        return sorted(found, key=lambda item: item.created_ms)

    def get(self, snapshot_id: str) -> Snapshot:
        """Give a snapshot.

        Raises:
            ApiError: There is none.
        """
        with self._lock:
            snapshot = self._items.get(snapshot_id)
        if snapshot is None:
            raise ApiError(404, "snapshot_not_found", "Snapshot not found.")
        return snapshot

    def fold(
        self, sandbox: Sandbox, session: Session, *, moment_ms: int, expiration_ms: int | None
    ) -> Snapshot:
        """Save the files of a session that has ended.

        Args:
            sandbox: Whose session it is.
            session: It must have no process any more.
            moment_ms: Now.
            expiration_ms: How long to keep it; 0 for ever; None as the sandbox says.

        Raises:
            ApiError: The files cannot be copied.
        """
        lifetime = sandbox.snapshot_expiration_ms if expiration_ms is None else expiration_ms
        lifetime = DEFAULT_EXPIRATION_MS if lifetime is None else lifetime
        snapshot_id = f"snap_{secrets.token_hex(8)}"
        folder = self._store.snapshot_folder(snapshot_id)
        try:
            folder.mkdir(mode=0o700)
            for name in SAVED:
                copy_tree(self._store.boxes / session.box_id / name, folder / name)
        except (SandboxError, OSError) as exc:
            remove_tree(folder)
            raise ApiError(507, "snapshot_failed", str(exc)) from exc
        snapshot = Snapshot(
            snapshot_id=snapshot_id,
            project_id=sandbox.project_id,
            session_id=session.session_id,
            sandbox_name=sandbox.name,
            size_bytes=measure(folder)[1],
            created_ms=moment_ms,
            updated_ms=moment_ms,
            last_used_ms=moment_ms,
            expires_ms=moment_ms + lifetime if lifetime else None,
        )
        self._store.save_snapshot(snapshot)
        with self._lock:
            self._items[snapshot_id] = snapshot
        return snapshot

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
        snapshot = replace(self.get(snapshot_id), last_used_ms=moment_ms)
        try:
            folder = self._store.boxes / box_id
            folder.mkdir(mode=0o700, exist_ok=True)
            for name in SAVED:
                copy_tree(self._store.snapshot_folder(snapshot_id) / name, folder / name)
                if owner != os.geteuid():
                    image.give_to(folder / name, owner)
        except (SandboxError, OSError) as exc:
            raise ApiError(507, "snapshot_failed", str(exc)) from exc
        self._store.save_snapshot(snapshot)
        with self._lock:
            self._items[snapshot_id] = snapshot

    def delete(self, snapshot_id: str) -> Snapshot:
        """Remove a snapshot.

        Raises:
            ApiError: There is none.
        """
        snapshot = self.get(snapshot_id)
        with self._lock:
            self._items.pop(snapshot_id, None)
        self._store.delete_snapshot(snapshot_id)
        return replace(snapshot, status="deleted")

    def expire(self, moment_ms: int) -> None:
        """Remove the snapshots whose time is over."""
        for item in self.all():
            if item.expires_ms is not None and item.expires_ms <= moment_ms:
                self.delete(item.snapshot_id)
