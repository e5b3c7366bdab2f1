"""One request and its response, passed between a program inside and an upstream, both ways.

Nothing is buffered beyond what the slower side still has to take. h11 parses and frames both
sides; after a protocol switch (WebSocket) bytes are passed as they come.
"""

from __future__ import annotations

import select
import time
from dataclasses import dataclass

import h11

from opencode_magic.local.firewall.head import HEAD_LIMIT_BYTES, plain_headers
from opencode_magic.local.firewall.peer import Peer, PeerClosedError, wait_any
from opencode_magic.local.firewall.rewrite import is_about_websocket

IDLE_TIMEOUT_S = 900.0
BULK_BYTES = 256 * 1024
"""With more than this to come of a body of known length, its bytes pass h11 by: only counted."""
_SWITCHING = 101


class ClientGoneError(Exception):
    """The program inside went away."""


class UpstreamFailedError(Exception):
    """The upstream did not give a whole response; the message says why."""


@dataclass(slots=True)
class Side:
    """One side of an exchange: its socket and its HTTP state."""

    peer: Peer
    http: h11.Connection

    @classmethod
    def facing_client(cls, peer: Peer) -> Side:
        """Take the part of the server."""
        return cls(peer, h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT_BYTES))

    @classmethod
    def facing_upstream(cls, peer: Peer) -> Side:
        """Take the part of the client."""
        return cls(peer, h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT_BYTES))

    @property
    def has_unparsed(self) -> bool:
        """Whether bytes were taken that HTTP has not looked at."""
        return bool(self.http.trailing_data[0])

    def take(self, data: memoryview) -> None:
        """Let HTTP have what was read; it keeps a copy."""
        self.http.receive_data(data)  # type: ignore[arg-type]  # any bytes-like object will do


class Exchange:
    """Passes one request, whose head was read from the client already."""

    def __init__(
        self,
        client: Side,
        upstream: Side,
        *,
        may_pass_trailers: bool,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
    ) -> None:
        self.status_code = 0
        self.bytes_out = 0
        self.bytes_in = 0
        self.has_answer_begun = False
        self._client = client
        self._upstream = upstream
        self._may_pass_trailers = may_pass_trailers
        self._idle_timeout_s = idle_timeout_s
        self._is_answered = False
        self._is_switched = False
        self._is_upstream_deaf = False
        self._has_early_bytes = False
        self._needs_answer_bytes = not upstream.has_unparsed
        self._has_length = False
        self._body_left = 0
        self._is_bulk = False

    def start(self, request: h11.Request) -> None:
        """Give the upstream the request's head."""
        head = self._upstream.http.send(request)
        self.bytes_out += len(head or b"")
        self._upstream.peer.write(head)
        if not has_body(request):
            self._flush()

    def run(self) -> None:
        """Pass everything.

        Raises:
            ClientGoneError: The program went away before the end.
            UpstreamFailedError: The upstream did not answer, or stopped in the middle.
        """
        while not self._is_over():
            moved = self._move_request()
            moved |= self._flush()
            moved |= self._watch_client()
            if self._move_response():
                moved = True
                self._flush()
            if not moved and not self._is_over():
                self._wait()
        if self._is_switched:
            self._tunnel()

    def _is_over(self) -> bool:
        return (self._is_answered or self._is_switched) and not self._client.peer.has_unsent

    def _move_request(self) -> bool:
        client, upstream = self._client, self._upstream
        moved = False
        while client.http.their_state is h11.SEND_BODY and not upstream.peer.is_full:
            try:
                event = client.http.next_event()
            except h11.RemoteProtocolError as exc:
                raise ClientGoneError from exc
            if event is h11.NEED_DATA:
                if not self._read_client():
                    break
            elif isinstance(event, h11.Data):
                self._send_upstream(event)
            elif isinstance(event, h11.EndOfMessage):
                self._send_upstream(event if self._may_pass_trailers else h11.EndOfMessage())
            moved = True
        return moved

    def _watch_client(self) -> bool:
        """Read on after the request: that shows whether the program is still there."""
        if self._client.http.their_state is h11.SEND_BODY or self._has_early_bytes:
            return False
        return self._read_client()

    def _read_client(self) -> bool:
        peer = self._client.peer
        try:
            data = peer.read() if peer.may_read else None
        except PeerClosedError as exc:
            raise ClientGoneError from exc
        if data is None:
            return False
        if not data:
            raise ClientGoneError
        if self._client.http.their_state is not h11.SEND_BODY:
            self._has_early_bytes = True
        self._client.take(data)
        return True

    def _send_upstream(self, event: h11.Data | h11.EndOfMessage) -> None:
        if not self._is_upstream_deaf:
            for piece in self._upstream.http.send_with_data_passthrough(event) or ():
                self.bytes_out += len(piece)
                self._upstream.peer.write(piece)

    def _move_response(self) -> bool:
        client, upstream = self._client, self._upstream
        moved = False
        while not (self._is_answered or self._is_switched or client.peer.is_full):
            try:
                if self._needs_answer_bytes:
                    data = self._read_upstream()
                    if data is None:
                        break
                    if self._is_bulk:
                        self._pass_bulk(data)
                        moved = True
                        continue
                    upstream.take(data)
                event = upstream.http.next_event()
            except h11.RemoteProtocolError as exc:
                raise UpstreamFailedError(self._what_is_wrong()) from exc
            except PeerClosedError as exc:
                raise UpstreamFailedError("it broke the connection") from exc
            self._needs_answer_bytes = event is h11.NEED_DATA
            if self._needs_answer_bytes:
                self._is_bulk = self._body_left > BULK_BYTES
            else:
                self._pass_answer(event)
                moved = True
        return moved

    def _read_upstream(self) -> memoryview | None:
        peer = self._upstream.peer
        data = peer.read() if peer.may_read else None
        self.bytes_in += len(data or b"")
        return data

    def _pass_bulk(self, data: memoryview) -> None:
        """Pass the next bytes of a long body: h11 would copy each of them twice."""
        if not data:
            raise UpstreamFailedError(self._what_is_wrong())
        client, upstream = self._client, self._upstream
        has_surplus = len(data) > self._body_left
        body = data[: self._body_left]
        self._body_left -= len(body)
        counted = h11.Data(data=body)  # type: ignore[arg-type]  # only its length is looked at
        client.http.send_with_data_passthrough(counted)
        try:
            client.peer.pass_on(body)
        except PeerClosedError as exc:
            raise ClientGoneError from exc
        if not self._body_left:
            client.peer.write(client.http.send(h11.EndOfMessage()))
            self._is_answered = True
            if upstream.http.our_state is h11.DONE and not has_surplus:
                # It may be asked again; its h11 still waits for the body that passed it by.
                upstream.http = Side.facing_upstream(upstream.peer).http

    def _what_is_wrong(self) -> str:
        if not self._upstream.peer.is_read_over:
            return "its answer is not valid HTTP"
        part = "in the middle of its answer" if self.has_answer_begun else "without an answer"
        return f"it closed the connection {part}"

    def _pass_answer(self, event: object) -> None:
        client = self._client
        try:
            match event:
                case h11.InformationalResponse():
                    if event.status_code == _SWITCHING and not is_about_websocket(event):
                        raise UpstreamFailedError("it switches to a protocol nobody asked for")
                    client.peer.write(client.http.send(event))
                    if event.status_code == _SWITCHING:
                        self._switch()
                case h11.Response():
                    self._begin_answer(event)
                case h11.Data():
                    self._body_left -= len(event.data)
                    for piece in client.http.send_with_data_passthrough(event) or ():
                        client.peer.write(piece)
                    if self._has_length:
                        self._flush()  # the end of the answer has no bytes to wait for
                case h11.EndOfMessage():
                    client.peer.write(client.http.send(event))
                    self._is_answered = True
                case _:
                    raise UpstreamFailedError(self._what_is_wrong())
        except h11.LocalProtocolError as exc:
            raise UpstreamFailedError("its answer does not fit the request") from exc

    def _begin_answer(self, event: h11.Response) -> None:
        self.has_answer_begun = True
        self.status_code = event.status_code
        headers = dict(plain_headers(event))
        self._has_length = b"content-length" in headers
        if b"transfer-encoding" not in headers:
            self._body_left = int(headers.get(b"content-length", b"0"))
        if event.http_version != b"1.1":
            # h11 sends HTTP/1.1 only, and refuses an answer that came as 1.0.
            event = h11.Response(
                status_code=event.status_code, headers=event.headers, reason=event.reason
            )
        self._client.peer.write(self._client.http.send(event))

    def _switch(self) -> None:
        self.status_code = _SWITCHING
        self.has_answer_begun = True
        self._is_switched = True
        early_out = self._client.http.trailing_data[0]
        early_in = self._upstream.http.trailing_data[0]
        self._upstream.peer.write(early_out)
        self._client.peer.write(early_in)
        self.bytes_out += len(early_out)

    def _flush(self) -> bool:
        try:
            moved = self._client.peer.flush()
        except PeerClosedError as exc:
            raise ClientGoneError from exc
        if not self._is_upstream_deaf:
            try:
                moved |= self._upstream.peer.flush()
            except PeerClosedError:
                # It may have answered before it stopped reading: that answer is read on.
                self._is_upstream_deaf = True
                self._upstream.peer.drop_unsent()
        return moved

    def _wait(self) -> None:
        client, upstream = self._client.peer, self._upstream.peer
        is_body_wanted = self._client.http.their_state is h11.SEND_BODY and not upstream.is_full
        is_watched = self._client.http.their_state is not h11.SEND_BODY
        client_events = select.POLLIN if is_body_wanted else 0
        if is_watched and not self._has_early_bytes:
            client_events |= select.POLLIN
        if client.has_unsent:
            client_events |= select.POLLOUT
        upstream_events = 0 if client.is_full or self._is_answered else select.POLLIN
        if upstream.has_unsent:
            upstream_events |= select.POLLOUT
        _wait_both((client, client_events), (upstream, upstream_events), self._idle_timeout_s)

    def _tunnel(self) -> None:
        """Pass bytes both ways until one side ends."""
        client, upstream = self._client.peer, self._upstream.peer
        while True:
            try:
                self.bytes_out += (out := _pour(client, upstream))
                moved = client.flush() or upstream.flush() or bool(out)
            except PeerClosedError as exc:
                raise ClientGoneError from exc
            try:
                self.bytes_in += (came := _pour(upstream, client))
                moved |= client.flush() or bool(came)
            except PeerClosedError as exc:
                raise UpstreamFailedError("it broke the connection") from exc
            is_sent = not (client.has_unsent or upstream.has_unsent)
            if (client.is_read_over or upstream.is_read_over) and is_sent:
                return
            if not moved:
                _wait_both(
                    (client, _tunnel_events(client, upstream)),
                    (upstream, _tunnel_events(upstream, client)),
                    self._idle_timeout_s,
                )


def has_body(request: h11.Request) -> bool:
    """Whether bytes follow a request's head."""
    headers = dict(plain_headers(request))
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


def _pour(source: Peer, sink: Peer) -> int:
    size = 0
    while source.may_read and not sink.is_full and not source.is_read_over:
        data = source.read()
        if data is None:
            break
        size += len(data)
        sink.write(bytes(data))
    return size


def _tunnel_events(peer: Peer, other: Peer) -> int:
    events = 0 if other.is_full or peer.is_read_over else select.POLLIN
    return events | (select.POLLOUT if peer.has_unsent else 0)


def _wait_both(client: tuple[Peer, int], upstream: tuple[Peer, int], timeout_s: float) -> None:
    try:
        happened = wait_any([client, upstream], time.monotonic() + timeout_s)
    except PeerClosedError as exc:
        raise ClientGoneError from exc
    if not happened:
        raise UpstreamFailedError("nothing was sent for a long time")
