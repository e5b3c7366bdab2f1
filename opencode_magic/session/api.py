"""The magics as Python functions: ``up``, ``ask``, ``prove``, ``status``, ``doctor``, ``down``.

They act on the notebook's session where the extension is loaded, else on one of their own.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from opencode_magic.session.session import DownReport, Session

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from opencode_magic.core.checks import Check
    from opencode_magic.core.proof import Proof
    from opencode_magic.core.status import Status
    from opencode_magic.session.reply import Reply
    from opencode_magic.settings import Settings

_current: list[Session] = []
"""The session that the functions act on: at most one. The magics keep theirs on their instance."""


def use(session: Session | None) -> None:
    """Let the functions act on this session; None gives them one of their own when needed."""
    _current[:] = [] if session is None else [session]


def session() -> Session:
    """Give the session that the functions act on."""
    if not _current:
        _current.append(Session())
    return _current[0]


def up(  # noqa: PLR0913 - one keyword a setting, as the flags are
    *,
    home: str = "",
    model: str = "",
    base_url: str = "",
    minutes: int | None = None,
    mappings: Mapping[str, str] | None = None,
    is_strict: bool = False,
    allow_unproven: bool = False,
    folder: Path | None = None,
    token: str = "",
    team_id: str = "",
    project_id: str = "",
    oidc_token: str = "",
) -> Status:
    """Launch the agent in a locked sandbox and prove the wall; keeps one that is up already.

    Args:
        home: ``local`` or ``cloud`` (which bills); empty chooses.
        model: ``provider/model``; empty takes the first provider that has a key, else the
            scripted demo model.
        base_url: An OpenAI-compatible endpoint.
        minutes: How long the sandbox lives without a sign of this process.
        mappings: Names that end in ``.internal``, and servers on this machine (local home only).
        is_strict: The firewall reads plain allowed hosts too, so that fronting is impossible (local
            home only).
        allow_unproven: Go on where no evidence can be had that the wall stands.
        folder: Where ``.env.local`` and ``.env`` are looked for, upwards; by default here.
        token: A Vercel access token for the cloud home; comes before what the environment holds.
        team_id: The Vercel team that is billed.
        project_id: The Vercel project that the sandbox belongs to.
        oidc_token: A Vercel OIDC token; comes before every other one.

    Raises:
        OpencodeMagicError: Nothing was launched, and nothing is left running.
    """
    found = settings(
        home=home,
        model=model,
        base_url=base_url,
        minutes=minutes,
        mappings=mappings,
        is_strict=is_strict,
        folder=folder,
        token=token,
        team_id=team_id,
        project_id=project_id,
        oidc_token=oidc_token,
    )
    if not session().is_alive() and (notice := billing_notice(found)):
        print(notice, file=sys.stderr)  # noqa: T201 - what costs money is said before it starts
    return session().up(found, allow_unproven=allow_unproven, has_time=minutes is not None)


def ask(
    text: str,
    *,
    keep_going: bool = False,
    new: bool = False,
) -> Reply:
    """Ask the agent and wait for its answer.

    Args:
        text: The prompt, sent as it stands.
        keep_going: Give the ``Reply`` of a failed turn instead of raising.
        new: Begin a new conversation.

    Raises:
        NotLaunchedError: There is no sandbox.
        TurnFailed: The turn failed; ``reply`` on it has what came.
    """
    from opencode_magic.session.ask import (  # noqa: PLC0415 - loads httpx
        Asking,
        SilentView,
        ask_agent,
    )

    asking = Asking(text=text, keep_going=keep_going, is_new=new)
    return ask_agent(session(), asking, view=SilentView())


def prove() -> Proof:
    """Run the probes from inside the sandbox again.

    Raises:
        NotLaunchedError: There is no sandbox.
    """
    return session().prove()


def status() -> Status:
    """Give what is known of the sandbox; asks it whether it still runs."""
    session().is_alive()
    return session().status


def doctor() -> tuple[Check, ...]:
    """Look at everything a launch needs: what works here, what does not, the next steps."""
    from opencode_magic.session.doctor import run_checks  # noqa: PLC0415 - loads the SDK's side

    return run_checks(settings(), session().status)


def down(*, discard: bool = False) -> DownReport:
    """Stop and remove the sandbox.

    Args:
        discard: Delete the agent's files instead of keeping them.
    """
    return session().down(discard=discard)


def billing_notice(found: Settings) -> str:
    """Give the line to say before a launch that costs money; empty where none does.

    Raises:
        OpencodeMagicError: No home can be used, or the cloud home cannot do what is asked for.
    """
    from opencode_magic.sandbox.home import choose_home  # noqa: PLC0415 - as above

    choice = choose_home(found)
    if choice.home == "local":
        return ""
    from opencode_magic.session.start import check  # noqa: PLC0415 - loads httpx and the SDK

    check(found, choice)
    return f"Cloud home: {choice.reason}."


def settings(
    *,
    home: str = "",
    model: str = "",
    base_url: str = "",
    minutes: int | None = None,
    mappings: Mapping[str, str] | None = None,
    is_strict: bool = False,
    folder: Path | None = None,
    **credentials: str,
) -> Settings:
    """Read the settings, these arguments first; ``credentials`` are named as in ``Settings``.

    Raises:
        SettingsError: One of them is malformed.
    """
    from opencode_magic.settings import load_settings  # noqa: PLC0415 - reads several libraries

    given: dict[str, object] = {"home": home, "model": model, "base_url": base_url, **credentials}
    if minutes is not None:
        given["time_limit_s"] = minutes * 60
    if mappings:
        given["mappings"] = dict(mappings)
    if is_strict:
        given["is_strict"] = True
    return load_settings(given, folder=folder)
