"""For anyone with a Vercel account: ``pytest -m live tests/sandbox``. It bills a minute or two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from opencode_magic.core.providers import choose_model
from opencode_magic.errors import CredentialsError
from opencode_magic.sandbox.credentials import find_credentials
from opencode_magic.sandbox.launch import LaunchRequest, launch
from opencode_magic.settings import load_settings
from tests.conftest import USER_ENVIRONMENT
from tests.sandbox.homes import CLOUD, Events, opencode_server

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("opencode_binary")]


def test_launch_prove_and_end_on_vercel() -> None:
    """With the user's own credentials: up, proven, down, and nothing remains."""
    project = Path(__file__).parents[2]
    settings = load_settings({"home": "cloud"}, folder=project, environ=USER_ENVIRONMENT)
    try:
        found = find_credentials(settings, environ=USER_ENVIRONMENT)
    except CredentialsError as exc:
        pytest.skip(str(exc))
    model = choose_model(settings.model, keys=settings.keys)
    if model is None:
        pytest.skip("set AI_GATEWAY_API_KEY")
    if found.expires_ms:
        settings = replace(settings, oidc_token=found.token)
    request = LaunchRequest(settings=settings, choice=CLOUD, model=model)

    sandbox = launch(request, opencode_server(request), Events())
    gone = sandbox.terminate()

    assert sandbox.proof.verdict == "proven"
    assert len(gone.removed) == 1
