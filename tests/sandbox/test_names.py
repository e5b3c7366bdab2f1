from __future__ import annotations

import re

from opencode_magic.sandbox.names import new_name


def test_name_is_short_and_plain() -> None:
    """A name is two words that the home accepts; on the cloud a random end keeps it apart."""
    for _ in range(200):
        assert re.fullmatch(r"ocm-[a-z]+-[a-z]+", new_name("local"))
        assert re.fullmatch(r"ocm-[a-z]+-[a-z]+-[a-z2-9]{4}", new_name("cloud"))


def test_taken_name_is_not_given_again() -> None:
    """A name that another kernel's lease has is given an end of its own."""

    class Everything(frozenset[str]):
        def __contains__(self, _: object) -> bool:
            return True

    assert new_name("local", taken=Everything()).count("-") == 3
