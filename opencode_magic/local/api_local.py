"""The local home's own routes: what the server is, a sandbox's egress record, cuts, the end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from opencode_magic.core.policy import canonical_host
from opencode_magic.local.key_search import injected_values
from opencode_magic.local.payloads import ApiError, bad_request
from opencode_magic.local.requests import is_set, read_json, registry_of, session_id_of
from opencode_magic.local.threads import in_thread, wait_in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from starlette.requests import Request

    from opencode_magic.core.egress import EgressRecord
    from opencode_magic.local.firewall.record import EgressLog
    from opencode_magic.local.registry import Registry
    from opencode_magic.local.state import View

WAIT_S = 1.0
"""How long a thread waits for a record before it looks whether anyone still listens."""


def local_routes() -> list[Route]:
    """Give the routes."""
    session = "/local/sessions/{session_id}"
    return [
        Route("/local/info", info, methods=["GET"]),
        Route("/local/shutdown", shutdown, methods=["POST"]),
        Route("/local/sandboxes/{name}/keep", keep, methods=["POST"]),
        Route(session + "/egress", egress, methods=["GET"]),
        Route(session + "/cut", cut, methods=["POST"]),
        Route(session + "/search-key", search_key, methods=["POST"]),
    ]


async def info(request: Request) -> Response:
    """Say what runs here and what is kept."""
    registry = registry_of(request)
    views = registry.views()
    live = [view for view in views if view.session.is_live]
    kept = await in_thread(registry.kept)
    return JSONResponse(
        {
            **request.app.state.info,
            "mappings": sorted({item for view in live for item in _mappings(view)}),
            "sandboxes": [_live_summary(registry, view) for view in live],
            "stopped": [_summary(view) for view in views if not view.session.is_live],
            "kept": [item.to_json() for item in kept],
        }
    )


async def shutdown(request: Request) -> Response:
    """End the server with all its sandboxes."""
    request.app.state.shutdown()
    return JSONResponse({})


async def keep(request: Request) -> Response:
    """Say whether the agent's files outlive a sandbox: ``{"keep": false}`` discards them."""
    body = await read_json(request)
    wanted = body.get("keep")
    if not isinstance(wanted, bool):
        raise bad_request("keep must be true or false")
    name = request.path_params["name"]
    await in_thread(registry_of(request).set_keep, name, is_kept=wanted)
    return JSONResponse({})


async def egress(request: Request) -> Response:
    """Stream a running session's egress records after a number."""
    box = registry_of(request).box(session_id_of(request))
    try:
        after = int(request.query_params.get("after", "0"))
    except ValueError as exc:
        raise bad_request("after must be a number") from exc
    if is_set(request, "follow"):
        lines = _follow(box.egress, after)
        return StreamingResponse(lines, media_type="application/x-ndjson")
    return Response(_lines(box.egress.since(after)), media_type="application/x-ndjson")


async def cut(request: Request) -> Response:
    """Cut the live connections of a running session to a host."""
    body = await read_json(request)
    host = body.get("host")
    name = canonical_host(host) if isinstance(host, str) else None
    if name is None:
        raise bad_request("host must be a host name")
    box = registry_of(request).box(session_id_of(request))
    return JSONResponse({"cut": await in_thread(box.firewall.cut, name)})


async def search_key(request: Request) -> Response:
    """Look for what the firewall injects in a running session's files and processes."""
    registry, session_id = registry_of(request), session_id_of(request)
    policy = registry.session(session_id).session.policy
    found = await in_thread(registry.box(session_id).search, injected_values(policy))
    return JSONResponse(found.to_json())


async def _follow(log: EgressLog, after: int) -> AsyncIterator[bytes]:
    while True:
        is_over = log.is_closed
        records = await wait_in_thread(log.wait, after, timeout_s=WAIT_S)
        if records:
            after = records[-1].seq
            yield _lines(records)
        elif is_over:
            return


def _lines(records: Iterable[EgressRecord]) -> bytes:
    return b"".join(json.dumps(record.to_json()).encode() + b"\n" for record in records)


def _mappings(view: View) -> list[str]:
    return [
        f"{entry.pattern}={rule.forward_url}"
        for entry in view.session.policy.hosts
        for rule in entry.rules
        if rule.forward_url
    ]


def _live_summary(registry: Registry, view: View) -> dict[str, object]:
    """Also say how it goes out, which limits were reached, and what was ended for it."""
    try:
        box = registry.box(view.session.session_id)
    except ApiError:
        return _summary(view)
    limits = [breach.line for breach in list(box.keeper.breaches)]
    return {**_summary(view), "way_out": box.proxy, "limits_reached": limits}


def _summary(view: View) -> dict[str, object]:
    session = view.session
    return {
        "name": view.sandbox.name,
        "session_id": session.session_id,
        "status": session.status,
        "reason": session.stop_reason,
        "created_ms": view.sandbox.created_ms,
        "started_ms": session.started_ms,
        "timeout_ms": session.timeout_ms,
        "tags": dict(view.sandbox.tags),
    }
