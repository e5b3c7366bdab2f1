from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest

from opencode_magic.errors import CredentialsError
from opencode_magic.sandbox.credentials import find_credentials, parse_oidc_token
from opencode_magic.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from opencode_magic.sandbox.credentials import Credentials

NOW_S = 1_800_000_000.0


def make_token(*, expires_s: float = NOW_S + 3600, team_id: str = "team_a") -> str:
    """A JWT as ``vercel env pull`` writes it; nobody here checks the signature."""
    claims = {"owner_id": team_id, "project_id": "prj_a", "exp": expires_s}
    parts = (json.dumps(part).encode() for part in ({"alg": "RS256"}, claims))
    head, body = (base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
    return f"{head}.{body}.c2lnbmF0dXJl"


def find(folder: Path, environ: Mapping[str, str], **arguments: object) -> Credentials:
    settings = load_settings(arguments, folder=folder, environ={})
    return find_credentials(settings, environ=environ, clock=lambda: NOW_S)


def test_sources_are_asked_in_order(tmp_path: Path) -> None:
    """Argument, environment, .env.local, .env, then the access token."""
    token = {"VERCEL_TOKEN": "t", "VERCEL_TEAM_ID": "team", "VERCEL_PROJECT_ID": "prj"}
    env = {**token, "VERCEL_OIDC_TOKEN": make_token(team_id="environ")}
    seen = [find(tmp_path, token).team_id]
    for name in (".env", ".env.local"):
        (tmp_path / name).write_text(f"VERCEL_OIDC_TOKEN={make_token(team_id=name)}\n")
        seen.append(find(tmp_path, token).team_id)
    seen.append(find(tmp_path, env).team_id)
    seen.append(find(tmp_path, env, oidc_token=make_token(team_id="argument")).team_id)

    assert seen == ["team", ".env", ".env.local", "environ", "argument"]


def test_expired_token_names_the_command_that_renews_it(tmp_path: Path) -> None:
    """An expired token is told before any call, with its age and the command, and unseen."""
    token = make_token(expires_s=NOW_S - 3 * 3600)

    with pytest.raises(CredentialsError, match=r"expired 3 h ago.*vercel env pull") as caught:
        find(tmp_path, {"VERCEL_OIDC_TOKEN": token})

    assert token.split(".")[1] not in str(caught.value)


def test_fresh_token_in_a_file_beats_an_expired_one_in_the_environment(tmp_path: Path) -> None:
    """After ``vercel env pull`` an old token in the kernel's environment does no harm."""
    (tmp_path / ".env.local").write_text(f"VERCEL_OIDC_TOKEN={make_token(team_id='fresh')}\n")

    found = find(tmp_path, {"VERCEL_OIDC_TOKEN": make_token(expires_s=NOW_S - 60)})

    assert found.team_id == "fresh"


def test_file_is_read_anew_each_time(tmp_path: Path) -> None:
    """A token that was renewed while the notebook runs is used at the next request."""
    seen = []
    for team_id in ("first", "second"):
        (tmp_path / ".env.local").write_text(f"VERCEL_OIDC_TOKEN={make_token(team_id=team_id)}\n")
        seen.append(find(tmp_path, {}).team_id)

    assert seen == ["first", "second"]


@pytest.mark.parametrize(
    "token",
    ["", "x", "a.b", "a.b.c", "a.e30.c", "a.W10.c", f"a.{'A' * 4001}.c", "a.bnVsbA.c", "ä.ö.ü"],
)
def test_rubbish_is_no_token(token: str) -> None:
    """What is no JWT with owner and project is one clear error."""
    with pytest.raises(CredentialsError, match="no Vercel OIDC token"):
        parse_oidc_token(token, source="a test")


def test_rubbish_in_a_file_is_told(tmp_path: Path) -> None:
    """Where the only token is broken the error says so and where it stands."""
    (tmp_path / ".env").write_text("VERCEL_OIDC_TOKEN=rubbish\n")

    with pytest.raises(CredentialsError, match=r"VERCEL_OIDC_TOKEN in \.env"):
        find(tmp_path, {})


def test_access_token_needs_team_and_project(tmp_path: Path) -> None:
    """An access token alone says what else must be set."""
    with pytest.raises(CredentialsError, match="VERCEL_TEAM_ID and VERCEL_PROJECT_ID is not"):
        find(tmp_path, {"VERCEL_TOKEN": "t"})


def test_access_token_as_an_argument_comes_before_the_environment(tmp_path: Path) -> None:
    """Who names a token uses that one, with the team and project that they name."""
    env = {"VERCEL_OIDC_TOKEN": make_token(), "VERCEL_TEAM_ID": "team", "VERCEL_PROJECT_ID": "prj"}

    found = find(tmp_path, env, token="t", project_id="mine")

    assert (found.token, found.team_id, found.project_id) == ("t", "team", "mine")
    with pytest.raises(CredentialsError, match="the argument token is set, but VERCEL_TEAM_ID"):
        find(tmp_path, {"VERCEL_OIDC_TOKEN": make_token()}, token="t", project_id="mine")


def test_environment_of_an_access_token_leaves_an_oidc_token_its_own(tmp_path: Path) -> None:
    """An OIDC token is for its own team and project, whatever another token's are."""
    env = {"VERCEL_OIDC_TOKEN": make_token(), "VERCEL_TEAM_ID": "b", "VERCEL_PROJECT_ID": "prj_b"}
    settings = load_settings(folder=tmp_path, environ=env)

    found = find_credentials(settings, environ=env, clock=lambda: NOW_S)

    assert (found.team_id, found.project_id) == ("team_a", "prj_a")


def test_expired_token_beside_an_access_token_without_a_team_is_told(tmp_path: Path) -> None:
    """Where neither can be used both are named, and the quicker way comes first."""
    env = {"VERCEL_OIDC_TOKEN": make_token(expires_s=NOW_S - 3600), "VERCEL_TOKEN": "t"}

    with pytest.raises(CredentialsError, match=r"expired 60 min ago.*VERCEL_TEAM_ID") as caught:
        find(tmp_path, env)

    assert caught.value.next_step.startswith("run: vercel env pull")


def test_no_credentials_at_all_names_the_way(tmp_path: Path) -> None:
    """Without any credentials the error names both ways to get some."""
    with pytest.raises(CredentialsError, match=r"vercel link.*VERCEL_TOKEN"):
        find(tmp_path, {})


def test_repr_holds_no_token(tmp_path: Path) -> None:
    """The token does not show in the repr."""
    token = make_token()

    assert token not in repr(find(tmp_path, {"VERCEL_OIDC_TOKEN": token}))
