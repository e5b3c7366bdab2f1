from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from opencode_magic.local import doctor, start
from opencode_magic.local.cgroups import find_parent
from opencode_magic.local.doctor import Host, judge
from tests.local import keepers

if TYPE_CHECKING:
    from opencode_magic.core.checks import Check

GOOD = Host(probe_s=0.1)
REFUSED = replace(GOOD, probe_error="bwrap: setting up uid map: Permission denied")


def named(host: Host, name: str) -> Check:
    """Give the one check of a name."""
    (check,) = [check for check in judge(host) if check.name == name]
    return check


def test_this_machine_can_build_a_sandbox() -> None:
    """On a machine that runs these tests nothing is blocked, and a sandbox was really built."""
    found = {check.name: check for check in doctor.checks()}

    assert "blocked" not in {check.state for check in found.values()}
    assert found["User namespaces"].detail.startswith("a sandbox was built and ended in 0.")


def test_an_ordinary_user_can_build_one_too() -> None:
    """The doctor says the same to a user without rights."""
    states = json.loads(
        keepers.run_as_ordinary_user(
            "import json; from opencode_magic.local.doctor import checks\n"
            "print(json.dumps({check.name: check.state for check in checks()}))"
        )
    )

    assert "blocked" not in states.values()


def test_all_is_well_on_a_good_machine() -> None:
    """Where everything is there, every check is ok and asks for nothing."""
    assert {(check.state, check.next_step) for check in judge(GOOD)} == {("ok", "")}


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_another_system_is_sent_to_the_cloud(system: str) -> None:
    """A Mac or Windows machine gets one line: only the cloud home works there."""
    (check,) = judge(Host(system=system))

    assert check.state == "blocked"
    assert check.next_step == doctor.CLOUD_STEP


@pytest.mark.parametrize(
    ("host", "name", "state", "step"),
    [
        (replace(GOOD, bubblewrap=""), "bubblewrap", "blocked", "apt-get install bubblewrap"),
        (replace(GOOD, bubblewrap_version=(0, 6, 1)), "bubblewrap", "blocked", "0.8.0 or later"),
        (replace(GOOD, kernel=(5, 2, 9)), "Kernel", "blocked", "5.3 or later"),
        (replace(GOOD, kernel=(5, 10)), "Kernel", "warning", "5.14 or later"),
        (replace(GOOD, machine="riscv64"), "Machine", "blocked", "cloud home"),
        (replace(GOOD, ripgrep=""), "ripgrep", "blocked", "apt-get install ripgrep"),
        (replace(GOOD, ripgrep="/home/u/.cargo/bin/rg"), "ripgrep", "warning", "install ripgrep"),
        (replace(GOOD, git=""), "git", "blocked", "apt-get install git"),
        (replace(GOOD, has_certificates=False), "Certificates", "warning", "ca-certificates"),
        (replace(GOOD, is_root=True, setpriv=""), "setpriv", "blocked", "util-linux"),
        (
            replace(REFUSED, user_namespaces_limit=0),
            "User namespaces",
            "blocked",
            "sudo sysctl -w user.max_user_namespaces=15000",
        ),
        (
            replace(REFUSED, is_userns_clone_forbidden=True),
            "User namespaces",
            "blocked",
            "sudo sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        (
            replace(REFUSED, is_apparmor_restricting=True),
            "User namespaces",
            "blocked",
            "apparmor_parser -r /etc/apparmor.d/bwrap",
        ),
        (
            replace(REFUSED, is_apparmor_restricting=True, has_apparmor_profile=True),
            "User namespaces",
            "blocked",
            "apparmor_parser -R /etc/apparmor.d/bwrap-userns-restrict && printf",
        ),
        (replace(REFUSED, container="Docker"), "User namespaces", "blocked", "seccomp=unconfined"),
        (
            replace(REFUSED, container="Kubernetes", is_apparmor_restricting=True),
            "User namespaces",
            "blocked",
            "procMount: Unmasked",
        ),
        (
            replace(GOOD, probe_error="Creating new namespace failed: No space left on device"),
            "User namespaces",
            "blocked",
            "raise user.max_user_namespaces",
        ),
        (REFUSED, "User namespaces", "blocked", "ask your administrator"),
    ],
)
def test_what_is_missing_comes_with_its_next_step(
    host: Host, name: str, state: str, step: str
) -> None:
    """Each thing that can be missing is named, with why it matters and exactly what to do."""
    check = named(host, name)

    assert check.state == state
    assert step in check.next_step
    assert check.detail


def test_settings_do_not_matter_where_the_probe_went_well() -> None:
    """A restriction that does not bite (a profile is installed) is no trouble."""
    host = replace(GOOD, is_apparmor_restricting=True, container="Docker")

    assert named(host, "User namespaces").state == "ok"


def test_the_probe_says_what_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that fails gives the reason and no time."""
    monkeypatch.setattr(start, "_BARE_ENVIRONMENT", {"PATH": "/nonexistent"})

    assert doctor.probe() == ("'bwrap' is not installed", 0.0)


def test_versions_are_read_from_what_programs_say() -> None:
    """Odd suffixes do not matter; what is no version is none."""
    assert doctor._numbers(" 0.11.0\n") == (0, 11, 0)
    assert doctor._numbers("6.1.0-18-amd64") == (6, 1, 0)
    assert doctor._numbers("none") == ()
    assert doctor._bubblewrap_version("/bin/false") == ()
    assert doctor._bubblewrap_version("/nonexistent") == ()


def test_the_guard_of_the_memory_is_named() -> None:
    """The doctor says which guards hold a sandbox to its memory, and how to get both."""
    both = named(GOOD, "Memory limit")
    troubles = {
        "memory is not counted by control groups of version 2 here": ("", doctor.UNIFIED_STEP),
        "no control group that counts memory belongs to this user": ("", doctor.GROUP_STEP),
        "no control group that counts memory belongs to this user ": (
            "Docker",
            doctor.GROUP_CONTAINER_STEP,
        ),
    }
    alone = {
        trouble: named(replace(GOOD, group_trouble=trouble, container=container), "Memory limit")
        for trouble, (container, _) in troubles.items()
    }

    assert (both.state, both.next_step) == ("ok", "")
    assert "control group" in both.detail
    for trouble, check in alone.items():
        assert check.state == "warning"
        assert trouble in check.detail
        assert "watchdog" in check.detail
        assert check.next_step == troubles[trouble][1]


def test_this_machines_guard_is_what_a_server_uses() -> None:
    """What the doctor says of this machine is what a server would do on it."""
    found = {check.name: check for check in doctor.checks(can_probe=False)}["Memory limit"]

    assert (found.state == "ok") == (find_parent().parent is not None)
