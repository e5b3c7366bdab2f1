"""The routes of files: write an archive, read a file, make a folder."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from opencode_magic.local import files
from opencode_magic.local.payloads import ApiError, bad_request
from opencode_magic.local.requests import read_json, registry_of, session_id_of
from opencode_magic.local.threads import run_later, wait_in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

HEAD_BYTES = 2
log = logging.getLogger(__name__)


def file_routes(prefix: str) -> list[Route]:
    """Give the routes below a session's path."""
    return [
        Route(prefix + "/fs/write", write, methods=["POST"]),
        Route(prefix + "/fs/read", read, methods=["POST"]),
        Route(prefix + "/fs/mkdir", mkdir, methods=["POST"]),
    ]


async def write(request: Request) -> Response:
    """Unpack the archive in the body."""
    folder = request.headers.get("x-cwd") or "/"
    if not folder.startswith("/") or "\0" in folder:
        raise bad_request("x-cwd must be an absolute path")
    box = registry_of(request).box(session_id_of(request))
    head, program = b"", None
    try:
        async for chunk in request.stream():
            if program is not None:
                if not await wait_in_thread(program.write, chunk):
                    break
                continue
            head += chunk
            if len(head) >= HEAD_BYTES:
                program = await wait_in_thread(files.open_archive, box, folder, head)
        if program is None:
            raise ApiError(415, "unsupported_media_type", "the body must be a gzip'd tar archive")
        await wait_in_thread(files.end_archive, program)
    finally:
        if program is not None:
            run_later(program.close)
    return JSONResponse({})


async def read(request: Request) -> Response:
    """Give a file's bytes."""
    body = await read_json(request)
    path = files.resolve(body.get("path"), body.get("cwd"))
    box = registry_of(request).box(session_id_of(request))
    program, first = await wait_in_thread(files.open_file, box, path)
    return _FileResponse(program, first)


async def mkdir(request: Request) -> Response:
    """Make a folder."""
    body = await read_json(request)
    path = files.resolve(body.get("path"), body.get("cwd"))
    box = registry_of(request).box(session_id_of(request))
    is_recursive = body.get("recursive", True) is not False
    await wait_in_thread(files.make_folder, box, path, is_recursive=is_recursive)
    return JSONResponse({})


class _FileResponse(StreamingResponse):
    """Gives what a program reads; the program ends with it, also when nobody listens any more.

    Where the program fails halfway, the connection is cut: a proper end would say that this was
    the whole file.
    """

    def __init__(self, program: files.Program, first: bytes) -> None:
        super().__init__(_content(program, first), media_type="application/octet-stream")
        self._program = program

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except _BrokenOffError:
            log.info("a file could not be read to its end")
        finally:
            # Not awaited: a cancelled task may not wait any more.
            run_later(self._program.close)


class _BrokenOffError(Exception):
    """The program that reads a file did not get to its end."""


async def _content(program: files.Program, first: bytes) -> AsyncIterator[bytes]:
    chunk = first
    while chunk:
        yield chunk
        chunk = await wait_in_thread(program.read)
    try:
        code, _ = await wait_in_thread(program.finish)
    except ApiError as exc:
        raise _BrokenOffError from exc
    if code:
        raise _BrokenOffError
