from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from opencode_magic.errors import CredentialsError, HomeUnavailableError
from opencode_magic.sandbox import home
from opencode_magic.sandbox.home import HomeChoice, LocalProbe, choose_home, probe_local
from opencode_magic.settings import load_settings
from tests.sandbox.test_credentials import make_token

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opencode_magic.settings import Settings

WORKS = LocalProbe(is_ok=True, reason="Linux with bubblewrap")
FORBIDDEN = LocalProbe(
    is_ok=False, reason="this system forbids user namespaces", own_step="ask for the profile"
)


@pytest.fixture(autouse=True)
def fresh_probe() -> Iterator[None]:
    """The machine is probed anew in each test."""
    home._WORKING.clear()
    yield
    home._WORKING.clear()


@pytest.fixture
def settings() -> Settings:
    """Settings that name no home."""
    return load_settings()


@pytest.fixture
def linked(settings: Settings) -> Settings:
    """Settings with credentials for the cloud."""
    return replace(settings, oidc_token=make_token(expires_s=4_000_000_000))


def probe_says(monkeypatch: pytest.MonkeyPatch, probe: LocalProbe) -> None:
    monkeypatch.setattr(home, "probe_local", lambda: probe)


def test_local_is_chosen_where_it_works(monkeypatch: pytest.MonkeyPatch, linked: Settings) -> None:
    """Where the machine can isolate, nothing is billed, credentials or not."""
    probe_says(monkeypatch, WORKS)

    assert choose_home(linked) == HomeChoice("local", "Linux with bubblewrap")


def test_cloud_is_chosen_where_local_does_not_work(
    monkeypatch: pytest.MonkeyPatch, linked: Settings
) -> None:
    """With credentials the cloud home steps in, and says why and that it bills."""
    probe_says(monkeypatch, FORBIDDEN)

    assert choose_home(linked) == HomeChoice(
        "cloud", "this system forbids user namespaces; runs on Vercel, which bills"
    )


def test_neither_home_is_refused_with_the_platforms_step(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    """No isolation, no launch: the error says what is missing on both homes."""
    probe_says(monkeypatch, FORBIDDEN)

    with pytest.raises(HomeUnavailableError, match="no usable credentials") as caught:
        choose_home(settings)

    assert caught.value.next_step.startswith("for the cloud home, run: vercel link && vercel env")
    assert caught.value.next_step.endswith("; or ask for the profile")


def test_expired_token_is_renewed_first(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    """Who has a token that expired reads the command that renews it, before anything else."""
    probe_says(monkeypatch, FORBIDDEN)

    with pytest.raises(HomeUnavailableError, match="expired") as caught:
        choose_home(replace(settings, oidc_token=make_token(expires_s=1)))

    assert caught.value.next_step == (
        "for the cloud home, run: vercel env pull; or ask for the profile"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the local home needs Linux")
def test_step_does_not_name_the_cloud_without_credentials(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path
) -> None:
    """Where the cloud home cannot be used yet, nobody is sent to it as the next step."""
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(HomeUnavailableError) as caught:
        choose_home(settings)

    assert "--home cloud" not in caught.value.next_step
    assert caught.value.next_step.endswith("; or install it (apt-get install bubblewrap)")


def test_named_local_home_never_becomes_the_cloud(
    monkeypatch: pytest.MonkeyPatch, linked: Settings
) -> None:
    """Who names the local home is refused where it does not work, and is not billed."""
    probe_says(monkeypatch, FORBIDDEN)

    with pytest.raises(HomeUnavailableError):
        choose_home(replace(linked, home="local"))


def test_named_cloud_home_needs_credentials(settings: Settings) -> None:
    """Who names the cloud home without credentials learns how to get them."""
    with pytest.raises(CredentialsError, match="vercel link"):
        choose_home(replace(settings, home="cloud"))


@pytest.mark.parametrize(("system", "name"), [("darwin", "macOS"), ("win32", "Windows")])
def test_other_systems_are_pointed_to_the_cloud(
    monkeypatch: pytest.MonkeyPatch, system: str, name: str
) -> None:
    """On macOS and Windows there is no local home; the step names the other."""
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("platform.system", lambda: {"darwin": "Darwin"}.get(system, "Windows"))

    probe = probe_local()

    assert not probe.is_ok
    assert name in probe.reason
    assert "--home cloud" in probe.next_step


@pytest.mark.skipif(sys.platform != "linux", reason="the local home needs Linux")
def test_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without bubblewrap the step is to install it."""
    monkeypatch.setenv("PATH", str(tmp_path))

    assert probe_local() == LocalProbe(
        is_ok=False,
        reason="the program 'bwrap' is missing, which the local home needs",
        next_step="install it (apt-get install bubblewrap), or use the cloud home: "
        "%opencode_up --home cloud",
        own_step="install it (apt-get install bubblewrap)",
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the local home needs Linux")
def test_program_that_was_installed_meanwhile_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After a refusal the machine is probed again: no kernel needs a restart."""
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        before = probe_local()
    for name in ("bwrap", "rg", "git"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    assert (before.is_ok, probe_local().is_ok) == (False, True)


@pytest.mark.skipif(sys.platform != "linux", reason="the local home needs Linux")
def test_forbidden_namespaces_are_told_with_bubblewraps_word(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where bubblewrap may not make a namespace its own last line stands in the reason."""
    programs = {
        "bwrap": "echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1",
        "rg": ":",
        "git": ":",
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    probe = probe_local()

    assert not probe.is_ok
    assert "forbids user namespaces (bwrap: setting up uid map: Permission denied)" in probe.reason
    assert "cloud" in probe.next_step


@pytest.mark.skipif(sys.platform != "linux", reason="the local home needs Linux")
def test_probe_agrees_with_bubblewrap() -> None:
    """The probe says yes exactly where bubblewrap can make a user and a network namespace."""
    try:
        command = ["bwrap", "--unshare-user", "--unshare-net", "--ro-bind", "/", "/", "true"]
        code = subprocess.run(command, check=False, capture_output=True).returncode
    except FileNotFoundError:
        code = 127

    assert probe_local().is_ok == (code == 0)
