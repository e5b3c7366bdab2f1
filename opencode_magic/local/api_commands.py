"""The routes of commands: run, create, find, wait, logs, signal, stdin."""

from __future__ import annotations

import codecs
import json
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from opencode_magic.errors import OpencodeMagicError
from opencode_magic.local.bodies import parse_input, parse_run
from opencode_magic.local.children import (
    ArgumentsTooLongError,
    BadFolderError,
    ExecutableNotFoundError,
)
from opencode_magic.local.commands import StdinUnavailableError
from opencode_magic.local.payloads import ApiError, bad_request
from opencode_magic.local.requests import is_set, read_json, registry_of, session_id_of
from opencode_magic.local.threads import batches, in_thread, until_ended, wait_in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from starlette.requests import Request

    from opencode_magic.local.bodies import RunRequest
    from opencode_magic.local.box import Box, RunningCommand
    from opencode_magic.local.commands import Output

NDJSON = "application/x-ndjson"
LINE_BYTES = 256 * 1024
SIGNALS = range(1, 65)


class StdinTimeoutError(ApiError):
    """A command does not read its input; says how much it took."""

    def __init__(self, bytes_written: int) -> None:
        super().__init__(504, "stdin_timeout", "the command does not read its input")
        self.bytes_written = bytes_written

    def body(self) -> dict[str, object]:
        """Give the error body of the wire."""
        detail = {"code": self.code, "message": self.message, "bytesWritten": self.bytes_written}
        return {"error": detail}


def command_routes(prefix: str) -> list[Route]:
    """Give the routes below a session's path."""
    one = prefix + "/cmd/{command_id}"
    return [
        Route(prefix + "/cmd", create, methods=["POST"]),
        Route(prefix + "/cmd", query, methods=["GET"]),
        Route(one, get, methods=["GET"]),
        Route(one + "/logs", logs, methods=["GET"]),
        Route(one + "/kill", kill, methods=["POST"]),
        Route(one + "/stdin", stdin, methods=["POST"]),
    ]


async def create(request: Request) -> Response:
    """Start a command; with ``wait`` its start and end are streamed, with ``logs`` all of its run.

    Both may stand in the query or in the body: the Python SDK sends both, the JavaScript one the
    body's alone.
    """
    body = await read_json(request)
    wanted = parse_run(body)
    if wanted.is_sudo:
        raise ApiError(501, "not_implemented", "sudo is not available in the local home")
    box = registry_of(request).box(session_id_of(request))
    is_waited = is_set(request, "wait") or wanted.is_waited
    running = await in_thread(start, box, wanted, is_group_ended=is_waited)
    if not is_waited:
        return _one(request, running)
    has_logs = is_set(request, "logs") or wanted.has_logs
    lines = _run_lines(running, session_id_of(request), has_logs=has_logs)
    return StreamingResponse(lines, media_type=NDJSON)


async def query(request: Request) -> Response:
    """List a session's commands, oldest first."""
    session_id = session_id_of(request)
    found = registry_of(request).box(session_id).all()
    return JSONResponse({"commands": [item.payload(session_id) for item in found]})


async def get(request: Request) -> Response:
    """Give a command; with ``wait`` once it has ended."""
    running = _find(request)
    if is_set(request, "wait"):
        await until_ended(running.command)
    return _one(request, running)


async def logs(request: Request) -> Response:
    """Stream a command's output from its start until its end."""
    return StreamingResponse(_log_lines(_find(request)), media_type=NDJSON)


async def kill(request: Request) -> Response:
    """Send a signal to a command and its children."""
    body = await read_json(request)
    number = body.get("signal", 15)
    if not isinstance(number, int) or isinstance(number, bool) or number not in SIGNALS:
        raise bad_request("signal must be a signal's number")
    running = _find(request)
    await in_thread(running.command.signal, number)
    return _one(request, running)


async def stdin(request: Request) -> Response:
    """Give a command input, or tell how much it took; see `_feed`."""
    body = await read_json(request)
    running = _find(request)
    content, offset, is_end = parse_input(body)
    await wait_in_thread(_feed, running, content, offset=offset, is_end=is_end)
    return JSONResponse(
        {
            "command": running.payload(session_id_of(request)),
            "bytesWritten": running.bytes_written,
        }
    )


def start(box: Box, wanted: RunRequest, *, is_group_ended: bool) -> RunningCommand:
    """Start a command in a running sandbox.

    Raises:
        ApiError: There is no such program or folder, its arguments are too long, or the sandbox
            has just ended.
    """
    try:
        return box.run(wanted, is_group_ended=is_group_ended)
    except ExecutableNotFoundError as exc:
        message = f"exec: {wanted.command!r}: executable file not found in $PATH"
        raise ApiError(400, "executable_not_found", message) from exc
    except BadFolderError as exc:
        message = f"chdir {wanted.cwd}: no such file or directory"
        raise ApiError(400, "bad_request", message) from exc
    except ArgumentsTooLongError as exc:
        raise bad_request(exc.message, code="argument_list_too_long") from exc
    except OpencodeMagicError as exc:
        if not box.is_alive:
            raise ApiError(410, "sandbox_stopped", "Sandbox is stopped") from exc
        raise ApiError(500, "command_failed", exc.message) from exc


def _feed(running: RunningCommand, data: bytes, *, offset: int | None, is_end: bool) -> None:
    """Write what has not arrived yet: a repeated chunk is known by its offset.

    Who neither writes nor closes asks for the count, and whether the command takes any more.
    """
    with running.stdin_lock:
        if not (data or is_end or running.command.takes_input):
            raise ApiError(400, "command_stdin_unavailable", "the command takes no input")
        if offset is not None:
            if offset > running.bytes_written:
                raise bad_request("offset is beyond what was written")
            data = data[running.bytes_written - offset :]
        if not data and not is_end:
            return
        try:
            if data:
                taken = running.command.write_stdin(data)
                running.bytes_written += taken
                if taken < len(data):
                    raise StdinTimeoutError(running.bytes_written)
            if is_end:
                running.command.close_stdin()
        except StdinUnavailableError as exc:
            raise ApiError(400, "command_stdin_unavailable", str(exc)) from exc


def _find(request: Request) -> RunningCommand:
    box = registry_of(request).box(session_id_of(request))
    return box.find(request.path_params["command_id"])


def _one(request: Request, running: RunningCommand) -> Response:
    return JSONResponse({"command": running.payload(session_id_of(request))})


async def _run_lines(
    running: RunningCommand, session_id: str, *, has_logs: bool
) -> AsyncIterator[bytes]:
    first = running.payload(session_id)
    yield _line({"command": {**first, "exitCode": None}})
    if has_logs:
        async for chunk in _log_lines(running):
            yield chunk
    await until_ended(running.command)
    yield _line({"command": running.payload(session_id)})


async def _log_lines(running: RunningCommand) -> AsyncIterator[bytes]:
    make = codecs.getincrementaldecoder("utf-8")
    decoders = {"stdout": make(errors="replace"), "stderr": make(errors="replace")}
    async for outputs in batches(running.command):
        for stream, data in _joined(outputs):
            text = decoders[stream].decode(data)
            if text:
                yield _line({"stream": stream, "data": text})
    for stream, decoder in decoders.items():
        if text := decoder.decode(b"", final=True):
            yield _line({"stream": stream, "data": text})


def _joined(outputs: list[Output]) -> Iterable[tuple[str, bytes]]:
    """Join neighbours of the same stream, up to a limit: one line of the answer for them."""
    current, parts, size = "", list[bytes](), 0
    for output in outputs:
        if parts and (output.stream != current or size > LINE_BYTES):
            yield current, b"".join(parts)
            parts, size = [], 0
        current = output.stream
        parts.append(output.data)
        size += len(output.data)
    if parts:
        yield current, b"".join(parts)


def _line(body: dict[str, object]) -> bytes:
    return json.dumps(body).encode() + b"\n"
