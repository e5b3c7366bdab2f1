from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_magic.local.firewall.tls import (
    RECORDS_LIMIT,
    ClientHello,
    Incomplete,
    NotTls,
    parse_client_hello,
)
from tests.local.firewall.hellos import extension, hello, real_hello, server_names

REAL = real_hello("api.example.com")
GREASE = extension(0x0A0A, b"") + extension(0xFAFA, b"\0")


def test_a_real_hello_is_read() -> None:
    """What OpenSSL sends gives its name and protocols."""
    found = parse_client_hello(real_hello("api.example.com", ["h2", "http/1.1"]))

    assert found == ClientHello("api.example.com", protocols=(b"h2", b"http/1.1"))


def test_a_hello_without_a_name_has_none() -> None:
    """No server name is an empty one."""
    assert parse_client_hello(real_hello(None)) == ClientHello()
    assert parse_client_hello(hello()) == ClientHello()
    assert parse_client_hello(hello(server_names(b"x", kind=7))) == ClientHello()


@given(st.integers(1, 40), st.data())
def test_any_fragmentation_gives_the_same_hello(record_bytes: int, data: st.DataObject) -> None:
    """Cut into records of any size, and with any part of it there, nothing else is read."""
    whole = hello(GREASE, server_names(b"api.example.com"), record_bytes=record_bytes)
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]

    assert parse_client_hello(whole) == ClientHello("api.example.com")
    assert parse_client_hello(whole + b"more") == ClientHello("api.example.com")
    assert parse_client_hello(part) == Incomplete()


def test_a_hello_in_thousands_of_records_is_refused() -> None:
    """Its parts are joined anew whenever more of it comes: there is an end to that."""
    one = b"\x16\x03\x01\0\4\1\0\x10\0"
    tail = b"\x16\x03\x01\0\1a"

    assert parse_client_hello(one + tail * (RECORDS_LIMIT - 1)) == Incomplete()
    assert isinstance(parse_client_hello(one + tail * RECORDS_LIMIT), NotTls)


def test_an_encrypted_hello_is_noticed() -> None:
    """The extension of encrypted ClientHello, or grease for it, is told."""
    found = parse_client_hello(hello(server_names(b"front.example"), extension(0xFE0D, b"\0\1")))

    assert found == ClientHello("front.example", has_encrypted_hello=True)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x2e\x01\x03\x01",  # SSLv2
        b"GET / HTTP/1.1\r\n",
        b"\x16\x02\x00\x00\x01a",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x40\x01",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        b"\x16\x03\x01\x00\x02\x01\x00\x17\x03\x01\x00\x01a",
        hello(server_names(b"a.example", b"b.example")),
        hello(server_names(b"a.example"), server_names(b"b.example")),
        hello(extension(0, b"\xff\xff")),
        b"\x16\x03\x01\x00\x06\x01\x00\x00\x02\x03\x03",
    ],
)
def test_what_is_no_hello_is_refused(data: bytes) -> None:
    """Older, other, empty, oversized and contradictory first bytes are refused."""
    assert isinstance(parse_client_hello(data), NotTls)


@given(st.binary(max_size=300) | st.binary(max_size=300).map(b"\x16\x03\x01".__add__))
def test_any_bytes_are_a_hello_incomplete_or_refused(data: bytes) -> None:
    """No input raises."""
    assert isinstance(parse_client_hello(data), ClientHello | Incomplete | NotTls)


@given(st.data())
def test_a_damaged_hello_never_raises(data: st.DataObject) -> None:
    """A real hello with any byte changed is read, waited for, or refused."""
    whole = bytearray(REAL)
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))

    assert isinstance(parse_client_hello(bytes(whole)), ClientHello | Incomplete | NotTls)
