"""Calls to one OpenCode server: sessions, prompts, abort, permissions, stored messages.

Source: the HTTP API of OpenCode 1.18.33 (``/session``, ``/event``, ``/permission``).
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import httpx

from opencode_magic.agent.answers import AS_IT_IS, json_of, lost, read_answer, refused
from opencode_magic.agent.transport import BoundedTransport, within
from opencode_magic.core.opencode import USERNAME
from opencode_magic.core.stored import (
    as_id,
    as_list,
    as_object,
    as_text,
    parse_permission,
    parse_stored,
)
from opencode_magic.errors import AgentApiError, AgentConnectionError, AgentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opencode_magic.agent.answers import Answer
    from opencode_magic.core.parts import Message, PermissionRequest
    from opencode_magic.core.permissions import PermissionReply
    from opencode_magic.core.prompt import Prompt

CALL_TIMEOUT_S = 10.0
"""What a call may take as a whole, from its connection to the last byte of its answer."""
MESSAGES_TIMEOUT_S = 60.0
"""The same for all pages of a session's messages, which may be megabytes on a slow line."""
READY_TIMEOUT_S = 120.0
STREAM_SILENCE_S = 30.0
"""OpenCode sends a heartbeat every 10 s; after three missing ones the connection is dead."""
MESSAGES_LIMIT = 50
PAGES_LIMIT = 40
STORED_LIMIT_BYTES = 128 * 1024 * 1024
STORED_LIMIT_PARTS = 20_000
"""All pages together: twice what a turn may have."""
CHILDREN_LIMIT = REQUESTS_LIMIT = 2_001
"""One more than a turn may have, so that the turn's own limit says it."""
_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")


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
            raise lost(error) from error
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
        timeout_s: What a call may take, where it has no limit of its own.
    """

    def __init__(
        self, url: str, password: str, directory: str, *, timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        self.url = url.rstrip("/")
        self.directory = directory
        self.is_warm = False
        """Whether a prompt has been answered: the first one takes longer."""
        self._ready_lock = threading.Lock()
        self._is_ready = False
        self._timeout_s = timeout_s
        # httpx reads proxies from the environment otherwise, and they would get loopback requests.
        self._http = httpx.Client(
            base_url=self.url,
            auth=(USERNAME, password),
            params={"directory": directory},
            trust_env=False,
            # A redirect would take the password to where a hostile server wants it.
            follow_redirects=False,
            transport=BoundedTransport(keep=4, is_tls=self.url.startswith("https:")),
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
        answer = self._request("GET", "/config/providers", timeout_s=READY_TIMEOUT_S)
        found = as_object(json_of(answer))
        providers = [as_object(provider) for provider in as_list(found.get("providers"))]
        return {
            as_text(provider.get("id")): tuple(as_object(provider.get("models")))
            for provider in providers
        }

    def create_session(self, title: str) -> str:
        """Make a session and give its id. The title must not be empty: a model would be asked."""
        session = as_object(self._call("POST", "/session", {"title": title or "notebook"}))
        return path_id(as_text(session.get("id")))

    def fork_session(self, session_id: str, *, before_id: str = "") -> str:
        """Copy a session up to a message, which is left out; give the copy's id."""
        body = {"messageID": before_id} if before_id else {}
        forked = as_object(self._call("POST", f"/session/{path_id(session_id)}/fork", body))
        return path_id(as_text(forked.get("id")))

    def delete_session(self, session_id: str) -> None:
        """Forget a session."""
        self._call("DELETE", f"/session/{path_id(session_id)}")

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
        self._call("PATCH", f"/session/{path_id(session_id)}", {"permission": rules})

    def prompt(self, session_id: str, prompt: Prompt) -> Message | None:
        """Send a prompt and wait, without a limit, until the session is done with it.

        Returns:
            The last message, which may hold a fault. After an early abort it is the user's own.

        Raises:
            AgentApiError: The server refused it. Often the reason is only in a session's fault.
            AgentConnectionError: The connection broke; the turn may go on.
        """
        path = f"/session/{path_id(session_id)}/message"
        answer = self._request("POST", path, body=self.prompt_body(prompt), timeout_s=None)
        self.is_warm = True
        return parse_stored(json_of(answer))

    def prompt_body(self, prompt: Prompt) -> Mapping[str, object]:
        """Give what is posted for a prompt."""
        return {"parts": [{"type": "text", "text": prompt.text}]}

    def abort(self, session_id: str, *, timeout_s: float = 2.0) -> None:
        """Ask the session to stop. The server says yes even where nothing runs yet."""
        self._request("POST", f"/session/{path_id(session_id)}/abort", timeout_s=timeout_s)

    def messages(
        self, session_id: str, *, after_id: str = "", timeout_s: float = MESSAGES_TIMEOUT_S
    ) -> tuple[Message, ...]:
        """Give the stored messages, oldest first.

        Args:
            session_id: Whose messages.
            after_id: Read back to this message, which is left out; empty for all.
            timeout_s: What all pages together may take.
        """
        with within(timeout_s):
            return self._pages(session_id, after_id)

    def _pages(self, session_id: str, after_id: str) -> tuple[Message, ...]:
        found: list[Message] = []
        cursor = ""
        room_bytes, room_parts = STORED_LIMIT_BYTES, STORED_LIMIT_PARTS
        for _ in range(PAGES_LIMIT):
            params = {"limit": str(MESSAGES_LIMIT), **({"before": cursor} if cursor else {})}
            answer = self._page(session_id, params)
            items = islice(as_list(json_of(answer)), MESSAGES_LIMIT)
            page = [message for message in map(parse_stored, items) if message is not None]
            found = page + found
            room_bytes -= len(answer.body)
            room_parts -= sum(len(message.parts) for message in page)
            if room_bytes < 0 or room_parts < 0:
                raise AgentConnectionError("the stored messages are more than can be read")
            cursor = answer.headers.get("x-next-cursor", "")
            if not cursor or (after_id and found and found[0].message_id <= after_id):
                break
        return tuple(message for message in found if message.message_id > after_id)

    def last_message_id(self, session_id: str) -> str:
        """Give the id of the newest stored message; empty where there is none."""
        params = {"limit": "1"}
        found = as_list(json_of(self._page(session_id, params)))
        infos = (as_object(as_object(message).get("info")) for message in found)
        return max((as_id(info.get("id")) for info in infos), default="")

    def _page(self, session_id: str, params: Mapping[str, str]) -> Answer:
        path = f"/session/{path_id(session_id)}/message"
        return self._request("GET", path, params=params, timeout_s=self._timeout_s)

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
        found = as_list(self._call("GET", f"/session/{path_id(session_id)}/children"))
        first = islice(found, CHILDREN_LIMIT)
        return frozenset(as_id(as_object(child).get("id")) for child in first)

    def permissions(self) -> tuple[PermissionRequest, ...]:
        """Give the requests that nobody answered, of all sessions; some may be stale."""
        first = islice(as_list(self._call("GET", "/permission")), REQUESTS_LIMIT)
        found = (parse_permission(item) for item in first)
        return tuple(request for request in found if request is not None)

    def reply_permission(self, request_id: str, reply: PermissionReply) -> None:
        """Answer a permission request."""
        body = {"reply": reply.kind, **({"message": reply.message} if reply.message else {})}
        self._call("POST", f"/permission/{path_id(request_id)}/reply", body)

    def reject_question(self, request_id: str) -> None:
        """Refuse to answer a question."""
        self._call("POST", f"/question/{path_id(request_id)}/reject", {})

    @contextmanager
    def events(self) -> Iterator[EventStream]:
        """Open the event stream of this folder.

        Raises:
            AgentError: It cannot be opened.
        """
        timeout = httpx.Timeout(self._timeout_s, read=STREAM_SILENCE_S)
        stream = self._http.stream("GET", "/event", headers=AS_IT_IS, timeout=timeout)
        try:
            with ExitStack() as stack:
                with within(self._timeout_s):
                    response = stack.enter_context(stream)
                    if not response.is_success:
                        raise refused(read_answer(response))
                yield EventStream(response)
        except httpx.TransportError as error:
            raise lost(error) from error

    def _call(self, method: str, path: str, body: object = None) -> object:
        return json_of(self._request(method, path, body=body, timeout_s=self._timeout_s))

    def _request(
        self,
        method: str,
        path: str,
        *,
        timeout_s: float | None,
        body: object = None,
        params: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request; the whole answer comes within ``timeout_s``, None is no limit."""
        content = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"content-type": "application/json"}
        timeout = httpx.Timeout(self._timeout_s, read=timeout_s, write=None)
        try:
            with (
                within(timeout_s),
                self._http.stream(
                    method,
                    path,
                    content=content,
                    headers={**AS_IT_IS, **headers},
                    params=params,
                    timeout=timeout,
                ) as response,
            ):
                answer = read_answer(response)
        except httpx.TransportError as error:
            raise lost(error) from error
        except (httpx.HTTPError, httpx.InvalidURL, RuntimeError) as error:
            # RuntimeError is what httpx raises for a client that was closed meanwhile.
            raise AgentConnectionError(f"the call to the agent server failed: {error}") from error
        if not answer.is_success:
            raise refused(answer)
        return answer


def path_id(found: str) -> str:
    """Give an id of the server as a part of a path.

    Raises:
        AgentApiError: It is none: it would make another path, and so another request.
    """
    if _ID.fullmatch(found) is None:
        raise AgentApiError(
            f"the agent server gave an id that is none: {found[:40]!r}",
            next_step="launch again: %opencode_up",
        )
    return found
