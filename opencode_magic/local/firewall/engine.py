"""The firewall of one sandbox: joins its fronts over the sockets that the keeper handed out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from pathlib import Path

    from opencode_magic.core.policy import NetworkPolicy
    from opencode_magic.local.firewall.ca import SandboxCA
    from opencode_magic.local.firewall.record import EgressLog


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
        upstream_ca: Path | None = None,
        allow_loopback_forward: bool = False,
        is_strict: bool = False,
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
            upstream_ca: More certificate authorities (PEM) that upstreams may be signed by.
            allow_loopback_forward: A ``forwardURL`` to loopback is followed for ``.internal``
                hosts.
            is_strict: Plain allowed hosts are terminated as well, so that fronting is impossible.
        """

    @property
    def policy(self) -> NetworkPolicy:
        """The policy in force."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin to answer on all listeners."""
        raise NotImplementedError

    def set_policy(self, policy: NetworkPolicy) -> int:
        """Put another policy in force at once; give the number of connections it cut."""
        raise NotImplementedError

    def cut(self, host: str) -> int:
        """Cut the live connections to a host; give their number."""
        raise NotImplementedError

    def close(self) -> None:
        """End every connection and listener. Closing twice is harmless."""
        raise NotImplementedError
