"""What a sandbox runs for the agent, on the real OpenCode."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opencode_magic.agent.config import ServerOptions
from opencode_magic.agent.server import OpenCodeServer, new_password
from opencode_magic.core.opencode import VERSION, Place
from opencode_magic.core.providers import PLACEHOLDER_KEY, ModelChoice, choose_model
from opencode_magic.errors import AgentConnectionError
from tests.agent.running import (
    choice_for,
    free_port,
    make_place,
    running_opencode,
    start,
    wait_healthy,
)
from tests.agent.test_turn import ask
from tests.faults import Answer, Garbage, Hang, fault_proxy
from tests.scripted import script, scripted_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.agent.running import Running

PLACE = Place("/vercel/home", "/vercel/work", "/opt/opencode", "/vercel/tmp", "127.0.0.1", 4097)
KEYS = {"AI_GATEWAY_API_KEY": "k-1", "ANTHROPIC_API_KEY": "k-2", "OPENAI_API_KEY": "k-3"}


def known(name: str) -> ModelChoice:
    choice = choose_model(name, keys=KEYS)
    assert choice is not None
    return choice


def config_of(server: OpenCodeServer) -> Mapping[str, object]:
    parsed: Mapping[str, object] = json.loads(server.environment(PLACE)["OPENCODE_CONFIG_CONTENT"])
    return parsed


def test_the_configuration_names_one_provider_and_one_model() -> None:
    """No other provider and no other model can be asked, also not for titles."""
    config = config_of(OpenCodeServer(known("vercel"), "pw"))

    assert config["enabled_providers"] == ["vercel"]
    assert config["model"] == config["small_model"] == "vercel/anthropic/claude-sonnet-4.6"
    assert config["provider"] == {
        "vercel": {
            "options": {
                "apiKey": PLACEHOLDER_KEY,
                "headerTimeout": 60_000,
                "chunkTimeout": 120_000,
            },
            "whitelist": ["anthropic/claude-sonnet-4.6"],
            "models": {"anthropic/claude-sonnet-4.6": {}},
        }
    }


def test_what_must_be_asked_comes_after_what_is_allowed() -> None:
    """OpenCode takes the last rule that matches."""
    options = ServerOptions(asks=("bash",))
    config = config_of(OpenCodeServer(known("vercel"), "pw", options=options))

    assert isinstance(config["permission"], dict)
    assert next(iter(config["permission"].items())) == ("*", "allow")
    assert list(config["permission"].items())[-1] == ("bash", "ask")


@pytest.mark.parametrize("name", ["vercel", "anthropic", "openai"])
def test_no_key_goes_inside(name: str) -> None:
    """Files, command and environment hold a placeholder where a key is expected."""
    server = OpenCodeServer(known(name), "the-password")

    inside = repr([server.files(PLACE), server.command(PLACE), server.environment(PLACE)])
    assert not any(key in inside for key in KEYS.values())
    assert "the-password" not in repr([server, server.files(PLACE), server.command(PLACE)])
    assert server.environment(PLACE)["OPENCODE_SERVER_PASSWORD"] == "the-password"


def test_every_start_has_another_password() -> None:
    """Two launches never share one."""
    assert len({new_password() for _ in range(20)}) == 20


@pytest.fixture(scope="module")
def opencode(opencode_binary: Path) -> Iterator[Running]:
    with (
        scripted_model() as model,
        running_opencode(opencode_binary, choice_for(model.base_url)) as running,
    ):
        yield running


def test_a_healthy_server_says_its_version(opencode: Running) -> None:
    """It is the one that is pinned."""
    server = OpenCodeServer(choice_for("http://unused.example"), opencode.password)

    assert server.poll_health(opencode.url) == VERSION
    assert opencode.client.health() == VERSION


def test_the_start_is_silent(opencode: Running) -> None:
    """No npm, no download, no warning: the log has the one line about the address."""
    opencode.client.models()

    lines = [line for line in opencode.log.splitlines() if line.strip()]
    assert lines == [f"opencode server listening on {opencode.url}"]
    config = Path(opencode.place.home) / ".config" / "opencode"
    assert sorted(path.name for path in (config / "node_modules").iterdir()) == [".keep"]


def test_another_password_is_another_server(opencode: Running) -> None:
    """A server that does not know the password was not started by this launch."""
    server = OpenCodeServer(choice_for("http://unused.example"), "wrong")

    with pytest.raises(AgentConnectionError, match="does not know this launch's password"):
        server.poll_health(opencode.url)


def test_nothing_there_is_not_healthy_yet() -> None:
    """A closed port, a server that hangs, one that answers garbage or 503: ask again."""
    server = OpenCodeServer(choice_for("http://unused.example"), "pw")
    assert server.poll_health(f"http://127.0.0.1:{free_port()}") is None

    with fault_proxy("http://127.0.0.1:9") as proxy:
        for fault in (Hang(), Garbage(), Answer(503)):
            proxy.clear()
            proxy.add(fault)
            started = time.monotonic()
            assert server.poll_health(proxy.url) is None
            assert time.monotonic() - started < 2


@contextmanager
def answering(paths: Mapping[str, str]) -> Iterator[str]:
    """Answer these paths with JSON and all others with 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = paths.get(self.path, "").encode()
            self.send_response(200 if body else 404)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("paths", "line"),
    [
        ({"/api/info": '{"version": "2.0.1"}'}, "OpenCode 2.0.1 is another server than the 1.x"),
        ({"/global/health": '{"version": "2.1.0"}'}, "OpenCode 2.1.0 is another server"),
        ({"/global/health": '{"ok": true}'}, "is not OpenCode"),
        ({"/global/health": "not json"}, "is not OpenCode"),
    ],
)
def test_another_server_is_refused_with_one_line(paths: Mapping[str, str], line: str) -> None:
    """OpenCode 2 is recognised by its own route; anything else by what it does not say."""
    server = OpenCodeServer(choice_for("http://unused.example"), "pw")

    with answering(paths) as url, pytest.raises(AgentConnectionError, match=line):
        server.poll_health(url)


def test_an_edge_that_has_no_server_yet_is_waited_for() -> None:
    """Before the port listens inside, what stands in front of it answers 404."""
    server = OpenCodeServer(choice_for("http://unused.example"), "pw")

    with answering({}) as url:
        assert server.poll_health(url) is None


PROTOCOLS = [
    ("vercel/anthropic/claude-sonnet-4.6", "/v3/ai", "/v3/ai/language-model", "authorization"),
    ("anthropic/claude-sonnet-4-6", "/v1", "/v1/messages", "x-api-key"),
    ("openai/gpt-99-newer-than-the-catalogue", "/v1", "/v1/responses", "authorization"),
]


@pytest.mark.parametrize(("name", "base", "path", "header"), PROTOCOLS)
def test_each_provider_is_asked_in_its_own_way(
    opencode_binary: Path, name: str, base: str, path: str, header: str
) -> None:
    """Path and credential header are those of the table, tools work, and a 401 is a failure."""
    provider_id, _, model_id = name.partition("/")
    with scripted_model(key=PLACEHOLDER_KEY) as model, fault_proxy(model.url) as provider:
        choice = ModelChoice(provider_id, model_id, "127.0.0.1", base_url=f"{provider.url}{base}")
        with running_opencode(opencode_binary, choice) as running:
            session_id = running.client.create_session("test")
            turn = ask(running, session_id, script("say One.", "bash echo hi", "results"))
            models = running.client.models()
            provider.add(Answer(401))
            refused = ask(running, session_id, script("say Two."))

    assert (turn.state, turn.error, turn.text) == ("done", "", "One.\n\nhi\n")
    assert (turn.model, turn.tokens.output > 0) == (name, True)
    assert models == {provider_id: (model_id,)}
    assert {seen.path for seen in model.seen} == {path}
    assert all(PLACEHOLDER_KEY in seen.headers[header] for seen in model.seen)
    assert (refused.state, refused.text) == ("failed", "")
    assert refused.error


def test_a_port_in_use_is_not_taken_for_ours(
    opencode: Running, opencode_binary: Path, tmp_path: Path
) -> None:
    """A second server on the same port ends, and the first does not know its password."""
    server = OpenCodeServer(choice_for("http://unused.example"), new_password())
    place = make_place(opencode_binary, tmp_path / "second")
    place = Place(
        place.home,
        place.workspace,
        place.binary,
        place.temporary,
        place.bind_host,
        opencode.place.port,
    )

    process = start(server, place)

    with pytest.raises(AgentConnectionError):
        wait_healthy(server, opencode.url, limit_s=5)
    assert process.wait(30) != 0
