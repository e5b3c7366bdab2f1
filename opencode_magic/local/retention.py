"""How long snapshots are kept, and how many of a sandbox: what the API's two fields mean.

``snapshotExpiration`` is the lifetime of a sandbox's snapshots, counted from their last use.
``keepLastSnapshots`` keeps the newest ``count`` of them, for a lifetime of their own where it
names one; what falls out is deleted, or lives on for the sandbox's lifetime from then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opencode_magic.local.payloads import bad_request

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from opencode_magic.local.state import Sandbox, Snapshot

DAY_MS = 24 * 3_600_000
DEFAULT_EXPIRATION_MS = 30 * DAY_MS
LONGEST_EXPIRATION_MS = 3650 * DAY_MS
COUNT_LIMIT = 100


def parse_expiration(value: object, where: str) -> int | None:
    """Parse a lifetime in milliseconds; 0 is for ever, None is not said.

    Raises:
        ApiError: It is neither, nor from one day to ten years.
    """
    if value is None:
        return None
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if is_number and (value == 0 or DAY_MS <= value <= LONGEST_EXPIRATION_MS):  # type: ignore[operator] # a number by then
        return int(value)  # type: ignore[call-overload, no-any-return] # the same
    raise bad_request(f"{where} must be 0 or from one day to ten years, in milliseconds")


def parse_retention(value: object) -> dict[str, object] | None:
    """Parse ``keepLastSnapshots`` into the form that is kept and shown; None is no retention.

    Raises:
        ApiError: A field is unknown or malformed.
    """
    if value is None:
        return None
    where = "keepLastSnapshots"
    if not isinstance(value, dict):
        raise bad_request(f"{where} must be an object")
    if unknown := value.keys() - {"count", "expiration", "deleteEvicted"}:
        raise bad_request(f"{where} should NOT have additional property {min(unknown)!r}")
    count, is_deleted = value.get("count"), value.get("deleteEvicted", True)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= COUNT_LIMIT:
        raise bad_request(f"{where}.count must be a number from 1 to {COUNT_LIMIT}")
    if not isinstance(is_deleted, bool):
        raise bad_request(f"{where}.deleteEvicted must be true or false")
    expiration = parse_expiration(value.get("expiration"), f"{where}.expiration")
    named = {} if expiration is None else {"expiration": expiration}
    return {"count": count, **named, "deleteEvicted": is_deleted}


def lifetime_ms(sandbox: Sandbox, *, is_evicted: bool = False) -> int:
    """Give how long a snapshot of a sandbox lives after its last use; 0 is for ever."""
    kept = sandbox.keep_last_snapshots or {}
    for found in (None if is_evicted else kept.get("expiration"), sandbox.snapshot_expiration_ms):
        if isinstance(found, int):
            return found
    return DEFAULT_EXPIRATION_MS


def is_deleted_when_evicted(sandbox: Sandbox) -> bool:
    """Whether a snapshot that falls out of a sandbox's retention is removed at once."""
    return (sandbox.keep_last_snapshots or {}).get("deleteEvicted") is not False


def evicted(
    sandbox: Sandbox, snapshots: Sequence[Snapshot], in_use: Collection[str]
) -> list[Snapshot]:
    """Give the snapshots that fall out of a sandbox's retention, oldest first.

    Args:
        sandbox: Whose snapshots they are; those of an earlier one of its name do not count.
        snapshots: Those of its name, oldest first.
        in_use: Snapshots that some sandbox stands on: they stay, and take nobody's place.
    """
    count = (sandbox.keep_last_snapshots or {}).get("count")
    if not isinstance(count, int) or count < 1:
        return []
    own = [item for item in snapshots if item.created_ms >= sandbox.created_ms]
    return [item for item in own[:-count] if item.snapshot_id not in in_use and not item.is_evicted]
