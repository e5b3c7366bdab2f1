from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_magic.local.firewall.head import (
    Authority,
    find_head_end,
    is_http,
    parse_authority,
    parse_connect,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("example.com", Authority("example.com", 0)),
        ("example.com:8443", Authority("example.com", 8443)),
        ("[2001:db8::1]:443", Authority("2001:db8::1", 443)),
        ("[2001:db8::1]", Authority("2001:db8::1", 0)),
        ("user@example.com:443", None),
        ("example.com:443:80", None),
        ("example.com:99999", None),
        ("example.com/x", None),
        ("", None),
        (":443", None),
    ],
)
def test_authorities(text: str, expected: Authority | None) -> None:
    """A host with or without a port is read, and nothing that only looks like one."""
    assert parse_authority(text) == expected


def test_a_connect_line_is_read() -> None:
    """CONNECT gives its target, any other request does not."""
    assert parse_connect(b"CONNECT a.example:443 HTTP/1.1\r\n\r\n") == Authority("a.example", 443)
    assert parse_connect(b"GET http://a.example/ HTTP/1.1\r\n\r\n") is None
    assert parse_connect(b"CONNECT a.example:443\r\n\r\n") is None


@given(st.binary(max_size=200))
def test_any_bytes_are_handled(data: bytes) -> None:
    """No input raises, and a head's end is the end of an empty line."""
    end = find_head_end(data)

    assert is_http(data) in {True, False}
    assert parse_connect(data) is None or data.startswith(b"CONNECT ")
    assert end == 0 or data[:end].endswith(b"\n")


@given(st.text(max_size=50))
def test_any_text_is_an_authority_or_none(text: str) -> None:
    """No text raises, and a port is one of TCP's."""
    found = parse_authority(text)

    assert found is None or 0 <= found.port <= 65_535
