"""Whole first bytes of a connection -> refused at once, spliced, or served request by request."""

from __future__ import annotations

import contextlib
import select
import ssl
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from opencode_magic.core.policy import Request, canonical_host, decide, decide_address
from opencode_magic.local.firewall.connections import Connection, abort
from opencode_magic.local.firewall.judge import Origin
from opencode_magic.local.firewall.record import Attempt
from opencode_magic.local.firewall.resolve import AddressRefusedError, UnreachableError, connect
from opencode_magic.local.firewall.rewrite import refusal_text
from opencode_magic.local.firewall.serve import REASON_DISTRUST, HttpService
from opencode_magic.local.firewall.wall import REASON_TOO_MANY, Wall

if TYPE_CHECKING:
    import socket

    from opencode_magic.core.egress import Channel
    from opencode_magic.core.policy import Decision
    from opencode_magic.local.firewall.head import Authority
    from opencode_magic.local.firewall.relay import Relay
    from opencode_magic.local.firewall.tls import ClientHello
    from opencode_magic.local.firewall.workers import Workers

TLS_PORT = 443
HTTP_PORT = 80
HANDSHAKE_TIMEOUT_S = 10.0
REASON_NO_NAME = "TLS without a server name"
REASON_OTHER_NAME = "the TLS server name is not the host that the proxy was asked for"
REASON_PROXY_PORT = "the proxy leads to port 443 only"
REASON_TLS_FAILED = "TLS with the program failed"
REASON_ENCRYPTED = "its encrypted ClientHello may mean another host"
UNREAD = "passed through unread"
"""Said of what is spliced: behind an allowed name the program may ask for another host."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A connection that was accepted, and what is known of it so far."""

    sock: socket.socket
    channel: Channel
    address: str
    """Where the program wanted to go."""
    source_port: int
    connection: str
    asked_host: str = ""
    """What a CONNECT named."""


class Gate:
    """Gives each arrival its verdict, and what is allowed to the threads that carry it on."""

    def __init__(self, wall: Wall, relay: Relay, services: Workers, dials: Workers) -> None:
        self._wall = wall
        self._relay = relay
        self._services = services
        self._dials = dials

    def refuse(self, arrival: Arrival, reason: str, *, host: str = "", port: int = 0) -> None:
        """Record an arrival as blocked, and reset it."""
        self._wall.block(self.attempt(arrival, host, port), reason)
        abort(arrival.sock)

    def attempt(self, arrival: Arrival, host: str, port: int) -> Attempt:
        """Give what the record says of an arrival."""
        return Attempt(
            arrival.channel,
            host or arrival.asked_host or self._wall.name_at(arrival.address),
            port or (HTTP_PORT if arrival.channel == "http" else TLS_PORT),
            arrival.source_port,
            arrival.connection,
        )

    def admit_tls(self, arrival: Arrival, hello: ClientHello) -> None:
        """Decide a TLS connection by the name it shows."""
        name = hello.server_name or arrival.asked_host
        policy = self._wall.policy
        if not name:
            self._admit_address(arrival, REASON_NO_NAME)
            return
        host = canonical_host(name)
        if arrival.asked_host and host != arrival.asked_host:
            self.refuse(arrival, REASON_OTHER_NAME, host=host or name)
            return
        decision = decide(policy, Request(name, TLS_PORT))
        if host is None or not decision.is_allowed:
            self._admit_address(arrival, decision.reason, host=host or name)
            return
        connection = Connection(self.attempt(arrival, host, TLS_PORT), arrival.sock)
        # With an encrypted ClientHello the name that is seen need not be the one that is meant.
        connection.is_terminated = (
            decision.must_terminate or self._wall.is_strict or hello.has_encrypted_hello
        )
        if connection.is_terminated:
            failed = REASON_ENCRYPTED if hello.has_encrypted_hello else REASON_TLS_FAILED
            self._start(
                self._services, connection, lambda: self._terminate(connection, arrival, failed)
            )
        else:
            self._start(
                self._dials, connection, lambda: self._splice(connection, arrival, decision)
            )

    def admit_http(self, arrival: Arrival) -> None:
        """Serve plain HTTP; each request is decided there."""
        attempt = self.attempt(arrival, "", HTTP_PORT)
        connection = Connection(attempt, arrival.sock)
        connection.is_terminated = True
        connection.is_plain = True
        self._start(self._services, connection, lambda: self._serve(connection, arrival))

    def admit_connect(self, arrival: Arrival, authority: Authority) -> Arrival | None:
        """Answer a CONNECT, whose head was taken already; the arrival goes on as TLS."""
        host = canonical_host(authority.host) or authority.host
        decision = decide(self._wall.policy, Request(host, authority.port))
        reason = "" if decision.is_allowed else decision.reason
        if reason and decide_address(self._wall.policy, host).is_allowed:
            reason = ""
        if authority.port != TLS_PORT:
            reason = reason or REASON_PROXY_PORT
        if reason:
            self._wall.block(self.attempt(arrival, host, authority.port), reason, status_code=403)
            self._answer(arrival, b"403 Forbidden", refusal_text(host, reason))
            return None
        with contextlib.suppress(OSError):
            arrival.sock.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        if canonical_host(host) is None:
            return replace(arrival, address=host)
        return replace(arrival, asked_host=host)

    @staticmethod
    def _answer(arrival: Arrival, status: bytes, body: bytes) -> None:
        head = b"HTTP/1.1 %s\r\ncontent-type: text/plain; charset=utf-8\r\n" % status
        rest = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        with contextlib.suppress(OSError):
            arrival.sock.send(head + rest + body)
        arrival.sock.close()

    def _admit_address(self, arrival: Arrival, reason: str, host: str = "") -> None:
        """Let an arrival pass whose address, not its name, is in an allowed subnet."""
        decision = decide_address(self._wall.policy, arrival.address)
        is_synthetic = bool(self._wall.names.name_of(arrival.address))
        if is_synthetic or not decision.is_allowed:
            self.refuse(arrival, reason, host=host)
            return
        connection = Connection(self.attempt(arrival, arrival.address, TLS_PORT), arrival.sock)
        connection.is_by_address = True
        self._start(self._dials, connection, lambda: self._splice(connection, arrival, decision))

    def _start(self, workers: Workers, connection: Connection, job: object) -> None:
        """Give an allowed connection to a thread, unless there are too many."""
        if not self._wall.connections.add(connection):
            self._wall.block(connection.attempt, REASON_TOO_MANY)
            connection.close(is_abort=True)
            return
        if self._wall.is_forbidden(connection):
            # The policy changed between the verdict and now.
            connection.cut("the network policy changed")
        if not callable(job) or not workers.start(job):
            self._wall.block(connection.attempt, REASON_TOO_MANY)
            self._wall.finish(connection, "", is_abort=True, is_told=False)

    def _splice(self, connection: Connection, arrival: Arrival, decision: Decision) -> None:
        """Connect to where an allowed connection goes, and give both sides to the relay."""
        wall, attempt = self._wall, connection.attempt
        reason = f"{decision.reason}, {UNREAD}"
        try:
            find = (
                wall.resolver.resolve_address
                if connection.is_by_address
                else (wall.resolver.resolve)
            )
            target = find(wall.policy, attempt.host, attempt.port)
        except AddressRefusedError as exc:
            wall.block(attempt, str(exc))
            wall.finish(connection, "", is_abort=True, is_told=False)
            return
        except UnreachableError as exc:
            wall.allow(attempt, reason)
            wall.finish(connection, str(exc), is_abort=True)
            return
        wall.allow(attempt, target.told(reason))
        try:
            upstream = connect(target)
        except UnreachableError as exc:
            wall.finish(connection, str(exc), is_abort=True)
            return
        if not wall.resolver.is_mapped(attempt.host):
            connection.address = target.address_of(upstream)
        connection.is_unchecked = target.is_unchecked
        if not connection.own(upstream) or wall.is_forbidden(connection):
            wall.finish(connection, "the network policy changed", is_abort=True)
            return
        self._relay.add(
            connection,
            arrival.sock,
            upstream,
            lambda ended, reason: wall.finish(ended, reason, is_abort=bool(reason)),
        )

    def _terminate(self, connection: Connection, arrival: Arrival, failed: str) -> None:
        """Set up TLS with the program and serve its requests; ``failed`` is said where it fails."""
        wall = self._wall
        try:
            context = wall.ca.context_for(connection.host)
            wrapped = context.wrap_socket(
                arrival.sock, server_side=True, do_handshake_on_connect=False
            )
            connection.replace(arrival.sock, wrapped)
            _shake_hands(wrapped, time.monotonic() + HANDSHAKE_TIMEOUT_S)
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "reason", None) or ""
            is_distrust = isinstance(exc, ssl.SSLError) and "ALERT" in reason
            wall.block(connection.attempt, REASON_DISTRUST if is_distrust else failed)
            wall.finish(connection, "", is_abort=True, is_told=False)
            return
        origin = Origin("https", connection.host)
        self._run(HttpService(wall, connection, origin, wrapped), connection)

    def _serve(self, connection: Connection, arrival: Arrival) -> None:
        self._run(HttpService(self._wall, connection, Origin("http"), arrival.sock), connection)

    def _run(self, service: HttpService, connection: Connection) -> None:
        is_abort = True
        try:
            is_abort = service.run()
        finally:
            self._wall.finish(connection, "", is_abort=is_abort, is_told=False)


def _shake_hands(sock: ssl.SSLSocket, deadline_s: float) -> None:
    """Do a server's TLS handshake within a limit for the whole of it."""
    sock.settimeout(0)
    poll = select.poll()
    while True:
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            events = select.POLLIN
        except ssl.SSLWantWriteError:
            events = select.POLLOUT
        else:
            return
        left_s = deadline_s - time.monotonic()
        poll.register(sock.fileno(), events)
        if left_s <= 0 or not poll.poll(left_s * 1000):
            raise TimeoutError
