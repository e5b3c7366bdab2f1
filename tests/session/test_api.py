"""The Python functions, on a session of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from opencode_magic.errors import OpencodeMagicError
from opencode_magic.sandbox.credentials import find_credentials
from opencode_magic.session import api
from opencode_magic.session.session import Session
from tests.doubles import StandInSandbox, StandInStarter
from tests.sandbox.test_credentials import make_token

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTICE = "Cloud home: as named; runs on Vercel, which bills.\n"


@pytest.fixture
def billed(sandbox: StandInSandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """Let the functions act on a session with a stand-in; the cloud home can be chosen."""
    monkeypatch.setenv("VERCEL_OIDC_TOKEN", make_token(expires_s=4_000_000_000))
    monkeypatch.setenv("AI_GATEWAY_API_KEY", "planted-vck-0123456789abcdefghij")
    session = Session(starter=StandInStarter(sandbox))
    api.use(session)
    yield session
    session.down()
    api.use(None)


@pytest.mark.usefixtures("billed")
def test_each_sandbox_that_bills_is_announced(
    sandbox: StandInSandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also the one that is launched because the last one has ended by itself."""
    api.up(home="cloud")
    first = capsys.readouterr().err
    sandbox.is_running = False
    api.up(home="cloud")
    second = capsys.readouterr().err

    assert (first, second) == (NOTICE, NOTICE)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"is_strict": True}, "strict is the local home's alone"),
        ({"mappings": {"x.internal": "http://127.0.0.1:1"}}, "x.internal is mapped to this"),
        ({"model": "demo-model"}, "the scripted demo model is local"),
        ({"base_url": "http://plain.example/v1", "model": "x"}, "is not an https address"),
    ],
)
def test_no_bill_is_announced_for_what_is_refused(
    billed: Session,
    capsys: pytest.CaptureFixture[str],
    wish: dict[str, Any],
    message: str,
) -> None:
    """What the cloud home cannot do is refused before anything is said of its costs."""
    with pytest.raises(OpencodeMagicError, match=message):
        api.up(home="cloud", **wish)

    assert capsys.readouterr().err == ""
    assert not billed.is_up


@pytest.mark.parametrize("name", ["token", "oidc_token"])
def test_credentials_as_arguments(
    billed: Session, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Credentials can be given by argument alone; no repr has the token."""
    monkeypatch.delenv("VERCEL_OIDC_TOKEN")
    token = make_token(expires_s=4_000_000_000)

    wish: dict[str, Any] = {name: token, "team_id": "team_1", "project_id": "prj_1"}

    status = api.up(home="cloud", **wish)

    launched = billed._launched
    assert launched is not None
    found = find_credentials(launched, environ={})
    assert (found.token, found.team_id, found.project_id) == (token, "team_1", "prj_1")
    for shown in (repr(value) for value in (launched, found, billed, status)):
        assert token not in shown
