from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from opencode_magic.core.checks import Check
from opencode_magic.sandbox import machine
from opencode_magic.sandbox.machine import local_checks, parse_checks

if TYPE_CHECKING:
    from pathlib import Path

ONE = {"name": "Kernel", "state": "ok", "detail": "Linux 6.1", "next_step": ""}


@pytest.mark.skipif(sys.platform != "linux", reason="the local home is Linux's")
def test_the_local_homes_doctor_answers() -> None:
    """Its checks arrive whole, each with a next step where it needs one."""
    checks = {check.name: check for check in local_checks()}

    assert {"Kernel", "bubblewrap", "User namespaces", "git"} <= set(checks)
    assert all(check.next_step for check in checks.values() if check.state != "ok")


@pytest.mark.parametrize(
    ("printed", "checks"),
    [
        (json.dumps([ONE]).encode(), (Check("Kernel", "ok", "Linux 6.1"),)),
        (b"[]", ()),
        (b"", ()),
        (b"{}", ()),
        (b"[1]", ()),
        (b'"text"', ()),
        (b"\xff", ()),
        (json.dumps([{**ONE, "state": "well"}]).encode(), ()),
        (json.dumps([{"name": "Kernel"}]).encode(), ()),
    ],
)
def test_what_is_no_list_of_checks_is_none(printed: bytes, checks: tuple[Check, ...]) -> None:
    """Checks are read back; anything else gives none."""
    assert parse_checks(printed) == checks


def test_a_doctor_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its time it is ended and gives no checks."""
    monkeypatch.setattr(machine, "TIMEOUT_S", 0.01)

    assert local_checks() == ()


def test_a_doctor_that_cannot_be_run_gives_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without the program there are no checks, and no error."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))

    assert local_checks() == ()
