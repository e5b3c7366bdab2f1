"""What every route asks of a request: its JSON, its flags, its session, its registry."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from opencode_magic.local.payloads import ApiError, bad_request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from opencode_magic.local.registry import Registry

BODY_LIMIT_BYTES = 16 * 1024 * 1024


def registry_of(request: Request) -> Registry:
    """Give the registry that the application was made with."""
    # Starlette's state is untyped; `api.build_app` sets it.
    return request.app.state.registry  # type: ignore[no-any-return]


def session_id_of(request: Request) -> str:
    """Give the session that the path names."""
    return str(request.path_params["session_id"])


def is_set(request: Request, name: str) -> bool:
    """Whether a query flag is true."""
    return request.query_params.get(name, "") in {"true", "1"}


async def read_json(request: Request) -> Mapping[str, object]:
    """Read a JSON object from the body; an empty body is an empty object.

    Raises:
        ApiError: The body is too long, or is something else.
    """
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > BODY_LIMIT_BYTES:
            raise ApiError(413, "body_too_large", "the body is too large")
        chunks.append(chunk)
    raw = b"".join(chunks)
    if not raw.strip():
        return {}
    try:
        body = json.loads(raw)
        if b"\\u" in raw:
            # Half of a surrogate pair can be written in JSON, and nothing can be done with it.
            json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as exc:
        raise bad_request("the body is not JSON") from exc
    if not isinstance(body, dict):
        raise bad_request("the body must be an object")
    return body
