"""The chosen model to OpenCode's configuration and environment: silent, fast, no key inside.

Source: OpenCode 1.18.33. Its configuration is given as an environment variable, which no file in
the workspace can override.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from opencode_magic.core.opencode import USERNAME, VERSION
from opencode_magic.core.providers import PLACEHOLDER_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opencode_magic.core.opencode import Place
    from opencode_magic.core.providers import ModelChoice

CONTEXT_TOKENS = 200_000
OUTPUT_TOKENS = 32_000
"""Limits for a model that OpenCode's own catalogue does not know."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What can be chosen about the agent server."""

    asks: tuple[str, ...] = ()
    """Permissions that the user is asked for, such as ``bash`` and ``edit``; else all is allowed:
    the sandbox is the wall, permissions are not."""
    header_timeout_s: float = 60.0
    """A provider that sends no answer for so long is asked again."""
    chunk_timeout_s: float = 120.0
    """The same for one that falls silent in the middle of its answer."""
    has_snapshots: bool = True
    """Whether OpenCode keeps snapshots of a git workspace; they cost about 0.2 s a step."""
    has_ripgrep: bool = True
    """Whether ``rg`` is on the PATH in the sandbox."""


def opencode_config(model: ModelChoice, options: ServerOptions) -> Mapping[str, object]:
    """Give the content of ``opencode.json`` for a model. It holds a placeholder and no key."""
    return {
        "$schema": "https://opencode.ai/config.json",
        "autoupdate": False,
        "share": "disabled",
        "snapshot": options.has_snapshots,
        "enabled_providers": [model.provider_id],
        "provider": {model.provider_id: _provider(model, options)},
        "model": model.name,
        # Without it a small model of another vendor is asked for titles and summaries.
        "small_model": model.name,
        "permission": _permissions(options.asks),
    }


def _provider(model: ModelChoice, options: ServerOptions) -> Mapping[str, object]:
    settings: dict[str, object] = {
        # The provider SDKs refuse to send anything without a key.
        "apiKey": PLACEHOLDER_KEY,
        "headerTimeout": round(options.header_timeout_s * 1000),
        "chunkTimeout": round(options.chunk_timeout_s * 1000),
    }
    if model.base_url:
        settings["baseURL"] = model.base_url
    entry: dict[str, object] = {"options": settings, "whitelist": [model.model_id]}
    if model.npm:
        entry["npm"] = model.npm
        entry["name"] = model.label or model.provider_id
        entry["models"] = {
            model.model_id: {
                "name": model.model_id,
                "limit": {"context": CONTEXT_TOKENS, "output": OUTPUT_TOKENS},
                "modalities": {"input": ["text", "image"], "output": ["text"]},
                "tool_call": True,
            }
        }
    else:
        # Models that are newer than OpenCode's catalogue have to be named; known ones keep theirs.
        entry["models"] = {model.model_id: {}}
    return entry


def _permissions(asks: tuple[str, ...]) -> Mapping[str, str]:
    """Give the permission rules; the order matters, the last match wins."""
    rules = {
        "*": "allow",
        "external_directory": "allow",
        "doom_loop": "deny",
        "question": "deny",
        "websearch": "deny",
    }
    return {**rules, **dict.fromkeys(asks, "ask")}


def server_environment(
    place: Place, *, password: str, config: str, options: ServerOptions
) -> Mapping[str, str]:
    """Give the environment that keeps OpenCode off the network but for the model's host."""
    switches = [
        "OPENCODE_DISABLE_PROJECT_CONFIG",
        "OPENCODE_DISABLE_MODELS_FETCH",
        "OPENCODE_DISABLE_AUTOUPDATE",
        "OPENCODE_DISABLE_LSP_DOWNLOAD",
        "OPENCODE_DISABLE_DEFAULT_PLUGINS",
        "OPENCODE_DISABLE_SHARE",
        "OPENCODE_DISABLE_CLAUDE_CODE",
        "OPENCODE_DISABLE_EXTERNAL_SKILLS",
    ]
    if options.has_ripgrep:
        # The native file finder leaves 5.6 MB in TMPDIR at each start; without rg it is needed.
        switches.append("OPENCODE_DISABLE_FFF")
    return {
        "HOME": place.home,
        "TMPDIR": place.temporary,
        "NO_PROXY": "127.0.0.1,localhost",
        # Bun keeps a refused name for 30 s; a host that the user allows must work at once.
        "BUN_CONFIG_DNS_TIME_TO_LIVE_SECONDS": "0",
        "OPENCODE_SERVER_USERNAME": USERNAME,
        "OPENCODE_SERVER_PASSWORD": password,
        "OPENCODE_CONFIG_CONTENT": config,
        **dict.fromkeys(switches, "1"),
    }


PLUGIN = "@opencode-ai/plugin"


def seed_files() -> Mapping[str, object]:
    """Give what OpenCode's folder of settings must hold, or it runs npm at its first use."""
    dependencies = {"dependencies": {PLUGIN: VERSION}}
    lock = {"name": "opencode", "lockfileVersion": 3, "requires": True}
    return {
        "package.json": dependencies,
        "package-lock.json": {**lock, "packages": {"": dependencies}},
    }
