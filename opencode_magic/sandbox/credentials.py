"""Arguments, environment and ``.env`` files -> the cloud home's credentials, checked for age."""

from __future__ import annotations

import base64
import binascii
import json
import os
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from opencode_magic.errors import CredentialsError
from opencode_magic.settings import load_env_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from opencode_magic.settings import Settings

RENEW_STEP = "run: vercel env pull"
LINK_STEP = (
    "run: vercel link && vercel env pull (or set VERCEL_TOKEN, VERCEL_TEAM_ID and "
    "VERCEL_PROJECT_ID)"
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request to the cloud needs. Its repr holds no token."""

    token: str = field(repr=False)
    team_id: str
    project_id: str
    source: str
    """Where the token stands, such as ``VERCEL_OIDC_TOKEN in .env.local``."""
    expires_ms: int = 0
    """Unix time in milliseconds; 0 where it is not known."""


def find_credentials(
    settings: Settings,
    *,
    environ: Mapping[str, str] | None = None,
    clock: Callable[[], float] = time.time,
) -> Credentials:
    """Find the first usable credentials; everything is read anew at each call.

    Order: an OIDC token, then an access token among the arguments; ``VERCEL_OIDC_TOKEN`` of the
    environment, of ``.env.local`` and ``.env`` from the notebook's folder upwards; then
    ``VERCEL_TOKEN`` with team and project.

    Raises:
        CredentialsError: There are none, or all that there are have expired; carries the command
            that gets fresh ones, and never a token.
    """
    env: Mapping[str, str] = os.environ if environ is None else environ
    files = tuple(load_env_files(settings.folder))
    expired: Credentials | None = None
    broken: CredentialsError | None = None
    if settings.token and not settings.oidc_token:
        return _with_project(settings.token, "the argument token", settings, env, files)
    for token, source in _oidc_tokens(settings, env, files):
        try:
            found = parse_oidc_token(token, source=source)
        except CredentialsError as exc:
            broken = broken or exc
            continue
        found = replace(
            found,
            team_id=settings.team_id or found.team_id,
            project_id=settings.project_id or found.project_id,
        )
        if not found.expires_ms or found.expires_ms > clock() * 1000:
            return found
        expired = expired or found
    try:
        from_token = _from_environment(settings, env, files)
    except CredentialsError as exc:
        if expired is None:
            raise
        msg = f"{_has_expired(expired, clock)}, and {exc.message}"
        raise CredentialsError(msg, next_step=f"{RENEW_STEP}; or set what is missing") from None
    if from_token is not None:
        return from_token
    if expired is not None:
        raise CredentialsError(_has_expired(expired, clock), next_step=RENEW_STEP)
    if broken is not None:
        raise broken
    raise CredentialsError("there are no Vercel credentials", next_step=LINK_STEP)


def _has_expired(found: Credentials, clock: Callable[[], float]) -> str:
    ago_min = max(1, int(clock() * 1000 - found.expires_ms) // 60_000)
    return f"the token from {found.source} expired {_in_words(ago_min)} ago"


def parse_oidc_token(token: str, *, source: str) -> Credentials:
    """Read owner, project and expiry from a JWT, without a signature check (Vercel does that).

    Raises:
        CredentialsError: It is no JWT, or lacks owner or project.
    """
    try:
        claims = _claims(token)
        expires_ms = int(float(claims.get("exp") or 0) * 1000)
    except (ValueError, TypeError, AttributeError, OverflowError, binascii.Error):
        claims, expires_ms = {}, 0
    team_id, project_id = claims.get("owner_id"), claims.get("project_id")
    if not isinstance(team_id, str) or not isinstance(project_id, str):
        msg = f"the token from {source} is no Vercel OIDC token"
        raise CredentialsError(msg, next_step=RENEW_STEP)
    return Credentials(
        token=token, team_id=team_id, project_id=project_id, source=source, expires_ms=expires_ms
    )


def _claims(token: str) -> dict[str, Any]:
    _header, payload, _signature = token.split(".")
    padded = payload + "=" * (-len(payload) % 4)
    # Claims are whatever the token holds; each one that is used is checked by the caller.
    claims: dict[str, Any] = dict(json.loads(base64.urlsafe_b64decode(padded)))
    return claims


def _oidc_tokens(
    settings: Settings,
    env: Mapping[str, str],
    files: tuple[tuple[Path, Mapping[str, str]], ...],
) -> Iterator[tuple[str, str]]:
    if settings.oidc_token:
        yield settings.oidc_token, "the argument oidc_token"
    if env.get("VERCEL_OIDC_TOKEN"):
        yield env["VERCEL_OIDC_TOKEN"], "VERCEL_OIDC_TOKEN in the environment"
    for path, values in files:
        if values.get("VERCEL_OIDC_TOKEN"):
            yield values["VERCEL_OIDC_TOKEN"], f"VERCEL_OIDC_TOKEN in {path.name}"


def _from_environment(
    settings: Settings,
    env: Mapping[str, str],
    files: tuple[tuple[Path, Mapping[str, str]], ...],
) -> Credentials | None:
    token = _look_up("VERCEL_TOKEN", env, files)
    return _with_project(token, "VERCEL_TOKEN", settings, env, files) if token else None


def _with_project(
    token: str,
    source: str,
    settings: Settings,
    env: Mapping[str, str],
    files: tuple[tuple[Path, Mapping[str, str]], ...],
) -> Credentials:
    """Give an access token with the team and project it is for."""
    team_id = settings.team_id or _look_up("VERCEL_TEAM_ID", env, files)
    project_id = settings.project_id or _look_up("VERCEL_PROJECT_ID", env, files)
    wanted = {"VERCEL_TEAM_ID": team_id, "VERCEL_PROJECT_ID": project_id}
    missing = [name for name, value in wanted.items() if not value]
    if missing:
        msg = f"{source} is set, but {' and '.join(missing)} is not"
        raise CredentialsError(msg, next_step=LINK_STEP)
    return Credentials(token=token, team_id=team_id, project_id=project_id, source=source)


def _look_up(
    variable: str, env: Mapping[str, str], files: tuple[tuple[Path, Mapping[str, str]], ...]
) -> str:
    sources = (env, *(values for _, values in files))
    return next((values[variable] for values in sources if values.get(variable)), "")


_MINUTES_AN_HOUR = 60


def _in_words(minutes: int) -> str:
    if minutes < 2 * _MINUTES_AN_HOUR:
        return f"{minutes} min"
    return f"{minutes // _MINUTES_AN_HOUR} h"
