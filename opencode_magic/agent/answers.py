"""An HTTP answer of the agent server -> a bounded value, or one of our errors.

A program inside may have taken the server's place: what it sends must not fill our memory, and
whatever it is, it is either JSON that can be read or one clear line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from opencode_magic.core.stored import parse_fault
from opencode_magic.core.wire import parse_json
from opencode_magic.errors import AgentApiError, AgentConnectionError

if TYPE_CHECKING:
    from collections.abc import Iterable

ANSWER_LIMIT_BYTES = 64 * 1024 * 1024
"""A prompt may have 20 MB and stands in the stored messages, where JSON may double it."""
AS_IT_IS = {"accept-encoding": "identity"}
"""Asks for an answer that is not packed: one that is would have to be unpacked to be measured."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was read whole."""

    status: int
    path: str
    headers: httpx.Headers
    body: bytes = field(repr=False)

    @property
    def is_success(self) -> bool:
        """Whether the server did what was asked."""
        return httpx.codes.is_success(self.status)

    def value(self) -> object:
        """Give the JSON that it holds; bytes that are no UTF-8 become U+FFFD.

        Raises:
            ValueError: It holds none, or more than an honest one.
        """
        return parse_json(self.body.decode("utf-8", "replace"))


def read_answer(answer: httpx.Response, *, limit_bytes: int = ANSWER_LIMIT_BYTES) -> Answer:
    """Read a whole answer, which is as long as an honest one at most.

    Raises:
        AgentConnectionError: It is too long, or packed though nobody asked for that.
        httpx.TransportError: Its connection broke, or it took too long.
    """
    body = bytearray()  # pieces of two bytes each would take twenty times their size in a list
    is_packed = answer.headers.get("content-encoding", "identity") != "identity"
    pieces: Iterable[bytes] = () if is_packed else answer.iter_raw()
    for piece in pieces:
        body += piece
        if len(body) > limit_bytes:
            break
    if is_packed or len(body) > limit_bytes:
        raise AgentConnectionError(
            f"the agent server's answer is packed, or longer than {limit_bytes >> 20} MB",
            next_step="launch again: %opencode_up",
        )
    return Answer(answer.status_code, answer.request.url.path, answer.headers, bytes(body))


def json_of(answer: Answer) -> object:
    """Give the JSON of an answer; a page instead of it means that the path does not exist.

    Raises:
        AgentApiError: There is none.
    """
    if answer.status == httpx.codes.NO_CONTENT:
        return None
    try:
        return answer.value()
    except ValueError as error:
        raise AgentApiError(
            f"the agent server did not answer {answer.path} with JSON",
            status_code=answer.status,
            next_step="check that the sandbox runs OpenCode 1.18: %opencode_doctor",
        ) from error


def refused(answer: Answer) -> AgentApiError:
    """Give the error for an answer that is not a success, whatever its body is."""
    if answer.status == httpx.codes.UNAUTHORIZED:
        return AgentApiError(
            "the agent server does not know this password: it is another server, or it was "
            "started again",
            status_code=answer.status,
            next_step="launch again: %opencode_up",
        )
    try:
        body = answer.value()
    except ValueError:
        body = {"message": answer.body[:300].decode("utf-8", "replace")}
    fault = parse_fault(body)
    return AgentApiError(
        fault.message if fault.message != "UnknownError" else f"HTTP {answer.status}",
        status_code=answer.status,
        name=fault.name,
    )


def lost(error: httpx.TransportError) -> AgentConnectionError:
    """Give the error for a connection that could not be made, broke or took too long."""
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
