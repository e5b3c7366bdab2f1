"""The model providers: hosts, key variable, injected header, and what OpenCode needs to know.

Sources: OpenCode 1.18.33's requests as seen on the wire (host, path, credential header of each
provider), and Vercel's firewall documentation for header injection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opencode_magic.core.policy import HostRules, NetworkPolicy, Rule, canonical_host
from opencode_magic.errors import ProviderError

if TYPE_CHECKING:
    from collections.abc import Mapping

PLACEHOLDER_KEY = "brokered-by-the-firewall"
"""Stands inside the sandbox where a key is expected; the firewall overwrites it."""

DEMO_HOST = "demo-model.internal"
DEMO_MODEL = "demo-model/scripted"


@dataclass(frozen=True, slots=True)
class Provider:
    """One row of the table."""

    provider_id: str
    label: str
    host: str
    key_variable: str
    header: str
    """The header that carries the key, in lower case."""
    header_prefix: str = ""
    npm: str = ""
    """OpenCode's SDK package, where the provider is not in its own catalogue."""
    default_model: str = ""
    """Without the provider's id; empty where the user must name one."""


PROVIDERS: Mapping[str, Provider] = {
    provider.provider_id: provider
    for provider in (
        Provider(
            "vercel",
            "AI Gateway",
            "ai-gateway.vercel.sh",
            "AI_GATEWAY_API_KEY",
            "authorization",
            "Bearer ",
            default_model="anthropic/claude-sonnet-4.6",
        ),
        Provider(
            "anthropic",
            "Anthropic",
            "api.anthropic.com",
            "ANTHROPIC_API_KEY",
            "x-api-key",
            default_model="claude-sonnet-4-6",
        ),
        Provider(
            "openai",
            "OpenAI",
            "api.openai.com",
            "OPENAI_API_KEY",
            "authorization",
            "Bearer ",
            default_model="gpt-5.2",
        ),
    )
}

NOT_BROKERED: Mapping[str, str] = {
    "amazon-bedrock": "it signs every request (SigV4)",
    "google-vertex": "it signs in with OAuth",
    "google-vertex-anthropic": "it signs in with OAuth",
    "github-copilot": "it signs in with OAuth",
    "gitlab": "it signs in with OAuth",
}
"""Providers that are refused by name, and why."""


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """Everything that launch, configuration and policy need to know about the chosen model."""

    provider_id: str
    model_id: str
    """As the provider knows it: without the provider's id, may hold slashes."""
    host: str
    base_url: str = ""
    """Empty where OpenCode knows the provider's address itself."""
    npm: str = ""
    header: str = ""
    """The header to inject; empty where the model needs no key."""
    header_value: str = field(default="", repr=False)
    forward_url: str = ""
    """A mapping: where the local home sends requests for ``host``."""
    is_scripted: bool = False
    label: str = ""

    @property
    def name(self) -> str:
        """``provider/model``."""
        return f"{self.provider_id}/{self.model_id}"

    @property
    def is_key_outside(self) -> bool:
        """Whether the firewall injects a key."""
        return bool(self.header)

    def policy(self) -> NetworkPolicy:
        """Give the network policy that allows exactly this model's host."""
        rules: tuple[Rule, ...] = ()
        if self.forward_url:
            rules = (Rule(forward_url=self.forward_url),)
        elif self.header:
            rules = (Rule(headers={self.header: self.header_value}),)
        return NetworkPolicy(mode="custom", hosts=(HostRules(self.host, rules),))


def choose_model(
    model: str,
    *,
    keys: Mapping[str, str],
    base_url: str = "",
    api_key: str = "",
    mappings: Mapping[str, str] | None = None,
) -> ModelChoice | None:
    """Choose the model to use, from what the user named and the keys that exist.

    Args:
        model: ``provider/model``, a provider's id alone, or empty for the first provider that has
            a key.
        keys: Key variables that are set, by name.
        base_url: An OpenAI-compatible endpoint; ``model`` then names the model there.
        api_key: The key for ``base_url``; empty where it needs none.
        mappings: Names ending in ``.internal`` and where the local home sends their requests; None
            leaves them to the caller.

    Returns:
        None where nothing was named and no key exists: the scripted demo model is used then.

    Raises:
        ProviderError: The provider is unknown, needs a key that is not there, or cannot be served
            by an injected header.
    """
    if base_url:
        return _compatible(model, base_url, api_key, mappings)
    if not model:
        found = next((p for p in PROVIDERS.values() if keys.get(p.key_variable)), None)
        return None if found is None else _known(found, found.default_model, keys)
    provider_id, _, model_id = model.partition("/")
    if provider_id in NOT_BROKERED:
        raise ProviderError(
            f"the provider {provider_id!r} cannot be used: {NOT_BROKERED[provider_id]}, "
            "so no header could carry its key past the firewall",
            next_step="use the same model through the AI Gateway: --model vercel/...",
        )
    if provider_id == "azure":
        raise ProviderError(
            "the provider 'azure' cannot be used by its name: its host depends on your account",
            next_step="name the host: --base-url https://HOST/openai/v1 --model NAME, with its "
            "key in OPENCODE_MAGIC_API_KEY",
        )
    provider = PROVIDERS.get(provider_id)
    if provider is None:
        known = ", ".join([*PROVIDERS, "demo-model"])
        raise ProviderError(
            f"no model provider {provider_id!r}",
            next_step=f"name one of {known}, or give an OpenAI-compatible endpoint with --base-url",
        )
    return _known(provider, model_id or provider.default_model, keys)


def demo_choice(forward_url: str) -> ModelChoice:
    """Give the scripted demo model behind its mapping (local home only)."""
    return ModelChoice(
        provider_id="demo-model",
        model_id="scripted",
        host=DEMO_HOST,
        base_url=f"https://{DEMO_HOST}/v1",
        npm="@ai-sdk/openai-compatible",
        forward_url=forward_url,
        is_scripted=True,
        label="scripted demo model",
    )


def _known(provider: Provider, model_id: str, keys: Mapping[str, str]) -> ModelChoice:
    key = keys.get(provider.key_variable, "")
    if not key:
        raise ProviderError(
            f"{provider.label} needs a key and {provider.key_variable} is not set",
            next_step=f"put {provider.key_variable}=... into .env.local beside the notebook",
        )
    _check_key(key, provider.key_variable)
    return ModelChoice(
        provider_id=provider.provider_id,
        model_id=model_id,
        host=provider.host,
        npm=provider.npm,
        header=provider.header,
        header_value=f"{provider.header_prefix}{key}",
        label=provider.label,
    )


def _compatible(
    model: str, base_url: str, api_key: str, mappings: Mapping[str, str] | None
) -> ModelChoice:
    host = _endpoint_host(base_url)
    if mappings is not None and host.endswith(".internal") and host not in mappings:
        raise ProviderError(
            f"{host!r} is mapped to no server",
            next_step=f"say where it is: --map {host}=http://127.0.0.1:11434",
        )
    if not model:
        raise ProviderError("no model was named for the endpoint", next_step="add --model NAME")
    if api_key:
        _check_key(api_key, "the endpoint's key")
    return ModelChoice(
        provider_id="compatible",
        model_id=model.removeprefix("compatible/"),
        host=host,
        base_url=base_url,
        npm="@ai-sdk/openai-compatible",
        header="authorization" if api_key else "",
        header_value=f"Bearer {api_key}" if api_key else "",
        forward_url=(mappings or {}).get(host, ""),
        label=host,
    )


def _endpoint_host(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    host = canonical_host(parts.hostname or "")
    has_user = parts.username is not None or parts.password is not None
    if parts.scheme != "https" or host is None or port not in {None, 443} or has_user:
        raise ProviderError(
            f"{clean_address(base_url)!r} is not an https address with a host name",
            next_step="give it as https://HOST/v1; a server on this machine needs a name: "
            "--map ollama.internal=http://127.0.0.1:11434 and "
            "--base-url https://ollama.internal/v1",
        )
    return host


def clean_address(url: str) -> str:
    """Give an address without what stands before an ``@``: that may be a password."""
    scheme, separator, rest = url.rpartition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"


def _check_key(key: str, name: str) -> None:
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ProviderError(f"{name} holds characters that no key has", next_step="copy it anew")
