from __future__ import annotations

import functools
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opencode_magic.core.checks import Check
from opencode_magic.core.status import Status
from opencode_magic.sandbox import home, machine
from opencode_magic.session import doctor
from opencode_magic.session.doctor import run_checks

if TYPE_CHECKING:
    from opencode_magic.settings import Settings

KEY = "sk-planted-0123456789"


@pytest.fixture(autouse=True)
def fresh_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what was found out about this machine."""
    monkeypatch.setattr(home, "probe_local", functools.cache(home._probe))


def look(settings: Settings, status: Status | None = None) -> dict[str, Check]:
    """Give the checks by name."""
    return {check.name: check for check in run_checks(settings, status or Status())}


def test_every_check_has_a_next_step_where_it_needs_one(settings: Settings) -> None:
    """What is no ok says what to do; names are unique; nothing is started."""
    checks = run_checks(settings, Status())

    assert all(check.next_step for check in checks if check.state != "ok")
    assert len({check.name for check in checks}) == len(checks)
    assert list(settings.runtime_dir.iterdir()) == []


def test_a_machine_that_lacks_everything(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, isolated: Path
) -> None:
    """Each missing program is named with its package, and the homes say why they cannot be used."""
    monkeypatch.setenv("PATH", str(isolated))

    checks = look(settings)

    assert "apt-get install bubblewrap" in checks["bubblewrap"].next_step
    assert {checks[name].state for name in ("bubblewrap", "ripgrep", "git")} == {"blocked"}
    assert checks["Local home"].state == "blocked"
    assert checks["Home to be used"].state == "blocked"


@pytest.mark.skipif(sys.platform != "linux", reason="the local home is Linux's")
def test_the_local_home_says_itself_what_it_finds(settings: Settings) -> None:
    """What isolation needs of this machine is told by the local home's own doctor."""
    checks = look(settings)

    assert {checks[name].state for name in ("Kernel", "User namespaces", "Certificates")} == {"ok"}


def test_without_the_local_homes_answer_the_programs_are_looked_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its doctor cannot be run, the programs are still looked for."""
    monkeypatch.setattr(machine, "local_checks", tuple)

    checks = look(settings)

    assert "Kernel" not in checks
    assert "bubblewrap" in checks


def test_the_next_step_is_the_one_of_what_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the local home knows what is in the way, its step is given, such as the profile."""
    probe = home.LocalProbe(is_ok=False, reason="no namespaces", next_step="ask")
    monkeypatch.setattr(home, "probe_local", lambda: probe)
    found = (Check("Kernel", "ok"), Check("User namespaces", "blocked", "AppArmor", "a profile"))

    assert doctor._local_home(found).next_step == "a profile"
    assert doctor._local_home(()).next_step == "ask"


def test_the_model(settings: Settings) -> None:
    """The model to be used is named; a key never is."""
    keyed = replace(settings, keys={"ANTHROPIC_API_KEY": KEY})

    assert "scripted demo model" in look(settings)["Model"].detail
    assert "anthropic/" in look(keyed)["Model"].detail
    assert look(replace(settings, model="nobody/x"))["Model"].state == "blocked"
    assert KEY not in repr(run_checks(keyed, Status()))


def test_other_ways_out_are_shown(settings: Settings) -> None:
    """Names that the user leads elsewhere are shown, for they decide who gets a key."""
    led = replace(settings, upstreams=("gateway.example=127.0.0.1:9",))

    assert look(led)["Upstreams"].state == "warning"
    assert "gateway.example" in look(led)["Upstreams"].detail
    assert "Upstreams" not in look(settings)


def test_strict_is_shown(settings: Settings) -> None:
    """Who asked for a strict firewall sees it, with what it costs."""
    assert "pinned certificates" in look(replace(settings, is_strict=True))["Strict"].detail
    assert "Strict" not in look(settings)


def test_a_running_server_says_how_its_firewall_differs() -> None:
    """The user's proxy and strictness stand in the server's own row."""
    both = {"way_out": "proxy.example:8080", "is_strict": True}

    assert doctor._ways(both) == ", goes out by the proxy proxy.example:8080, strict"
    assert doctor._ways({"way_out": "", "is_strict": False}) == ""
    others = [
        {"name": "one", "way_out": "proxy.example:8080"},
        {"name": "two", "way_out": ""},
        {"name": "three", "way_out": "other.example:1"},
        {"name": "starting"},
    ]
    assert doctor._ways({**both, "sandboxes": others}) == (
        ", goes out by the proxy proxy.example:8080, two by none,"
        " three by the proxy other.example:1, strict"
    )


@pytest.mark.skipif(os.name != "posix", reason="sockets with paths")
def test_a_runtime_folder_that_is_too_long(settings: Settings) -> None:
    """A path that no socket can have is named with the variable to set."""
    check = look(replace(settings, runtime_dir=Path("/tmp") / ("x" * 120)))["Runtime folder"]

    assert check.state == "blocked"
    assert "OPENCODE_MAGIC_RUNTIME_DIR" in check.next_step


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (Status(), "ok"),
        (Status(phase="locked", sandbox_name="ocm-a-b"), "ok"),
        (Status(phase="unproven", sandbox_name="ocm-a-b"), "warning"),
        (Status(phase="failed", error="it ended", next_step="run %opencode_up"), "blocked"),
    ],
)
def test_the_sandbox(settings: Settings, status: Status, state: str) -> None:
    """The sandbox's own state is one of the checks."""
    assert look(settings, status)["Sandbox"].state == state
