"""Serves the requests of one connection whose HTTP the firewall can read."""

from __future__ import annotations

import contextlib
import select
import ssl
import time
from typing import TYPE_CHECKING

import h11

from opencode_magic.local.firewall.connections import drain
from opencode_magic.local.firewall.exchange import (
    IDLE_TIMEOUT_S,
    ClientGoneError,
    Exchange,
    Side,
    UpstreamFailedError,
    has_body,
)
from opencode_magic.local.firewall.judge import Judgement, Origin, judge
from opencode_magic.local.firewall.peer import Peer, PeerClosedError, wait_any
from opencode_magic.local.firewall.record import Outcome
from opencode_magic.local.firewall.resolve import AddressRefusedError, UnreachableError
from opencode_magic.local.firewall.rewrite import (
    Headers,
    failure_text,
    refusal_text,
    response_headers,
    text_headers,
    upstream_request,
)
from opencode_magic.local.firewall.upstreams import Kept, Upstreams
from opencode_magic.local.firewall.wall import at_request

if TYPE_CHECKING:
    import socket

    from opencode_magic.core.policy import FixedResponse
    from opencode_magic.local.firewall.connections import Connection
    from opencode_magic.local.firewall.record import Attempt
    from opencode_magic.local.firewall.wall import Wall

HEAD_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 30.0
LINGER_S = 1.0
REASON_NOT_HTTP = "not HTTP/1.1"
REASON_DISTRUST = "the program does not trust the sandbox's certificates"
REASON_SILENT = "it ended before it asked for anything"
_WITHOUT_BODY = {204, 304}


class HttpService:
    """One client connection, from its first request to its end. Runs in one thread."""

    def __init__(
        self, wall: Wall, connection: Connection, origin: Origin, sock: socket.socket
    ) -> None:
        self._wall = wall
        self._connection = connection
        self._origin = origin
        self._client = Side.facing_client(Peer(sock))
        self._upstreams = Upstreams(wall, connection, origin)
        self._connection_id = connection.attempt.connection
        self._base = connection.attempt
        self._count = 0
        self._is_refused = False
        self._has_body = False
        self._is_head = False

    def run(self) -> bool:
        """Serve until either side ends. Never raises for what they do.

        Returns:
            Whether an answer broke off, so that the connection must end with a reset.
        """
        try:
            while self._serve_one():
                pass
        except PeerClosedError as exc:
            self._tell_nothing_came(exc)
        except ClientGoneError:
            return True
        self._client.peer.say_end()
        return False

    def _serve_one(self) -> bool:
        event = self._next_request()
        if event is None:
            self._tell_nothing_came(None)
            return False
        self._count += 1
        self._has_body = has_body(event)
        self._is_head = event.method == b"HEAD"
        judgement = self._judge(event)
        attempt = at_request(self._base, f"{self._connection_id}.{self._count}", judgement.request)
        if not judgement.is_allowed:
            self._connection.request = None
            return self._refuse(attempt, judgement.reason, judgement.status_code)
        self._connection.attempt = attempt
        try:
            if judgement.rule is not None and judgement.rule.response is not None:
                return self._give_fixed(attempt, judgement.rule.response)
            return self._forward(attempt, judgement, event)
        finally:
            self._connection.request = None

    def _judge(self, event: h11.Request) -> Judgement:
        """Decide by the policy in force, which may change at any moment.

        The connection holds the request before the policy is looked at again: whoever changes the
        policy after that sees the request and cuts it where it must.
        """
        while True:
            policy = self._wall.policy
            judgement = judge(policy, self._origin, event)
            self._connection.rule = judgement.rule
            self._connection.request = judgement.request
            if policy is self._wall.policy:
                return judgement

    def _next_request(self) -> h11.Request | None:
        """Wait for the head of the next request; None where there is none."""
        client = self._client
        deadline_s = time.monotonic() + (IDLE_TIMEOUT_S if self._count else HEAD_TIMEOUT_S)
        has_begun = False
        needs_bytes = not client.has_unparsed
        while True:
            try:
                event = h11.NEED_DATA if needs_bytes else client.http.next_event()
            except h11.RemoteProtocolError as exc:
                self._is_refused = True
                self._refuse(self._base, REASON_NOT_HTTP, exc.error_status_hint)
                return None
            if isinstance(event, h11.Request):
                return event
            if event is not h11.NEED_DATA:
                return None
            while (data := client.peer.read() if client.peer.may_read else None) is None:
                if not wait_any([(client.peer, select.POLLIN)], deadline_s):
                    return None
            if not has_begun:
                has_begun = True
                deadline_s = time.monotonic() + HEAD_TIMEOUT_S
            client.take(data)
            needs_bytes = False

    def _give_fixed(self, attempt: Attempt, fixed: FixedResponse) -> bool:
        self._wall.allow(attempt, "answered by a rule of the network policy")
        body = fixed.body.encode("utf-8", "replace")
        return self._answer(fixed.status_code, response_headers(fixed, len(body)), body)

    def _forward(self, attempt: Attempt, judgement: Judgement, event: h11.Request) -> bool:
        try:
            route = self._upstreams.find_route(judgement)
        except AddressRefusedError as exc:
            return self._refuse(attempt, str(exc), 403)
        except UnreachableError as exc:
            self._wall.allow(attempt, judgement.reason)
            return self._fail(attempt, str(exc))
        self._wall.allow(attempt, route.target.told(judgement.reason))
        try:
            request = upstream_request(event, judgement, route)
            kept = self._upstreams.open(judgement, route)
        except UnreachableError as exc:
            return self._fail(attempt, str(exc))
        except h11.LocalProtocolError:
            return self._fail(attempt, "a rule gives the request a malformed header")
        return self._exchange(attempt, judgement, kept, request)

    def _exchange(
        self, attempt: Attempt, judgement: Judgement, kept: Kept, request: h11.Request
    ) -> bool:
        is_injected = judgement.rule is not None and judgement.rule.headers is not None
        exchange = Exchange(self._client, kept.side, may_pass_trailers=not is_injected)
        try:
            exchange.start(request)
            exchange.run()
        except ClientGoneError:
            self._tell_end(attempt, exchange, "the program went away")
            raise
        except UpstreamFailedError as exc:
            if exchange.has_answer_begun or self._connection.is_cut:
                self._tell_end(attempt, exchange, str(exc))
                self._send_the_rest()
                raise ClientGoneError from exc
            self._upstreams.drop(kept)
            return self._fail(attempt, str(exc))
        self._tell_end(attempt, exchange, "")
        self._upstreams.give_back(kept)
        return self._may_go_on()

    def _send_the_rest(self) -> None:
        """Let the program have what came of an answer that broke off."""
        peer = self._client.peer
        with contextlib.suppress(PeerClosedError):
            peer.flush_all(timeout_s=LINGER_S)
            drain(peer.sock, timeout_s=LINGER_S)

    def _may_go_on(self) -> bool:
        http = self._client.http
        if http.our_state is h11.DONE and http.their_state is h11.DONE:
            http.start_next_cycle()
            return True
        if http.their_state in {h11.SEND_BODY, h11.ERROR, h11.IDLE}:
            self._client.peer.linger(timeout_s=LINGER_S)
        return False

    def _refuse(self, attempt: Attempt, reason: str, status_code: int) -> bool:
        """Record and answer a request that goes no further; the connection ends."""
        self._wall.block(attempt, reason, status_code=status_code)
        body = refusal_text(attempt.host, reason)
        headers = [*text_headers(body), ("x-opencode-magic-blocked", reason)]
        self._answer(status_code, headers, body, is_last=True)
        return False

    def _fail(self, attempt: Attempt, problem: str) -> bool:
        """Answer for an upstream that gave no answer."""
        outcome = Outcome("allowed", problem, status_code=502, is_end=True)
        self._wall.record.append(attempt, outcome)
        body = failure_text(attempt.host, problem)
        return self._answer(502, text_headers(body), body)

    def _answer(
        self, status_code: int, headers: Headers, body: bytes, *, is_last: bool = False
    ) -> bool:
        """Give an answer of our own; whether another request may follow it."""
        client = self._client
        if is_last or self._has_body:
            headers = [*headers, ("connection", "close")]
        events: list[h11.Event] = [h11.Response(status_code=status_code, headers=headers)]
        if body and not self._is_head and status_code not in _WITHOUT_BODY:
            events.append(h11.Data(data=body))
        try:
            for event in (*events, h11.EndOfMessage()):
                client.peer.write(client.http.send(event))
        except h11.LocalProtocolError as exc:
            raise ClientGoneError from exc
        client.peer.flush_all(timeout_s=ANSWER_TIMEOUT_S)
        if client.http.their_state is h11.SEND_BODY and not self._has_body:
            client.http.next_event()  # the end of a request without a body
        return self._may_go_on()

    def _tell_nothing_came(self, exc: Exception | None) -> None:
        """Record a connection that never asked for anything."""
        if self._count or self._is_refused:
            return
        cause = exc.__cause__ if exc is not None else None
        is_distrust = isinstance(cause, ssl.SSLError) and "ALERT" in (cause.reason or "")
        if is_distrust:
            self._wall.block(self._base, REASON_DISTRUST)
        else:
            # A connection that was opened ahead of need: nothing was tried, nothing refused.
            outcome = Outcome("allowed", REASON_SILENT, is_end=True)
            self._wall.record.append(self._base, outcome)

    def _tell_end(self, attempt: Attempt, exchange: Exchange, problem: str) -> None:
        self._connection.bytes_out += exchange.bytes_out
        self._connection.bytes_in += exchange.bytes_in
        outcome = Outcome(
            "allowed",
            self._connection.cut_reason or problem or "ended",
            exchange.status_code,
            exchange.bytes_out,
            exchange.bytes_in,
            is_end=True,
        )
        self._wall.record.append(attempt, outcome)
