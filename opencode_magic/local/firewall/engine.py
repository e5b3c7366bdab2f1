"""The firewall of one sandbox: joins its fronts over the sockets that the keeper handed out."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

from opencode_magic.core.policy import canonical_host
from opencode_magic.local.firewall.front import Front
from opencode_magic.local.firewall.gate import Gate
from opencode_magic.local.firewall.programs import ProgramFinder
from opencode_magic.local.firewall.relay import Relay
from opencode_magic.local.firewall.resolve import look_up
from opencode_magic.local.firewall.wall import Wall
from opencode_magic.local.firewall.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from opencode_magic.core.policy import NetworkPolicy
    from opencode_magic.local.firewall.ca import SandboxCA
    from opencode_magic.local.firewall.record import EgressLog
    from opencode_magic.local.firewall.trust import Trust
    from opencode_magic.local.firewall.way_out import WayOut

SERVICE_LIMIT = 512
"""Connections whose requests are read, each with a thread."""
DIAL_LIMIT = 64
DIAL_WAITING = 2048
REASON_POLICY = "cut: the network policy changed"
REASON_CUT = "cut on request"
REASON_END = "cut: the sandbox ended"


class Firewall:
    """Enforces a network policy on everything that leaves one sandbox.

    It owns the listeners it is given and closes them. All methods may be called from any thread.
    """

    def __init__(
        self,
        listeners: Mapping[str, socket.socket],
        policy: NetworkPolicy,
        *,
        ca: SandboxCA,
        record: EgressLog,
        upstreams: Mapping[str, tuple[str, int]] | None = None,
        upstream_ca: Path | Trust | None = None,
        allow_loopback_forward: bool = False,
        is_strict: bool = False,
        way_out: WayOut | None = None,
        look_up: Callable[[str, int], Sequence[str]] = look_up,
    ) -> None:
        """Prepare; nothing is accepted before :meth:`start`.

        Args:
            listeners: By name. ``tls*``, ``http*``, ``proxy*`` are listening TCP sockets, ``dns*``
                UDP or listening TCP ones, ``packets`` an AF_PACKET socket on ``lo``.
            policy: In force from the start.
            ca: Signs the certificates of terminated hosts; the sandbox must trust it.
            record: Gets every decision.
            upstreams: Replaces name resolution: canonical host to address and port. Such an
                address need not be global.
            upstream_ca: More certificate authorities (PEM) that upstreams may be signed by; a
                ``Trust`` stands instead of those that this process trusts by default.
            allow_loopback_forward: A ``forwardURL`` to loopback is followed for ``.internal``
                hosts.
            is_strict: Plain allowed hosts are terminated as well, so that fronting is impossible.
            way_out: The user's upstream proxy, asked after the verdict.
            look_up: Gives the addresses of an allowed name; by default this machine's resolver.
        """
        self._wall = Wall(
            policy,
            ca=ca,
            record=record,
            upstreams=upstreams or {},
            upstream_ca=upstream_ca,
            allow_loopback_forward=allow_loopback_forward,
            is_strict=is_strict,
            way_out=way_out,
            look_up=look_up,
        )
        streams = [sock for sock in listeners.values() if sock.type == socket.SOCK_STREAM]
        self._wall.programs = ProgramFinder(streams[0]) if streams else None
        self._services = Workers("firewall-service", limit=SERVICE_LIMIT)
        self._dials = Workers("firewall-dial", limit=DIAL_LIMIT, waiting=DIAL_WAITING)
        self._relay = Relay()
        gate = Gate(self._wall, self._relay, self._services, self._dials)
        self._front = Front(self._wall, gate, listeners)
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def policy(self) -> NetworkPolicy:
        """The policy in force."""
        return self._wall.policy

    @property
    def live_connections(self) -> int:
        """How many connections are let through at this moment."""
        return len(self._wall.connections)

    def start(self) -> None:
        """Begin to answer on all listeners."""
        self._relay.start()
        self._front.start()

    def set_policy(self, policy: NetworkPolicy) -> int:
        """Put another policy in force at once; give the number of connections it cut."""
        with self._lock:
            self._wall.policy = policy
            with self._relay.resting():
                return self._wall.connections.cut(REASON_POLICY, self._wall.is_forbidden)

    def cut(self, host: str) -> int:
        """Cut the live connections to a host, or to all under ``*.``; give their number."""
        name = canonical_host(host.removeprefix("*."))
        if name is None:
            return 0
        if host.startswith("*."):
            return self._wall.connections.cut(REASON_CUT, lambda c: c.host.endswith(f".{name}"))
        return self._wall.connections.cut(REASON_CUT, lambda c: c.host == name)

    def close(self) -> None:
        """End every connection and listener. Closing twice is harmless."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._front.close()
        self._wall.connections.cut(REASON_END, lambda _: True)
        self._services.close()
        self._dials.close()
        self._relay.close()
