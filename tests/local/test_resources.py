from __future__ import annotations

import pytest

from opencode_magic.local.isolation import GIB, MIB, default_memory_bytes
from opencode_magic.local.payloads import ApiError
from opencode_magic.local.resources import Resources, parse_resources


@pytest.mark.parametrize(
    ("body", "vcpus", "memory_mb"),
    [
        ({}, 2, 4096),
        ({"vcpus": 1}, 1, 2048),
        ({"vcpus": 4}, 4, 8192),
        ({"memory": 512}, 1, 512),
        ({"memory": 4097}, 3, 4097),
        ({"vcpus": 1, "memory": 1024}, 1, 1024),
    ],
)
def test_what_is_shown(body: dict[str, object], vcpus: int, memory_mb: int) -> None:
    """Two gigabytes go with each processor, unless the memory is named."""
    parsed = parse_resources(body)

    assert (parsed.vcpus, parsed.memory_mb) == (vcpus, memory_mb)


def test_limit_is_the_machines_own_unless_less_is_asked_for() -> None:
    """Nothing asked for means the host's own limit, and no more than that can be had."""
    most = default_memory_bytes()

    assert Resources().memory_bytes == most
    assert parse_resources({"memory": 512}).memory_bytes == 512 * MIB
    assert parse_resources({"vcpus": 1}).memory_bytes == 2 * GIB
    assert parse_resources({"vcpus": 64}).memory_bytes == min(most, 128 * GIB)


@pytest.mark.parametrize(
    "body", [{"vcpus": 0}, {"vcpus": 65}, {"vcpus": "2"}, {"memory": 0}, {"disk": 1}]
)
def test_bad_resources(body: dict[str, object]) -> None:
    """What is no number of processors or megabytes is refused."""
    with pytest.raises(ApiError) as caught:
        parse_resources(body)

    assert caught.value.code == "bad_request"
