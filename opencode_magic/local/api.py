"""The application: every route below ``/api``, who may call it, and how errors are answered."""

from __future__ import annotations

import errno
import hmac
import json
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Router

from opencode_magic.errors import OpencodeMagicError
from opencode_magic.local.api_commands import command_routes
from opencode_magic.local.api_files import file_routes
from opencode_magic.local.api_local import local_routes
from opencode_magic.local.api_sandboxes import sandbox_routes
from opencode_magic.local.payloads import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from opencode_magic.local.registry import Registry

_FULL = ("disk_full", "the disk takes no more")
_NO_FILES = ("too_many_files", "no more files can be open")
_NO_ROOM = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EMFILE: _NO_FILES,
    errno.ENFILE: _NO_FILES,
}
SESSION_PREFIX = "/v2/sandboxes/sessions/{session_id}"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """What the application needs beside the sandboxes."""

    registry: Registry
    token: str = field(repr=False)
    has_extras: bool
    """The local extras are served, and mappings to this machine's loopback are honoured."""
    info: Mapping[str, object]
    """What ``/api/local/info`` says about the server itself."""
    shutdown: Callable[[], None]


class Activity:
    """When the last request was served: a server that nobody asks ends by itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._last = time.monotonic()

    def begin(self) -> None:
        """A request came."""
        with self._lock:
            self._open += 1

    def end(self) -> None:
        """A request was answered."""
        with self._lock:
            self._open -= 1
            self._last = time.monotonic()

    @property
    def idle_s(self) -> float:
        """For how long nobody asked; 0 while somebody waits for an answer."""
        with self._lock:
            return 0.0 if self._open else time.monotonic() - self._last


def build_app(options: ApiOptions, activity: Activity) -> ASGIApp:
    """Give the application, behind its token."""
    routes = [
        *command_routes(SESSION_PREFIX),
        *file_routes(SESSION_PREFIX),
        *sandbox_routes(),
        *(local_routes() if options.has_extras else []),
    ]
    app = Starlette(
        # The SDK follows no redirection, so that none is better than one to the right path.
        routes=[Mount("/api", app=Router(routes, redirect_slashes=False))],
        exception_handlers={
            ApiError: _api_error,
            OpencodeMagicError: _our_error,
            ClientDisconnect: _gone,
            OSError: _os_error,
            404: _http_error,
            405: _http_error,
            500: _bug,
        },
    )
    app.router.redirect_slashes = False
    app.state.registry = options.registry
    app.state.has_extras = app.state.may_reach_loopback = options.has_extras
    app.state.info = options.info
    app.state.shutdown = options.shutdown
    return Guard(app, options.token, activity)


class Guard:
    """Lets in who has the token, and counts who is inside."""

    def __init__(self, app: ASGIApp, token: str, activity: Activity) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()
        self._activity = activity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if not hmac.compare_digest(given, self._expected):
            error = ApiError(401, "unauthorized", "the token is missing or wrong")
            await JSONResponse(error.body(), 401)(scope, receive, send)
            return
        self._activity.begin()
        try:
            await self._app(scope, receive, send)
        finally:
            self._activity.end()


async def _api_error(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, ApiError)
    return JSONResponse(exc.body(), exc.status_code)


async def _our_error(request: Request, exc: Exception) -> Response:
    log.warning("%s %s failed: %s", request.method, request.url.path, exc)
    return JSONResponse(ApiError(500, "internal_error", str(exc)).body(), 500)


async def _os_error(request: Request, exc: Exception) -> Response:
    """Tell a machine that has no room left from a fault of ours."""
    number = getattr(exc, "errno", None)
    if number not in _NO_ROOM:
        return await _bug(request, exc)
    code, message = _NO_ROOM[number]
    log.warning("%s %s failed: %s at %s", request.method, request.url.path, message, _place(exc))
    return JSONResponse(ApiError(507, code, message).body(), 507)


async def _gone(_: Request, __: Exception) -> Response:
    """Nobody is there to read it, and it is nobody's fault."""
    return Response(status_code=499)


async def _http_error(request: Request, exc: Exception) -> Response:
    status = getattr(exc, "status_code", 404)
    code = "method_not_allowed" if status == 405 else "not_found"  # noqa: PLR2004 - HTTP's number
    error = ApiError(status, code, f"no route {request.method} {request.url.path}")
    return JSONResponse(error.body(), status)


async def _bug(request: Request, exc: Exception) -> Response:
    # Only the kind and the place: an exception's text may repeat what a caller sent.
    place = _place(exc)
    log.error("%s %s: %s at %s", request.method, request.url.path, type(exc).__name__, place)
    body = {"error": {"code": "internal_error", "message": f"{type(exc).__name__} at {place}"}}
    return Response(json.dumps(body), 500, media_type="application/json")


def _place(exc: BaseException) -> str:
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "?"
    code = trace.tb_frame.f_code
    return f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name}"
