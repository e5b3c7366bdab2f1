"""The whole round on Vercel itself. Needs an account and a key of the AI Gateway; it bills."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from opencode_magic.sandbox.credentials import find_credentials
from opencode_magic.session.ask import Asking, SilentView, ask_agent
from opencode_magic.session.session import Session
from opencode_magic.settings import load_settings
from tests.conftest import USER_ENVIRONMENT

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]


def test_round_on_vercel() -> None:
    """Launched, proven or said not to be provable from here, asked, and taken down."""
    folder = Path(__file__).parents[2]
    settings = load_settings({"home": "cloud"}, folder=folder, environ=USER_ENVIRONMENT)
    found = find_credentials(settings, environ=USER_ENVIRONMENT)
    if found.expires_ms:
        # The environment is clean in tests, and an OIDC token would be looked for there again.
        settings = replace(settings, oidc_token=found.token)
    session = Session()
    try:
        status = session.up(settings, allow_unproven=True)
        reply = ask_agent(session, Asking(text="Say: pong."), view=SilentView())
        proof = session.prove()
    finally:
        report = session.down(discard=True)

    assert status.phase in {"locked", "unproven"}
    assert (reply.state, "pong" in reply.text.lower()) == ("done", True)
    assert proof.verdict in {"proven", "unproven"}
    assert len(report.removed) == 1
