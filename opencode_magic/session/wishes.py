"""What is asked for now, beside what is up: where they differ, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opencode_magic.core.providers import clean_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opencode_magic.core.status import Status
    from opencode_magic.settings import Settings


def difference(status: Status, launched: Settings, asked: Settings, *, has_time: bool) -> str:
    """Say what of a sandbox that is up is not as asked for now; empty where all of it is.

    What was left out agrees with everything.

    Args:
        status: What is up.
        launched: What it was launched with.
        asked: What is asked for now.
        has_time: The time limit was asked for, and not left out.
    """
    return next(_differences(status, launched, asked, has_time=has_time), "")


def _differences(
    status: Status, launched: Settings, asked: Settings, *, has_time: bool
) -> Iterator[str]:
    if asked.home not in {"auto", status.home}:
        yield f"with the home {status.home!r}, not {asked.home!r}"
    if not _is_model(asked.model, status.model):
        yield f"with the model {status.model!r}, not {asked.model!r}"
    if asked.base_url and asked.base_url != launched.base_url:
        has = clean_address(launched.base_url) or "the provider's own"
        yield f"with the base URL {has!r}, not {clean_address(asked.base_url)!r}"
    if asked.is_strict and not launched.is_strict:
        yield "without strict"
    for name, url in asked.mappings.items():
        if launched.mappings.get(name) != url:
            yield f"without the mapping {name}={clean_address(url)}"
    if has_time and asked.time_limit_s != launched.time_limit_s:
        has_min, asked_min = launched.time_limit_s / 60, asked.time_limit_s / 60
        yield f"with a time limit of {has_min:g} min, not {asked_min:g} min"


def _is_model(asked: str, has: str) -> bool:
    """Whether the model asked for is the one in use; asked for by provider, name or both."""
    provider, _, name = has.partition("/")
    return asked in {"", has, provider, name}
