"""Settings -> a launched sandbox and a connection to its agent, or nothing left running."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from opencode_magic.agent.server import OpenCodeServer, new_password
from opencode_magic.core.policy import canonical_host
from opencode_magic.core.providers import (
    DEMO_HOST,
    DEMO_MODEL,
    PROVIDERS,
    choose_model,
    demo_choice,
)
from opencode_magic.errors import ProviderError
from opencode_magic.sandbox.home import choose_home
from opencode_magic.sandbox.launch import LaunchRequest, check_request, launch
from opencode_magic.sandbox.prove import ProofTarget
from opencode_magic.session.agent import Agent

if TYPE_CHECKING:
    from collections.abc import Callable

    from opencode_magic.core.providers import ModelChoice
    from opencode_magic.core.status import Home, StatusEvent
    from opencode_magic.sandbox.home import HomeChoice
    from opencode_magic.session.seams import RunningSandbox
    from opencode_magic.settings import Settings

DEFAULT_TARGET = ProofTarget()
_DEMO_NAMES = {DEMO_MODEL, DEMO_MODEL.partition("/")[0], DEMO_HOST}


def start(
    settings: Settings,
    *,
    allow_unproven: bool,
    emit: Callable[[StatusEvent], None],
    on_made: Callable[[RunningSandbox], None],
    target: ProofTarget = DEFAULT_TARGET,
) -> Agent:
    """Choose home and model, launch, and connect to the agent.

    Args:
        settings: What to launch.
        allow_unproven: Go on where no evidence can be had that the wall stands.
        emit: Takes what happens, as it happens.
        on_made: Takes the sandbox before it is kept alive; it is the caller's to end from then on.
        target: The host that the proof expects to be refused.

    Raises:
        OpencodeMagicError: Something failed; what ``on_made`` did not take is not left running.
        KeyboardInterrupt: The user stopped it; likewise.
    """
    choice = choose_home(settings)
    model = choose(settings, choice.home)
    password = new_password()
    server = OpenCodeServer(model, password)
    request = LaunchRequest(
        settings=settings,
        choice=choice,
        model=model,
        allow_unproven=allow_unproven,
        target=target,
        on_made=on_made,
    )
    try:
        sandbox = launch(request, server, emit)
    finally:
        server.close()
    return Agent.connect(sandbox.url, password, sandbox.place.workspace, model=model)


def check(settings: Settings, choice: HomeChoice) -> None:
    """Refuse what the chosen home cannot do, before anything is said or started.

    Raises:
        ProviderError: The model cannot be used, or there is none for the cloud home.
        HomeUnavailableError: What is asked for is the other home's alone.
    """
    model = choose(settings, choice.home)
    check_request(LaunchRequest(settings=settings, choice=choice, model=model))


def choose(settings: Settings, home: Home) -> ModelChoice:
    """Choose the model: what was named, else a provider with a key, else the scripted one.

    Raises:
        ProviderError: The model cannot be used, or there is none for the cloud home.
    """
    if settings.model in _DEMO_NAMES and not settings.base_url:
        found = None
    else:
        found = choose_model(
            settings.model,
            keys=settings.keys,
            base_url=settings.base_url,
            api_key=settings.api_key,
        )
    if found is None:
        return _scripted(home)
    mapped = {canonical_host(name): url for name, url in settings.mappings.items()}
    return replace(found, forward_url=mapped.get(found.host, found.forward_url))


def _scripted(home: Home) -> ModelChoice:
    if home == "cloud":
        variables = ", ".join(provider.key_variable for provider in PROVIDERS.values())
        raise ProviderError(
            "the cloud home needs a model with a key; the scripted demo model is local",
            next_step=f"put one of {variables} into .env.local beside the notebook",
        )
    return demo_choice("")
