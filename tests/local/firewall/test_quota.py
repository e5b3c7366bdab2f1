from __future__ import annotations

from opencode_magic.local.firewall.quota import Quota


def test_what_goes_unrecorded_is_counted() -> None:
    """Past the limit attempts are counted, by group, and told once the window is over."""
    quota = Quota()
    within = [quota.is_within("a") for _ in range(Quota.LIMIT + 3)]
    assert quota.close_window() == {}
    quota.WINDOW_S = 0.0

    assert within == [True] * Quota.LIMIT + [False] * 3
    assert quota.close_window() == {"a": 3}
    assert quota.is_within("a")


def test_groups_are_bounded() -> None:
    """With too many groups, all later ones are counted together."""
    quota = Quota()
    for count in range(Quota.GROUPS_LIMIT):
        quota.is_within(str(count))
    within = [quota.is_within(f"late{count}") for count in range(Quota.LIMIT + 1)]

    assert within.count(False) == 1
