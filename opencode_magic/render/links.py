"""A link's address -> the host that it leads to, or a refusal to make it a link."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

_PLAIN_URL = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!&'()*+,;=%$-]{1,2000}\Z")
_HOST = re.compile(
    r"(?:[a-z0-9_](?:[a-z0-9_-]{0,30}[a-z0-9_])?\.){1,3}[a-z](?:[a-z0-9-]{0,22}[a-z0-9])\Z"
)
_MAIL = re.compile(r"[A-Za-z0-9._+-]{1,64}@([A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+)\Z")
_OWN_NAMES = ("localhost", "local", "internal", "home", "lan", "arpa", "test", "invalid")


@dataclass(frozen=True, slots=True)
class Link:
    """An address that may be followed by a click, and the host that it names."""

    url: str
    host: str


def parse_link(url: str) -> Link | None:
    """Give the link, or None where the address must stay text.

    Only http, https and mailto; no user name in it, no characters that browsers read in ways of
    their own, no address or name of the reader's own machine or network, and no host whose labels
    are long enough to carry data out by a name look-up alone.
    """
    if not _PLAIN_URL.match(url):
        return None
    if url[:7].lower() == "mailto:":
        mail = _MAIL.match(url[7:].split("?", 1)[0])
        return Link(url, mail.group(1).lower()) if mail else None
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        _ = parts.port
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"} or "@" in parts.netloc or "//" not in url[:8]:
        return None
    if not _HOST.match(host) or host.rsplit(".", 1)[-1] in _OWN_NAMES:
        return None
    return Link(url, host)


def host_of(url: str) -> str:
    """Name the host of an address for a person; ``data`` for one that holds its own bytes."""
    if url[:5].lower() == "data:":
        return "data"
    try:
        host = urlsplit(url[:4000]).hostname
    except ValueError:
        return "unreadable address"
    return host or "no host"
