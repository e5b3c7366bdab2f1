from __future__ import annotations

import pytest

from opencode_magic.render.links import Link, host_of, parse_link


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://example.com", "example.com"),
        ("HTTP://Example.COM:8080/a?b=c#d", "example.com"),
        ("https://a.b.example.com/%20", "a.b.example.com"),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example"),
        ("mailto:someone@example.org?subject=x", "example.org"),
    ],
)
def test_links(url: str, host: str) -> None:
    """An ordinary address is a link, and its host is known."""
    assert parse_link(url) == Link(url, host)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "/relative",
        "#top",
        "//example.com/",
        "http:example.com",
        "http:/example.com",
        "javascript:alert(1)",
        " https://example.com",
        "java\tscript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "ftp://example.com",
        "https://user@example.com",
        "https://user:pass@example.com",
        "https://example.com\\@evil.example",
        "https://example.com:port/",
        "https://[::1/",
        "https://[::1]/",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://localhost:8888/api",
        "https://gateway.internal/",
        "https://printer.lan/",
        "https://exämple.com/",
        "https://example.com/\u202e",
        "https://a.b.c.d.example.com/",
        "https://" + "a" * 33 + ".example/",
        "https://example.com/" + "a" * 2_000,
        "mailto:nobody",
        'mailto:a@example.com"x',
    ],
)
def test_no_links(url: str) -> None:
    """Everything else stays text."""
    assert parse_link(url) is None


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://example.com/a.png", "example.com"),
        ("//example.com/a.png", "example.com"),
        ("DATA:image/png;base64,AAAA", "data"),
        ("a.png", "no host"),
        ("https://[::1/", "unreadable address"),
    ],
)
def test_host_of(url: str, host: str) -> None:
    """An image's host is named whatever its address looks like."""
    assert host_of(url) == host
