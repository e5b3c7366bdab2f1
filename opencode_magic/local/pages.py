"""One page of a list, and the cursor of the next one.

A cursor names the last item that was given, not how many there were before it: what is created or
removed between two requests moves no other item out of the list, or into it twice.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from opencode_magic.local.payloads import bad_request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PAGE_DEFAULT = 20
PAGE_LIMIT = 50
Item = dict[str, object]


def take_page(
    params: Mapping[str, str], items: Sequence[Item], *, sort_by: str, id_key: str
) -> tuple[list[Item], dict[str, object]]:
    """Sort a list, and cut the page that a query asks for.

    Args:
        params: The query: ``limit``, ``cursor`` and ``sortOrder``, which is ``desc`` by default.
        items: The whole list, as the API shows it, in any order.
        sort_by: The field that orders it; an item without it comes as if it were empty.
        id_key: The field that tells two items with the same place apart.

    Returns:
        The page, and its ``pagination``.

    Raises:
        ApiError: The query is malformed.
    """
    order = params.get("sortOrder", "desc")
    if order not in {"asc", "desc"}:
        raise bad_request("sortOrder must be 'asc' or 'desc'")
    limit = _limit(params.get("limit", str(PAGE_DEFAULT)))
    placed = sorted(((_place(item, sort_by, id_key), item) for item in items), key=lambda at: at[0])
    if "cursor" in params:
        last = _parse_cursor(params["cursor"])
        is_after = last.__lt__ if order == "asc" else last.__gt__
        placed = [pair for pair in placed if is_after(pair[0])]
    if order == "desc":
        placed.reverse()
    page = placed[:limit]
    following = _cursor(page[-1][0]) if len(placed) > limit else None
    return [item for _, item in page], {"count": len(page), "next": following, "prev": None}


def _place(item: Item, sort_by: str, id_key: str) -> tuple[str, str]:
    value = item.get(sort_by, "")
    # Numbers as text of one length: they sort as numbers do, and travel as text.
    return (f"{value:020}" if isinstance(value, int) else str(value)), str(item[id_key])


def _cursor(place: tuple[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _parse_cursor(text: str) -> tuple[str, str]:
    try:
        place = json.loads(base64.urlsafe_b64decode(text.encode()))
    except (ValueError, RecursionError):
        place = None
    match place:
        case [str(key), str(name)]:
            return key, name
    raise bad_request("cursor is not one that a list gave")


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= PAGE_LIMIT):
        raise bad_request(f"limit must be a number from 1 to {PAGE_LIMIT}")
    return int(text)
