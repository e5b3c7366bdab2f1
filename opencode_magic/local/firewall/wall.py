"""What all fronts of one firewall share: the policy in force, the record, the live connections."""

from __future__ import annotations

import itertools
import ssl
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from opencode_magic.core.policy import NetworkPolicy, Request, decide, decide_address
from opencode_magic.local.firewall.connections import Connections
from opencode_magic.local.firewall.dns import SyntheticAddresses
from opencode_magic.local.firewall.quota import Quota
from opencode_magic.local.firewall.record import Attempt, Outcome
from opencode_magic.local.firewall.resolve import Resolver, is_subnet_denied, look_up
from opencode_magic.local.firewall.trust import Trust

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from opencode_magic.local.firewall.ca import SandboxCA
    from opencode_magic.local.firewall.connections import Connection
    from opencode_magic.local.firewall.programs import ProgramFinder
    from opencode_magic.local.firewall.record import EgressLog
    from opencode_magic.local.firewall.way_out import WayOut

CONNECTION_LIMIT = 4096
REASON_TOO_MANY = "too many connections at once"


class Wall:
    """The shared state. Thread-safe: the policy is replaced as a whole, the rest has locks."""

    def __init__(
        self,
        policy: NetworkPolicy,
        *,
        ca: SandboxCA,
        record: EgressLog,
        upstreams: Mapping[str, tuple[str, int]],
        upstream_ca: Path | Trust | None,
        allow_loopback_forward: bool,
        is_strict: bool,
        way_out: WayOut | None,
        look_up: Callable[[str, int], Sequence[str]] = look_up,
    ) -> None:
        self.policy = policy
        self.ca = ca
        self.record = record
        self.resolver = Resolver(upstreams, way_out, look_up)
        self.allow_loopback_forward = allow_loopback_forward
        self.is_strict = is_strict
        self.connections = Connections(limit=CONNECTION_LIMIT)
        self.names = SyntheticAddresses()
        self.lookup_quota = Quota()
        self.programs: ProgramFinder | None = None
        """Tells which program was refused; None where that is not to be known."""
        self._upstream_ca = upstream_ca
        self._upstream_context: ssl.SSLContext | None = None
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    def next_connection_id(self) -> str:
        """Give a name for a connection, unique within the sandbox."""
        return f"c{next(self._numbers)}"

    def allow(self, attempt: Attempt, reason: str) -> None:
        """Record that an attempt goes on."""
        self.record.append(attempt, Outcome("allowed", reason))

    def block(self, attempt: Attempt, reason: str, *, status_code: int = 0) -> None:
        """Record that an attempt ends here; to be called before the program can see it."""
        if self.programs is not None and not attempt.program:
            program = self.programs.find(attempt.channel, attempt.source_port)
            attempt = replace(attempt, program=program)
        self.record.append(attempt, Outcome("blocked", reason, status_code))

    def finish(
        self, connection: Connection, reason: str, *, is_abort: bool = False, is_told: bool = True
    ) -> None:
        """Record a connection's totals, close it and forget it."""
        self.connections.discard(connection)
        if is_told:
            outcome = Outcome(
                "allowed",
                connection.cut_reason or reason or "ended",
                bytes_out=connection.bytes_out,
                bytes_in=connection.bytes_in,
                is_end=True,
            )
            self.record.append(connection.attempt, outcome)
        connection.close(is_abort=is_abort)

    def upstream_context(self) -> ssl.SSLContext:
        """Give the context for upstreams: the system's authorities and the user's, HTTP/1.1."""
        with self._lock:
            if self._upstream_context is None:
                context = self._trusting_context()
                context.minimum_version = ssl.TLSVersion.TLSv1_2
                context.set_alpn_protocols(["http/1.1"])
                self._upstream_context = context
            return self._upstream_context

    def _trusting_context(self) -> ssl.SSLContext:
        if isinstance(self._upstream_ca, Trust):
            return self._upstream_ca.context()
        context = ssl.create_default_context()
        if self._upstream_ca is not None:
            context.load_verify_locations(cafile=self._upstream_ca)
        return context

    def name_at(self, address: str) -> str:
        """Give how an address inside is called in the record: its name, or itself."""
        plain = address.removeprefix("::ffff:") if "." in address else address
        return self.names.name_of(plain) or plain

    def is_forbidden(self, connection: Connection) -> bool:  # noqa: PLR0911 - one return a kind of connection
        """Whether the policy in force no longer lets a live connection be as it is."""
        policy = self.policy
        if connection.is_by_address:
            return not decide_address(policy, connection.host).is_allowed
        if connection.is_unchecked and policy.subnets_deny:
            return True
        if connection.address and is_subnet_denied(policy, connection.address):
            return True
        if connection.is_plain and connection.request is None:
            return False
        attempt = connection.attempt
        request = connection.request or Request(attempt.host, attempt.port)
        decision = decide(policy, request)
        if not decision.is_allowed:
            return True
        if not connection.is_terminated:
            return decision.must_terminate
        if connection.request is None:
            return False
        old, new = connection.rule, decision.rule
        old_way = (old.forward_url, old.response) if old is not None else ("", None)
        new_way = (new.forward_url, new.response) if new is not None else ("", None)
        return old_way != new_way


def at_request(attempt: Attempt, connection: str, request: Request) -> Attempt:
    """Give the attempt of one request within a connection."""
    return Attempt(
        attempt.channel,
        request.host or attempt.host,
        attempt.port,
        attempt.source_port,
        connection,
        request.method,
        request.path,
        attempt.program,
    )
