from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from opencode_magic.settings import load_settings
from tests.doubles import StandInSandbox

if TYPE_CHECKING:
    from opencode_magic.settings import Settings


@pytest.fixture
def settings() -> Settings:
    """Give settings that come from nowhere but the defaults."""
    return load_settings()


@pytest.fixture
def sandbox() -> StandInSandbox:
    """Give a sandbox that is only remembered."""
    return StandInSandbox()
