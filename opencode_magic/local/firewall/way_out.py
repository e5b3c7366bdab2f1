"""The host's own way out: the user's upstream proxy, asked after the verdict and never before.

Sources: RFC 9110 section 9.3.6 (CONNECT); the customary variables HTTPS_PROXY and NO_PROXY.
"""

from __future__ import annotations

import base64
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

ANSWER_LIMIT_BYTES = 16_384
_DEFAULT_PORT = 3128
_OK = 200


class WayOutError(Exception):
    """The upstream proxy does not let a connection through; the message says why."""


@dataclass(frozen=True, slots=True)
class WayOut:
    """An HTTP proxy of the user's network, and the hosts that go without it."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)
    no_proxy: str = ""

    def is_for(self, host: str) -> bool:
        """Whether a host is reached through the proxy."""
        entries = [entry.strip().lower() for entry in self.no_proxy.split(",")]
        names = [entry.removeprefix("*").removeprefix(".") for entry in entries if entry != "*"]
        is_bypassed = any(name and (host == name or host.endswith(f".{name}")) for name in names)
        return not (is_bypassed or "*" in entries)

    def connect(self, host: str, port: int, *, timeout_s: float) -> socket.socket:
        """Give a connection to a host, which the proxy resolves.

        Raises:
            WayOutError: The proxy refuses, or does not speak as it should.
            OSError: The proxy cannot be reached.
        """
        sock = socket.create_connection((self.host, self.port), timeout=timeout_s)
        try:
            authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            head = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
            if self.authorization:
                head += f"Proxy-Authorization: {self.authorization}\r\n"
            sock.sendall(f"{head}\r\n".encode("ascii"))
            self._check(_read_head(sock))
        except BaseException:
            sock.close()
            raise
        return sock

    @staticmethod
    def _check(head: bytes) -> None:
        parts = head.split(b"\r\n", 1)[0].split(b" ", 2)
        if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():  # noqa: PLR2004 - version and status
            raise WayOutError("the upstream proxy does not speak HTTP")
        if int(parts[1]) != _OK:
            raise WayOutError(f"the upstream proxy answered {int(parts[1])}")


def load_way_out(environ: Mapping[str, str]) -> WayOut | None:
    """Give the upstream proxy that the environment names; None where there is none.

    Raises:
        ValueError: It names one that is not an ``http://`` URL; never repeats a password.
    """
    text = environ.get("https_proxy") or environ.get("HTTPS_PROXY") or ""
    if not text.strip():
        return None
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port or _DEFAULT_PORT
    except ValueError:
        # The reason may repeat what stands in the place of the port, which can be a password.
        raise ValueError("HTTPS_PROXY must be an http:// URL with a host and a port") from None
    if parts.scheme != "http" or not host:
        raise ValueError(f"HTTPS_PROXY must be an http:// URL, not {parts.scheme}://")
    authorization = ""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode("ascii")
    no_proxy = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    return WayOut(host, port, authorization, no_proxy)


def _read_head(sock: socket.socket) -> bytes:
    """Read the answer's head and not a byte more: what follows belongs to the connection."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        data = sock.recv(1)
        if not data:
            raise WayOutError("the upstream proxy closed the connection")
        head += data
        if len(head) > ANSWER_LIMIT_BYTES:
            raise WayOutError("the upstream proxy's answer is too long")
    return bytes(head)
