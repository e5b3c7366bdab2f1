from __future__ import annotations

import pytest

from opencode_magic.core.surroundings import NAMES, digest

PROXY = {"HTTPS_PROXY": "http://me:SECRET@proxy.example:8080"}


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_counts(name: str) -> None:
    """Another value of any of them gives another text."""
    assert len({digest({}), digest({name: "a"}), digest({name: "b"})}) == 3


def test_what_says_nothing_changes_nothing() -> None:
    """Empty variables and other ones do not count; the order does not either."""
    more = {"NO_PROXY": ".example", **PROXY}

    assert digest({"HTTPS_PROXY": "", "HOME": "/home/me"}) == digest({})
    assert digest(more) == digest(dict(reversed(more.items())))


def test_odd_bytes_are_taken() -> None:
    """A value that is no UTF-8 is a value like any other."""
    assert digest({"NO_PROXY": "\udcff"}) != digest({})


def test_no_password_is_shown() -> None:
    """Nothing of a value stands in the text."""
    assert "SECRET" not in digest(PROXY)
