"""The local server's own calls, beyond the Sandbox API: information, egress records, cuts.

They go over the Unix socket with the standard library alone, so that a ping needs no SDK and a
waiting stream can be ended from another thread.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from opencode_magic.core.egress import EgressRecord, parse_egress_record
from opencode_magic.errors import SandboxConnectionError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROTOCOL = 1
CALL_TIMEOUT_S = 5.0
SEARCH_TIMEOUT_S = 30.0
DESTROY_TIMEOUT_S = 30.0
_LINE_LIMIT_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ServerFile:
    """What the local server writes beside its socket once it accepts."""

    pid: int
    socket: str
    token: str = field(repr=False)
    version: str
    protocol: int
    demo_model_url: str
    opencode_version: str


def load_server_file(path: Path) -> ServerFile | None:
    """Read ``server.json``; None where there is none, it is not whole, or another user wrote it."""
    try:
        with path.open(encoding="utf-8") as file:
            if hasattr(os, "getuid") and os.fstat(file.fileno()).st_uid != os.getuid():
                return None
            value = json.load(file)
        return ServerFile(
            pid=int(value["pid"]),
            socket=str(value["socket"]),
            token=str(value["token"]),
            version=str(value["version"]),
            protocol=int(value["protocol"]),
            demo_model_url=str(value.get("demo_model_url") or ""),
            opencode_version=str(value.get("opencode_version") or ""),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


class _RefusedError(SandboxConnectionError):
    """The server answered with an error status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class KeySearch:
    """What a search for the key saw: kinds of places that hold it, and how much was read."""

    hits: tuple[str, ...]
    files: int
    processes: int
    is_whole: bool


class LocalApi:
    """Calls to the local server. Every call has a connection of its own; safe between threads."""

    def __init__(self, socket_path: str, token: str) -> None:
        self._socket_path = socket_path
        self._token = token

    def info(self, *, timeout_s: float = CALL_TIMEOUT_S) -> dict[str, object]:
        """Say what the server says about itself.

        Raises:
            SandboxConnectionError: It does not answer, or not as it should.
        """
        value = self._call("GET", "/api/local/info", timeout_s=timeout_s)
        if not isinstance(value, dict):
            raise SandboxConnectionError("the local server does not speak as it should")
        return value

    def shutdown(self) -> None:
        """Ask the server to end, with all its sandboxes."""
        self._call("POST", "/api/local/shutdown")

    def cut(self, session_id: str, host: str) -> None:
        """Cut the live connections of a sandbox to a host."""
        self._call("POST", f"/api/local/sessions/{quote(session_id)}/cut", {"host": host})

    def search_key(self, session_id: str) -> KeySearch | None:
        """Look for the injected key inside, from outside; None where the server is too old.

        Raises:
            SandboxConnectionError: It does not answer, or not as it should.
        """
        path = f"/api/local/sessions/{quote(session_id)}/search-key"
        try:
            value = self._call("POST", path, timeout_s=SEARCH_TIMEOUT_S)
        except _RefusedError as exc:
            if exc.status == http.HTTPStatus.NOT_FOUND:
                return None
            raise
        found = value if isinstance(value, dict) else {}
        hits, is_whole = found.get("hits"), found.get("isWhole")
        if not isinstance(hits, list) or not isinstance(is_whole, bool):
            raise SandboxConnectionError("the local server does not speak as it should")
        files, processes = int(found.get("files", 0)), int(found.get("processes", 0))
        return KeySearch(tuple(map(str, hits)), files, processes, is_whole)

    def destroy(self, name: str, *, discard: bool) -> str | None:
        """End and remove a sandbox; the server keeps the agent's files unless told to discard them.

        Returns:
            Where the files are kept, empty where they are not; None where there is no sandbox.

        Raises:
            SandboxConnectionError: The server does not answer, or refused.
        """
        query = f"projectId=local&discard={'true' if discard else 'false'}"
        path = f"/api/v2/sandboxes/{quote(name)}?{query}&deleteOrphanSnapshots=true"
        try:
            value = self._call("DELETE", path, timeout_s=DESTROY_TIMEOUT_S)
        except _RefusedError as exc:
            if exc.status in {http.HTTPStatus.NOT_FOUND, http.HTTPStatus.GONE}:
                return None
            raise
        kept = value.get("kept") if isinstance(value, dict) else None
        return str(kept.get("path") or "") if isinstance(kept, dict) else ""

    def egress(self, session_id: str, after: int) -> tuple[EgressRecord, ...]:
        """Give the records after a number that exist now, oldest first."""
        with contextlib.closing(self.follow(session_id, after, is_following=False)) as stream:
            return tuple(stream)

    def follow(self, session_id: str, after: int, *, is_following: bool = True) -> EgressStream:
        """Open the stream of records after a number.

        Raises:
            SandboxConnectionError: It cannot be opened.
        """
        follow = "true" if is_following else "false"
        path = f"/api/local/sessions/{quote(session_id)}/egress?after={after}&follow={follow}"
        connection = self._connect(CALL_TIMEOUT_S)
        try:
            response = self._send(connection, "GET", path, None)
        except BaseException:
            connection.close()
            raise
        if is_following:
            # A quiet sandbox says nothing for hours; close() ends the wait.
            connection.sock.settimeout(None)
        return EgressStream(connection, response)

    def _call(
        self,
        method: str,
        path: str,
        body: dict[str, str] | None = None,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> object:
        with contextlib.closing(self._connect(timeout_s)) as connection:
            response = self._send(connection, method, path, body)
            try:
                text = response.read()
                return json.loads(text) if text.strip() else None
            except (OSError, http.client.HTTPException, ValueError) as exc:
                raise SandboxConnectionError("the local server broke off its answer") from exc

    def _connect(self, timeout_s: float) -> _UnixConnection:
        return _UnixConnection(self._socket_path, timeout_s)

    def _send(
        self, connection: _UnixConnection, method: str, path: str, body: dict[str, str] | None
    ) -> http.client.HTTPResponse:
        headers = {"authorization": f"Bearer {self._token}"}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["content-type"] = "application/json"
        try:
            connection.request(method, path, body=data, headers=headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as exc:
            msg = f"the local server does not answer: {exc}"
            raise SandboxConnectionError(msg, next_step="launch again: %opencode_up") from exc
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            msg = f"the local server answered {response.status} to {path.partition('?')[0]}"
            raise _RefusedError(msg, response.status)
        return response


class EgressStream:
    """An open stream of egress records; ends when the server ends it or ``close`` is called."""

    def __init__(self, connection: _UnixConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response

    def __iter__(self) -> Iterator[EgressRecord]:
        """Yield records as they come. A broken stream ends quietly; resume by number."""
        while True:
            try:
                line = self._response.readline(_LINE_LIMIT_BYTES)
            except (OSError, ValueError, AttributeError, http.client.HTTPException):
                return
            if not line:
                return
            if not line.strip():
                continue
            try:
                yield parse_egress_record(json.loads(line))
            except ValueError:
                continue

    def close(self) -> None:
        """End the stream, also for a thread that waits in it."""
        self._connection.end()
        # The waiting thread owns the response's buffer; it is closed when that thread leaves.
        self._connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, socket_path: str, timeout_s: float) -> None:
        super().__init__("local", timeout=timeout_s)
        self._socket_path = socket_path

    def connect(self) -> None:
        # AF_UNIX is missing from the socket module on Windows, where there is no local home.
        family = cast("int", getattr(socket, "AF_UNIX", 0))
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._socket_path)
        except BaseException:
            self.close()
            raise

    def end(self) -> None:
        """Wake whoever waits on the socket."""
        with contextlib.suppress(OSError, AttributeError):
            self.sock.shutdown(socket.SHUT_RDWR)
