"""Calls to one OpenCode server: sessions, prompts, abort, permissions, stored messages.

Source: the HTTP API of OpenCode 1.18.33 (``/session``, ``/event``, ``/permission``).
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from opencode_magic.core.opencode import USERNAME
from opencode_magic.core.stored import (
    as_list,
    as_object,
    as_text,
    parse_fault,
    parse_permission,
    parse_stored,
)
from opencode_magic.errors import AgentApiError, AgentConnectionError, AgentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opencode_magic.core.parts import Message, PermissionRequest
    from opencode_magic.core.permissions import PermissionReply
    from opencode_magic.core.prompt import Prompt

CALL_TIMEOUT_S = 10.0
READY_TIMEOUT_S = 120.0
STREAM_SILENCE_S = 30.0
"""OpenCode sends a heartbeat every 10 s; after three missing ones the connection is dead."""
ANSWER_LIMIT_BYTES = 64 * 1024 * 1024
AS_IT_IS = {"accept-encoding": "identity"}
MESSAGES_LIMIT = 50
PAGES_LIMIT = 40


@dataclass(frozen=True, slots=True)
class EventStream:
    """An open event stream. ``close`` may be called from any thread and ends the reading."""

    response: httpx.Response

    def chunks(self) -> Iterator[bytes]:
        """Give the bytes as they come.

        Raises:
            AgentConnectionError: The stream broke, or no byte came for too long.
        """
        try:
            yield from self.response.iter_raw()
        except httpx.TransportError as error:
            raise _lost(error) from error
        except httpx.StreamError as error:
            raise AgentConnectionError("the event stream was closed") from error

    def close(self) -> None:
        """End the stream: a reader that waits for bytes wakes up at once."""
        stream = self.response.extensions.get("network_stream")
        connection = stream.get_extra_info("socket") if stream is not None else None
        if connection is not None:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it is closed already


class AgentClient:
    """One OpenCode server, as one user, in one folder.

    Safe to use from several threads. Every failure is an ``AgentError``.

    Args:
        url: The server's origin, as the kernel reaches it.
        password: Of this start of the server.
        directory: The workspace inside the sandbox.
    """

    def __init__(self, url: str, password: str, directory: str) -> None:
        self.url = url.rstrip("/")
        self.directory = directory
        self.is_warm = False
        """Whether a prompt has been answered: the first one takes longer."""
        self._ready_lock = threading.Lock()
        self._is_ready = False
        # httpx reads proxies from the environment otherwise, and they would get loopback requests.
        self._http = httpx.Client(
            base_url=self.url,
            auth=(USERNAME, password),
            params={"directory": directory},
            timeout=CALL_TIMEOUT_S,
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=4),
        )

    def __repr__(self) -> str:
        return f"<AgentClient: {self.url}>"

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def health(self) -> str:
        """Give the server's version."""
        return as_text(as_object(self._call("GET", "/global/health")).get("version"))

    def make_ready(self) -> None:
        """Have the server load its models, once; waits until that is done.

        OpenCode 1.18.33 loads them at the first use, and where an abort comes in between it keeps
        the failure: every later prompt is answered with HTTP 500 (measured). A request that is
        dropped in between may do the same, so call this from a thread that no Interrupt reaches.

        Raises:
            AgentApiError: The configuration is broken; the message says where.
        """
        with self._ready_lock:
            if not self._is_ready:
                self.models()
                self._is_ready = True

    def start_making_ready(self) -> None:
        """Do the same in the background; a failure shows at the first prompt."""
        threading.Thread(
            target=self._make_ready_quietly, name="opencode-ready", daemon=True
        ).start()

    def _make_ready_quietly(self) -> None:
        with contextlib.suppress(AgentError):
            self.make_ready()

    def models(self) -> Mapping[str, tuple[str, ...]]:
        """Give the models that can be used, by provider.

        Raises:
            AgentApiError: The configuration is broken; the message says where.
        """
        found = as_object(self._call("GET", "/config/providers", timeout_s=READY_TIMEOUT_S))
        providers = [as_object(provider) for provider in as_list(found.get("providers"))]
        return {
            as_text(provider.get("id")): tuple(as_object(provider.get("models")))
            for provider in providers
        }

    def create_session(self, title: str) -> str:
        """Make a session and give its id. The title must not be empty: a model would be asked."""
        session = as_object(self._call("POST", "/session", {"title": title or "notebook"}))
        return as_text(session.get("id"))

    def fork_session(self, session_id: str, *, before_id: str = "") -> str:
        """Copy a session up to a message, which is left out; give the copy's id."""
        body = {"messageID": before_id} if before_id else {}
        forked = as_object(self._call("POST", f"/session/{session_id}/fork", body))
        return as_text(forked.get("id"))

    def delete_session(self, session_id: str) -> None:
        """Forget a session."""
        self._call("DELETE", f"/session/{session_id}")

    def set_permissions(self, session_id: str, actions: Mapping[str, str]) -> None:
        """Say for a session what is allowed, asked for or denied, by permission; the last counts.

        Sub-agents of OpenCode 1.18 inherit what is denied and not what must be asked. So where
        something must be asked there are no sub-agents.
        """
        task = "deny" if "ask" in actions.values() else "allow"
        rules = [
            {"permission": permission, "pattern": "*", "action": action}
            for permission, action in {"task": task, **actions}.items()
        ]
        self._call("PATCH", f"/session/{session_id}", {"permission": rules})

    def prompt(self, session_id: str, prompt: Prompt) -> Message | None:
        """Send a prompt and wait, without a limit, until the session is done with it.

        Returns:
            The last message, which may hold a fault. After an early abort it is the user's own.

        Raises:
            AgentApiError: The server refused it. Often the reason is only in a session's fault.
            AgentConnectionError: The connection broke; the turn may go on.
        """
        path = f"/session/{session_id}/message"
        answer = self._call("POST", path, self.prompt_body(prompt), timeout_s=None)
        self.is_warm = True
        return parse_stored(answer)

    def prompt_body(self, prompt: Prompt) -> Mapping[str, object]:
        """Give what is posted for a prompt."""
        return {"parts": [{"type": "text", "text": prompt.text}]}

    def abort(self, session_id: str, *, timeout_s: float = 2.0) -> None:
        """Ask the session to stop. The server says yes even where nothing runs yet."""
        self._call("POST", f"/session/{session_id}/abort", timeout_s=timeout_s)

    def messages(self, session_id: str, *, after_id: str = "") -> tuple[Message, ...]:
        """Give the stored messages, oldest first.

        Args:
            session_id: Whose messages.
            after_id: Read back to this message, which is left out; empty for all.
        """
        found: list[Message] = []
        cursor = ""
        for _ in range(PAGES_LIMIT):
            params = {"limit": str(MESSAGES_LIMIT), **({"before": cursor} if cursor else {})}
            response = self._request("GET", f"/session/{session_id}/message", params=params)
            page = [parse_stored(item) for item in as_list(_json(response))]
            found = [message for message in page if message is not None] + found
            cursor = response.headers.get("x-next-cursor", "")
            if not cursor or (after_id and found and found[0].message_id <= after_id):
                break
        return tuple(message for message in found if message.message_id > after_id)

    def last_message_id(self, session_id: str) -> str:
        """Give the id of the newest stored message; empty where there is none."""
        params = {"limit": "1"}
        response = self._request("GET", f"/session/{session_id}/message", params=params)
        ids = [
            as_text(as_object(as_object(m).get("info")).get("id")) for m in as_list(_json(response))
        ]
        return max(ids, default="")

    def busy_sessions(self) -> frozenset[str]:
        """Give the sessions that are not idle."""
        found = as_object(self._call("GET", "/session/status"))
        return frozenset(
            session_id
            for session_id, status in found.items()
            if as_object(status).get("type") != "idle"
        )

    def children(self, session_id: str) -> frozenset[str]:
        """Give the sessions that sub-agents of this one work in."""
        found = as_list(self._call("GET", f"/session/{session_id}/children"))
        return frozenset(as_text(as_object(child).get("id")) for child in found)

    def permissions(self) -> tuple[PermissionRequest, ...]:
        """Give the requests that nobody answered, of all sessions; some may be stale."""
        found = (parse_permission(item) for item in as_list(self._call("GET", "/permission")))
        return tuple(request for request in found if request is not None)

    def reply_permission(self, request_id: str, reply: PermissionReply) -> None:
        """Answer a permission request."""
        body = {"reply": reply.kind, **({"message": reply.message} if reply.message else {})}
        self._call("POST", f"/permission/{request_id}/reply", body)

    def reject_question(self, request_id: str) -> None:
        """Refuse to answer a question."""
        self._call("POST", f"/question/{request_id}/reject", {})

    @contextmanager
    def events(self) -> Iterator[EventStream]:
        """Open the event stream of this folder.

        Raises:
            AgentError: It cannot be opened.
        """
        timeout = httpx.Timeout(CALL_TIMEOUT_S, read=STREAM_SILENCE_S)
        try:
            with self._http.stream("GET", "/event", headers=AS_IT_IS, timeout=timeout) as response:
                if not response.is_success:
                    raise _refused(read_answer(response))
                yield EventStream(response)
        except httpx.TransportError as error:
            raise _lost(error) from error

    def _call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        timeout_s: float | None = CALL_TIMEOUT_S,
    ) -> object:
        timeout = httpx.Timeout(CALL_TIMEOUT_S, read=timeout_s, write=None)
        return _json(self._request(method, path, body=body, timeout=timeout))

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        params: Mapping[str, str] | None = None,
        timeout: httpx.Timeout | None = None,
    ) -> httpx.Response:
        content = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"content-type": "application/json"}
        try:
            with self._http.stream(
                method,
                path,
                content=content,
                headers={**AS_IT_IS, **headers},
                params=params,
                timeout=timeout or CALL_TIMEOUT_S,
            ) as answer:
                response = read_answer(answer)
        except httpx.TransportError as error:
            raise _lost(error) from error
        except (httpx.HTTPError, httpx.InvalidURL, RuntimeError) as error:
            # RuntimeError is what httpx raises for a client that was closed meanwhile.
            raise AgentConnectionError(f"the call to the agent server failed: {error}") from error
        if not response.is_success:
            raise _refused(response)
        return response


def read_answer(answer: httpx.Response) -> httpx.Response:
    """Read a whole answer, which is as long as an honest one at most.

    A program inside may have taken the server's place: what it sends must not fill our memory.

    Raises:
        AgentConnectionError: It is too long, or packed though nobody asked for that.
    """
    pieces, size = [], 0
    is_packed = answer.headers.get("content-encoding", "identity") != "identity"
    for piece in () if is_packed else answer.iter_raw():
        pieces.append(piece)
        size += len(piece)
        if size > ANSWER_LIMIT_BYTES:
            break
    if is_packed or size > ANSWER_LIMIT_BYTES:
        raise AgentConnectionError(
            f"the agent server's answer is packed, or longer than {ANSWER_LIMIT_BYTES >> 20} MB",
            next_step="launch again: %opencode_up",
        )
    framing = {"transfer-encoding", "content-length"}
    headers = [pair for pair in answer.headers.multi_items() if pair[0].lower() not in framing]
    content = b"".join(pieces)
    return httpx.Response(
        answer.status_code, headers=headers, content=content, request=answer.request
    )


def _json(response: httpx.Response) -> object:
    """Give the JSON of an answer; a page instead of it means that the path does not exist."""
    if response.status_code == httpx.codes.NO_CONTENT:
        return None
    try:
        parsed: object = response.json()
    except ValueError as error:
        raise AgentApiError(
            f"the agent server did not answer {response.request.url.path} with JSON",
            status_code=response.status_code,
            next_step="check that the sandbox runs OpenCode 1.18: %opencode_doctor",
        ) from error
    return parsed


def _refused(response: httpx.Response) -> AgentApiError:
    """Give the error for an answer that is not a success, whatever its body is."""
    status = response.status_code
    if status == httpx.codes.UNAUTHORIZED:
        return AgentApiError(
            "the agent server does not know this password: it is another server, or it was "
            "started again",
            status_code=status,
            next_step="launch again: %opencode_up",
        )
    try:
        body: object = response.json()
    except ValueError:
        body = {"message": response.text[:300]}
    fault = parse_fault(body)
    return AgentApiError(
        fault.message if fault.message != "UnknownError" else f"HTTP {status}",
        status_code=status,
        name=fault.name,
    )


def _lost(error: httpx.TransportError) -> AgentConnectionError:
    kinds: tuple[tuple[type[httpx.TransportError], str], ...] = (
        (httpx.ConnectError, "the agent server cannot be reached"),
        (httpx.ConnectTimeout, "the agent server cannot be reached"),
        (httpx.TimeoutException, "the agent server did not answer in time"),
    )
    text = next((text for kind, text in kinds if isinstance(error, kind)), "")
    return AgentConnectionError(
        text or "the connection to the agent server broke",
        next_step="look with %opencode_status; launch again with %opencode_up",
    )
