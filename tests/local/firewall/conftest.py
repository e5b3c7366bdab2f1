from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.local.firewall.outside import Outside

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    """Upstreams of the test's own."""
    made = Outside(tmp_path)
    yield made
    made.close()
