"""The upstream connections of one client connection, kept alive between its requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11

from opencode_magic.local.firewall.exchange import Side
from opencode_magic.local.firewall.outside import find_route, open_upstream
from opencode_magic.local.firewall.peer import Peer, PeerClosedError
from opencode_magic.local.firewall.resolve import UnreachableError, is_subnet_denied

if TYPE_CHECKING:
    import socket

    from opencode_magic.local.firewall.connections import Connection
    from opencode_magic.local.firewall.judge import Judgement, Origin
    from opencode_magic.local.firewall.outside import Route
    from opencode_magic.local.firewall.wall import Wall

KEPT_LIMIT = 4


@dataclass(slots=True, eq=False)
class Kept:
    """One upstream connection."""

    key: str
    route: Route
    side: Side
    sock: socket.socket
    address: str
    """Where it leads; empty for what the user mapped."""


class Upstreams:
    """Gives each request its upstream connection: the one used before where it is still good."""

    def __init__(self, wall: Wall, connection: Connection, origin: Origin) -> None:
        self._wall = wall
        self._connection = connection
        self._origin = origin
        self._kept: dict[str, Kept] = {}

    def find_route(self, judgement: Judgement) -> Route:
        """Give where a request goes; a name is resolved anew only for a new connection.

        Raises:
            AddressRefusedError: Its address may not be reached.
            UnreachableError: Its name leads nowhere.
        """
        kept = self._kept.get(_key(judgement))
        if kept is not None and not judgement.needs_allowed_subnet and self._is_good(kept):
            return kept.route
        return find_route(self._wall, self._origin, judgement)

    def open(self, judgement: Judgement, route: Route) -> Kept:
        """Give a connection for a route that :meth:`find_route` gave.

        Raises:
            UnreachableError: It does not answer, or its certificate is not trusted.
        """
        key = _key(judgement)
        kept = self._kept.get(key)
        if kept is not None and kept.route is route:
            return kept
        if kept is not None:
            self.drop(kept)
        while len(self._kept) >= KEPT_LIMIT:
            self.drop(next(iter(self._kept.values())))
        sock = open_upstream(self._wall, self._connection, route)
        if self._wall.is_forbidden(self._connection):
            self._connection.cut("cut: the network policy changed")
            raise UnreachableError("the network policy changed")
        side = Side.facing_upstream(Peer(sock))
        kept = self._kept[key] = Kept(key, route, side, sock, self._connection.address)
        return kept

    def give_back(self, kept: Kept) -> None:
        """Keep a connection for the next request where both sides may go on."""
        http = kept.side.http
        states = {http.our_state, http.their_state}
        if states == {h11.DONE}:
            http.start_next_cycle()
        elif states != {h11.IDLE}:  # so it is made anew after a long body
            self.drop(kept)

    def drop(self, kept: Kept) -> None:
        """Close a connection."""
        self._kept.pop(kept.key, None)
        self._connection.disown(kept.sock)

    def _is_good(self, kept: Kept) -> bool:
        """Whether it is open, quiet, and still allowed by its address."""
        if kept.address and is_subnet_denied(self._wall.policy, kept.address):
            return False
        try:
            return kept.side.peer.read() is None
        except PeerClosedError:
            return False


def _key(judgement: Judgement) -> str:
    rule = judgement.rule
    forward = rule.forward_url if rule is not None else ""
    return forward or judgement.request.host
