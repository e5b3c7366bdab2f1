"""Whatever a path is spelled like, no server may read it as another one than the rules did."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opencode_magic.core.policy_wire import parse_policy
from opencode_magic.local.firewall.judge import Origin, judge

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "api.example.com"
KEY = {"transform": [{"headers": {"authorization": "key"}}]}
REFUSED = {"response": {"statusCode": 403}}
ONLY_V3 = parse_policy(
    {"allow": {HOST: [{"match": {"path": {"startsWith": "/v3/"}}, **KEY}, REFUSED]}}
)
NO_ADMIN = parse_policy(
    {"allow": {HOST: [{"match": {"path": {"startsWith": "/admin"}}, **REFUSED}, KEY]}}
)
FORWARDED = parse_policy({"allow": {"a.internal": [{"forwardURL": "http://127.0.0.1:9/base"}]}})


def overlong(character: str, size: int) -> bytes:
    """Spell an ASCII character in more bytes of UTF-8 than it needs."""
    code = ord(character)
    if size == 2:
        return bytes([0xC0 | code >> 6, 0x80 | code & 0x3F])
    lead = {3: 0xE0, 4: 0xF0, 5: 0xF8, 6: 0xFC}[size]
    return bytes([lead, *[0x80] * (size - 3), 0x80 | code >> 6, 0x80 | code & 0x3F])


def encoded(data: bytes, times: int) -> str:
    """Spell bytes in percent-encoding, so many times over."""
    text = "".join(f"%{byte:02x}" for byte in data)
    for _ in range(times - 1):
        text = text.replace("%", "%25")
    return text


characters = st.sampled_from("./\\;?#%admin3v\0\t\n ")
SLASHES = "\u2215\u2044\u2216\u00a5\u20a9"
WIDE = "".join(chr(ord(char) + 0xFEE0) for char in "./\\;?#%admin")
wide = st.sampled_from(f"{WIDE}{SLASHES}\u2024\u2025\u2026\u00a0\u00e9")
spelled = st.one_of(
    st.builds(lambda text, times: encoded(text.encode(), times), characters, st.integers(1, 3)),
    st.builds(
        lambda text, size, times: encoded(overlong(text, size), times),
        st.sampled_from("./\\adm"),
        st.integers(2, 6),
        st.integers(1, 2),
    ),
    st.builds(lambda text, times: encoded(text.encode(), times), wide, st.integers(1, 2)),
    st.builds(encoded, st.binary(min_size=1, max_size=2), st.just(1)),
    st.sampled_from(["%u002e", "%u2215", "%%32%65", "%2", "%", ";x=1", "\\"]),
)
pieces = st.one_of(
    st.sampled_from(["/", "..", ".", "admin", "v3", "x", "/../", "/v3/", "/admin"]), spelled
)
paths = st.lists(pieces, max_size=8).map(lambda found: "/" + "".join(found))


def _lenient(data: bytes) -> str:
    """Decode as a careless server does: overlong forms count, as do bad last bytes."""

    def short(found: re.Match[bytes]) -> bytes:
        value = 0
        for byte in found[0][1:]:
            value = value << 6 | byte & 0x3F
        value |= (found[0][0] & 1) << 6 if len(found[0]) == 2 else 0
        return bytes([value & 0x7F])

    overlongs = (
        rb"[\xc0\xc1].|\xe0[\x80\x81][\x80-\xbf]|\xf0\x80[\x80\x81][\x80-\xbf]"
        rb"|\xf8\x80\x80[\x80\x81][\x80-\xbf]|\xfc\x80\x80\x80[\x80\x81][\x80-\xbf]"
    )
    return re.sub(overlongs, short, data, flags=re.DOTALL).decode("utf-8", "replace")


CODE_PAGE = str.maketrans(dict(zip(SLASHES, "//\\\\\\", strict=True)))
READERS: dict[str, Callable[[bytes], str]] = {
    "strict": lambda data: data.decode("utf-8", "replace"),
    "byte by byte": lambda data: data.decode("latin-1"),
    "lenient": _lenient,
    "compatible": lambda data: unicodedata.normalize("NFKC", data.decode("utf-8", "replace")),
    "by code page": lambda data: data.decode("utf-8", "replace").translate(CODE_PAGE),
}


def readings(path: str) -> set[str]:
    """Give every path that some server may read here, with no dot segments left."""
    found = set()
    for read in READERS.values():
        text = path
        for _ in range(4):
            found.add(text)
            text = read(unquote_to_bytes(text))
        found.add(text)
    return {final for text in found for final in _finals(text)}


def _finals(text: str) -> set[str]:
    """Give a path's readings after its decoding, with parts cut off, dropped, or as slashes."""
    cut = {re.split(mark, text, maxsplit=1)[0] for mark in ("$^", "\0", "[?#]")}
    dropped = {re.sub(r"[\t\r\n]", "", part) for part in cut} | cut
    plain = {re.sub(r";[^/]*", "", part) for part in dropped} | dropped
    slashed = {part.replace("\\", "/") for part in plain} | plain
    slashed |= {re.sub("^//+[^/]*", "", part) for part in slashed}  # as a host and its path
    return {
        posixpath.normpath(re.sub("/+", "/", "/" + part)) + ("/" if part.endswith("/") else "")
        for part in slashed
    }


def outcome(policy: object, path: str, host: str = HOST) -> str:
    """Say what becomes of a request: refused, with the key, forwarded or as it is."""
    target = h11.Request(method="GET", target=path, headers=[("host", host)])
    found = judge(policy, Origin("https", host), target)  # type: ignore[arg-type] # a NetworkPolicy
    if not found.is_allowed or (found.rule is not None and found.rule.response is not None):
        return "refused"
    if found.rule is None:
        return "as it is"
    return "forwarded" if found.rule.forward_url else "with the key"


def is_request(path: str) -> bool:
    """Whether a path can be sent at all."""
    return all("!" <= char <= "~" for char in path)


sendable = paths.filter(is_request)


@settings(max_examples=400, deadline=None)
@given(path=sendable)
@example(path="/v3/%c0%ae%c0%ae/admin")
@example(path="/v3/..%c0%afadmin")
@example(path="/v3/%ef%bc%8e%ef%bc%8e/admin")
def test_what_may_be_read_as_outside_the_prefix_is_not_allowed(path: str) -> None:
    """The key goes with a path only where every server reads it below the allowed prefix."""
    if outcome(ONLY_V3, path) == "with the key":
        assert [found for found in readings(path) if not found.startswith("/v3/")] == []


@settings(max_examples=400, deadline=None)
@given(path=sendable)
@example(path="/x%c0%af..%c0%afadmin")
@example(path="/%ef%bd%81dmin")
@example(path="/%c1%a1dmin")
def test_what_may_be_read_as_the_refused_part_is_refused(path: str) -> None:
    """A rule that refuses a part of a server meets it in every spelling."""
    if any(found.startswith("/admin") for found in readings(path)):
        assert outcome(NO_ADMIN, path) == "refused"


@settings(max_examples=400, deadline=None)
@given(path=sendable)
@example(path="/%c0%ae%c0%ae/admin")
@example(path="/..%c0%afadmin")
def test_a_forwarded_path_is_read_below_its_base(path: str) -> None:
    """What is joined to a base is read below it by every server."""
    if outcome(FORWARDED, path, "a.internal") == "forwarded":
        assert [
            found for found in readings(f"/base{path}") if not f"{found}/".startswith("/base/")
        ] == []


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/v3/models", "with the key"), ("/v3/caf%c3%a9/a%20b", "with the key"), ("/v4", "refused")],
)
def test_everyday_paths_are_judged_as_they_are_written(path: str, expected: str) -> None:
    """Paths that all servers read alike pass where they are allowed."""
    assert outcome(ONLY_V3, path) == expected
