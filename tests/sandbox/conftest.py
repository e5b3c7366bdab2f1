from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sandbox.canary import Canary
from tests.sandbox.homes import (
    cloud_home,
    local_home,
    local_home_with_key,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opencode_magic.sandbox.launch import LaunchRequest


@pytest.fixture
def canary() -> Iterator[Canary]:
    """A server that answers under any name."""
    server = Canary()
    yield server
    server.close()


@pytest.fixture
def local() -> Iterator[LaunchRequest]:
    """The scripted model on the local home."""
    with local_home() as request:
        yield request


@pytest.fixture
def local_keyed(canary: Canary) -> Iterator[LaunchRequest]:
    """A model with a key on the local home."""
    with local_home_with_key(canary) as request:
        yield request


@pytest.fixture
def cloud(canary: Canary) -> Iterator[LaunchRequest]:
    """A model with a key on the stand-in for the cloud."""
    with cloud_home(canary) as request:
        yield request
