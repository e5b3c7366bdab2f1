"""The routes of sandboxes, sessions and snapshots."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from opencode_magic.core.policy import NetworkPolicy
from opencode_magic.local.bodies import (
    duration_ms,
    parse_create,
    parse_fork,
    parse_update,
    read_policy,
)
from opencode_magic.local.forwards import check_forwards
from opencode_magic.local.pages import take_page
from opencode_magic.local.payloads import (
    ApiError,
    bad_request,
    route_payloads,
    sandbox_payload,
    session_payload,
    snapshot_payload,
)
from opencode_magic.local.requests import is_set, read_json, registry_of, session_id_of
from opencode_magic.local.retention import parse_expiration
from opencode_magic.local.threads import in_thread, wait_in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from opencode_magic.local.state import View

EXTENSION_LEAST_MS = 1000
SORT_KEYS = {"createdAt", "name", "statusUpdatedAt", "currentSnapshotId"}


def sandbox_routes() -> list[Route]:
    """Give the routes, the fixed paths before those with a name in them."""
    one = "/v2/sandboxes/{name}"
    session = "/v2/sandboxes/sessions/{session_id}"
    snapshot = "/v2/sandboxes/snapshots/{snapshot_id}"
    return [
        Route("/v3/sandboxes", create, methods=["POST"]),
        Route("/v2/sandboxes", query, methods=["GET"]),
        Route("/v2/sandboxes/sessions", query_sessions, methods=["GET"]),
        Route(session, get_session, methods=["GET"]),
        Route(session + "/stop", stop, methods=["POST"]),
        Route(session + "/extend-timeout", extend, methods=["POST"]),
        Route(session + "/network-policy", set_policy, methods=["POST"]),
        Route(session + "/snapshot", take_snapshot, methods=["POST"]),
        Route(session + "/interactive", missing, methods=["POST"]),
        Route("/v2/sandboxes/snapshots", query_snapshots, methods=["GET"]),
        Route(snapshot, get_snapshot, methods=["GET"]),
        Route(snapshot, delete_snapshot, methods=["DELETE"]),
        Route("/v2/sandboxes/drives", missing, methods=["GET"]),
        Route("/v2/sandboxes/drives/{rest:path}", missing, methods=["GET", "POST", "DELETE"]),
        Route(one + "/fork", fork, methods=["POST"]),
        Route(one, get, methods=["GET"]),
        Route(one, update, methods=["PATCH"]),
        Route(one, delete, methods=["DELETE"]),
    ]


async def create(request: Request) -> Response:
    """Create and start a sandbox."""
    wanted = parse_create(await read_json(request))
    _check(request, wanted.policy)
    if not request.app.state.has_extras:
        wanted = replace(wanted, surroundings=None)
    view = await wait_in_thread(registry_of(request).create, wanted)
    return JSONResponse(_full(view))


async def fork(request: Request) -> Response:
    """Create a sandbox from another one's saved files."""
    name, changes = parse_fork(await read_json(request))
    _check_changes(request, changes)
    source = request.path_params["name"]
    view = await in_thread(registry_of(request).fork, source, name, changes)
    return JSONResponse(_full(view))


async def query(request: Request) -> Response:
    """List sandboxes: filtered, sorted, one page."""
    params = request.query_params
    views = [view for view in registry_of(request).views() if _fits(request, view)]
    sort_by = params.get("sortBy", "createdAt")
    if sort_by not in SORT_KEYS:
        raise bad_request(f"unknown sortBy {sort_by!r}")
    payloads = [sandbox_payload(view.sandbox, view.session) for view in views]
    page, pagination = take_page(params, payloads, sort_by=sort_by, id_key="name")
    return JSONResponse({"sandboxes": page, "pagination": pagination})


async def get(request: Request) -> Response:
    """Give a sandbox; with ``resume`` one that runs."""
    registry, name = registry_of(request), request.path_params["name"]
    if is_set(request, "resume"):
        view = await in_thread(registry.resume, name)
    else:
        view = registry.get(name)
    return JSONResponse(_full(view))


async def update(request: Request) -> Response:
    """Change the saved part of a sandbox."""
    changes = parse_update(await read_json(request))
    _check_changes(request, changes)
    name = request.path_params["name"]
    view = await in_thread(registry_of(request).update, name, changes)
    body = _full(view)
    del body["resumed"]
    return JSONResponse(body)


async def delete(request: Request) -> Response:
    """End and remove a sandbox; says where the agent's files are kept."""
    registry = registry_of(request)
    view, kept = await in_thread(
        registry.delete,
        request.path_params["name"],
        discard=is_set(request, "discard"),
        with_snapshots=is_set(request, "deleteOrphanSnapshots"),
    )
    body: dict[str, object] = {"sandbox": sandbox_payload(view.sandbox, view.session)}
    if kept is not None:
        body["kept"] = kept.to_json()
    return JSONResponse(body)


async def query_sessions(request: Request) -> Response:
    """List sessions, newest first, one page."""
    params = request.query_params
    views = registry_of(request).sessions(params.get("name"))
    payloads = [session_payload(view.session, view.sandbox) for view in views]
    page, pagination = take_page(params, payloads, sort_by="requestedAt", id_key="id")
    return JSONResponse({"sessions": page, "pagination": pagination})


async def get_session(request: Request) -> Response:
    """Give a session."""
    view = registry_of(request).session(session_id_of(request))
    body = _session(view)
    body["routes"] = route_payloads(view.routes, view.session.session_id)
    return JSONResponse(body)


async def stop(request: Request) -> Response:
    """End a session."""
    view = await in_thread(registry_of(request).stop, session_id_of(request))
    return JSONResponse({**_session(view), "sandbox": sandbox_payload(view.sandbox, view.session)})


async def extend(request: Request) -> Response:
    """Let a session live longer."""
    body = await read_json(request)
    duration = duration_ms(body.get("duration"), "duration", least=EXTENSION_LEAST_MS)
    view = await in_thread(registry_of(request).extend, session_id_of(request), duration)
    return JSONResponse(_session(view))


async def set_policy(request: Request) -> Response:
    """Put a network policy in force."""
    policy = read_policy(await read_json(request))
    _check(request, policy)
    view = await in_thread(registry_of(request).set_policy, session_id_of(request), policy)
    return JSONResponse(_session(view))


async def take_snapshot(request: Request) -> Response:
    """Save a session's files; the session ends."""
    body = await read_json(request)
    expiration = parse_expiration(body.get("expiration"), "expiration")
    snapshot, view = await in_thread(
        registry_of(request).snapshot, session_id_of(request), expiration
    )
    return JSONResponse({"snapshot": snapshot_payload(snapshot), **_session(view)}, 201)


async def query_snapshots(request: Request) -> Response:
    """List snapshots, newest first, one page."""
    params = request.query_params
    payloads = [snapshot_payload(i) for i in registry_of(request).snapshots.all(params.get("name"))]
    page, pagination = take_page(params, payloads, sort_by="createdAt", id_key="id")
    return JSONResponse({"snapshots": page, "pagination": pagination})


async def get_snapshot(request: Request) -> Response:
    """Give a snapshot."""
    snapshot = registry_of(request).snapshots.get(request.path_params["snapshot_id"])
    return JSONResponse({"snapshot": snapshot_payload(snapshot)})


async def delete_snapshot(request: Request) -> Response:
    """Remove a snapshot."""
    delete_one = registry_of(request).snapshots.delete
    snapshot = await in_thread(delete_one, request.path_params["snapshot_id"])
    return JSONResponse({"snapshot": snapshot_payload(snapshot)})


async def missing(request: Request) -> Response:
    """Say that a part of the API is not here."""
    raise ApiError(501, "not_implemented", f"{request.url.path} is not available here")


def _check(request: Request, policy: NetworkPolicy) -> None:
    check_forwards(policy, may_reach_loopback=request.app.state.may_reach_loopback)


def _check_changes(request: Request, changes: Mapping[str, object]) -> None:
    policy = changes.get("policy")
    if isinstance(policy, NetworkPolicy):
        _check(request, policy)


def _full(view: View) -> dict[str, object]:
    return {
        "sandbox": sandbox_payload(view.sandbox, view.session),
        **_session(view),
        "routes": route_payloads(view.routes, view.session.session_id),
        "resumed": view.is_resumed,
    }


def _session(view: View) -> dict[str, object]:
    return {"session": session_payload(view.session, view.sandbox)}


def _fits(request: Request, view: View) -> bool:
    params = request.query_params
    if not view.sandbox.name.startswith(params.get("namePrefix", "")):
        return False
    project_id = params.get("project", "")
    if project_id and view.sandbox.project_id not in {"", project_id}:
        return False
    for item in params.getlist("tags"):
        # The colon that divides may be any of them: both sides may have some of their own.
        if item not in {f"{key}:{value}" for key, value in view.sandbox.tags.items()}:
            return False
    return True
