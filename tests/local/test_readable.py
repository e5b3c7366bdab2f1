from __future__ import annotations

import os

import pytest

from opencode_magic.local import image
from tests.local import readable


def test_there_is_a_python_for_an_ordinary_user() -> None:
    """On every machine that runs these tests an ordinary user can run them too."""
    assert readable.runs(readable.opened(), readable.open_python())


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's own folders are open to it")
def test_what_is_closed_is_opened() -> None:
    """The Python of the tests can be run even where only root may enter its folders."""
    assert readable.runs(readable.reach(), str(image.base_python()))


def test_a_program_that_is_not_there_is_no_python() -> None:
    """What cannot be run is told from what can."""
    assert not readable.runs((), "/no/such/python3")
