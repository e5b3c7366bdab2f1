from __future__ import annotations

import pytest

from opencode_magic.core.providers import (
    NOT_BROKERED,
    PROVIDERS,
    ModelChoice,
    choose_model,
    demo_choice,
)
from opencode_magic.errors import ProviderError

KEY = "planted-key-0123456789"


def test_nothing_named_and_no_key_chooses_nothing() -> None:
    """Without a name and without a key there is no choice: the scripted model is used then."""
    assert choose_model("", keys={}) is None


def test_first_provider_with_a_key_is_chosen() -> None:
    """Without a name the first provider of the table that has a key gives its default model."""
    choice = choose_model("", keys={"OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY})

    assert choice is not None
    assert choice.name == "anthropic/claude-sonnet-4-6"


def test_model_id_may_hold_slashes() -> None:
    """Everything after the provider's id is the model, slashes too."""
    choice = choose_model("vercel/openai/gpt-5.2", keys={"AI_GATEWAY_API_KEY": KEY})

    assert choice is not None
    assert (choice.provider_id, choice.model_id) == ("vercel", "openai/gpt-5.2")


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=list(PROVIDERS))
def test_policy_allows_the_model_alone_and_injects_its_key(provider: object) -> None:
    """A known provider's policy has one host, whose rule sets the credential header."""
    known = PROVIDERS[getattr(provider, "provider_id", "")]
    choice = choose_model(known.provider_id, keys={known.key_variable: KEY})

    assert choice is not None
    (entry,) = choice.policy().hosts
    (rule,) = entry.rules
    assert entry.pattern == known.host
    assert rule.headers == {known.header: f"{known.header_prefix}{KEY}"}


def test_repr_of_a_choice_holds_no_key() -> None:
    """Neither the choice nor its policy shows the key."""
    choice = choose_model("openai", keys={"OPENAI_API_KEY": KEY})

    assert choice is not None
    assert KEY not in f"{choice!r} {choice.policy()!r}"


@pytest.mark.parametrize("provider_id", NOT_BROKERED)
def test_provider_that_signs_is_refused_by_name(provider_id: str) -> None:
    """A provider whose authentication is no header is refused, with the reason."""
    with pytest.raises(ProviderError, match=provider_id):
        choose_model(f"{provider_id}/some-model", keys={})


def test_azure_is_named_as_what_it_can_be_used_as() -> None:
    """The one provider that a header can serve under another name says which."""
    with pytest.raises(ProviderError) as caught:
        choose_model("azure/gpt-5.2", keys={})

    assert str(caught.value) == (
        "the provider 'azure' cannot be used by its name: its host depends on your account. Next: "
        "name the host: --base-url https://HOST/openai/v1 --model NAME, with its key in "
        "OPENCODE_MAGIC_API_KEY"
    )


def test_server_of_this_machine_is_pointed_to_the_flag() -> None:
    """Who gives a plain address is told the flag that names it, not a variable."""
    with pytest.raises(ProviderError) as caught:
        choose_model("qwen", keys={}, base_url="http://127.0.0.1:11434/v1")

    assert "--map ollama.internal=http://127.0.0.1:11434" in caught.value.next_step
    assert "OPENCODE_MAGIC_MAP" not in caught.value.next_step


def test_unknown_provider_names_the_known_ones() -> None:
    """An unknown provider's error lists what there is."""
    with pytest.raises(ProviderError, match="name one of vercel, anthropic, openai"):
        choose_model("nosuch/model", keys={})


def test_missing_key_names_its_variable() -> None:
    """A known provider without its key says which variable to set."""
    with pytest.raises(ProviderError, match="ANTHROPIC_API_KEY is not set"):
        choose_model("anthropic", keys={})


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_key_with_odd_characters_is_refused_unseen(key: str) -> None:
    """A key that cannot stand in a header is refused, and the message does not repeat it."""
    with pytest.raises(ProviderError) as caught:
        choose_model("openai", keys={"OPENAI_API_KEY": key})

    assert key not in str(caught.value)


def test_compatible_endpoint_needs_no_key() -> None:
    """An OpenAI-compatible endpoint without a key is allowed without a rule."""
    choice = choose_model("llama", keys={}, base_url="https://llm.example.com/v1")

    assert choice == ModelChoice(
        provider_id="compatible",
        model_id="llama",
        host="llm.example.com",
        base_url="https://llm.example.com/v1",
        npm="@ai-sdk/openai-compatible",
        label="llm.example.com",
    )


def test_compatible_endpoint_with_a_key_injects_it() -> None:
    """The endpoint's key is sent as a bearer token by the firewall."""
    choice = choose_model("m", keys={}, base_url="https://llm.example.com/v1", api_key=KEY)

    assert choice is not None
    assert choice.policy().hosts[0].rules[0].headers == {"authorization": f"Bearer {KEY}"}


@pytest.mark.parametrize(
    "url",
    [
        "http://llm.example.com/v1",
        "https://127.0.0.1/v1",
        "https://2130706433/v1",
        "https://llm.example.com:8443/v1",
        "https://[::1/v1",
        "llm.example.com",
    ],
)
def test_endpoint_that_the_firewall_cannot_name_is_refused(url: str) -> None:
    """Only an https address with a host name on its usual port can be an endpoint."""
    with pytest.raises(ProviderError, match="not an https address"):
        choose_model("m", keys={}, base_url=url)


def test_password_in_an_address_is_not_repeated() -> None:
    """An address with a user and password is refused without showing the password."""
    with pytest.raises(ProviderError) as caught:
        choose_model("m", keys={}, base_url=f"https://user:{KEY}@llm.example.com/v1")

    assert KEY not in str(caught.value)


def test_mapped_name_is_forwarded() -> None:
    """A mapped name's policy forwards its requests to the server that the user named."""
    choice = choose_model(
        "qwen",
        keys={},
        base_url="https://ollama.internal/v1",
        mappings={"ollama.internal": "http://127.0.0.1:11434"},
    )

    assert choice is not None
    assert choice.policy().hosts[0].rules[0].forward_url == "http://127.0.0.1:11434"


def test_internal_name_without_a_mapping_is_refused() -> None:
    """A name of this machine that nobody mapped leads nowhere."""
    with pytest.raises(ProviderError, match=r"mapped to no server.*--map ollama\.internal=http"):
        choose_model("qwen", keys={}, base_url="https://ollama.internal/v1", mappings={})


def test_demo_model_says_that_it_is_scripted() -> None:
    """The scripted model is marked, needs no key, and is forwarded to the local server."""
    choice = demo_choice("http://127.0.0.1:9")

    assert choice.is_scripted
    assert not choice.is_key_outside
    assert choice.policy().hosts[0].rules[0].forward_url == "http://127.0.0.1:9"
