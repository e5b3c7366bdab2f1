"""Launch, ask, prove, down: on the local home and on the stand-in for the cloud."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from opencode_magic.session.ask import Asking, SilentView, ask_agent
from opencode_magic.session.session import Session
from opencode_magic.settings import load_settings
from tests.sandbox.homes import stop_local_server
from tests.scripted import script, scripted_model
from tests.session.rounds import GATEWAY, KEY, MODEL, Round, cloud_round, local_round

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opencode_magic.session.reply import Reply

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the local home needs Linux"),
    pytest.mark.usefixtures("opencode_binary"),
]

FIND_KEY = """
grep -rlF "$1" "$HOME" /tmp /var/tmp /run /etc /opt/opencode 2>/dev/null
for process in /proc/[0-9]*; do
  cat "$process/environ" "$process/cmdline" 2>/dev/null | grep -qaF "$1" && echo "$process"
done
echo searched
"""
"""Looks for its argument backwards written, so that its own command line does not hold it."""


@pytest.fixture
def local() -> Iterator[Round]:
    """A round on the local home."""
    with local_round() as made:
        yield made


@pytest.fixture
def cloud() -> Iterator[Round]:
    """A round on the stand-in for the cloud."""
    with cloud_round() as made:
        yield made


def ask(made: Round, text: str) -> Reply:
    return ask_agent(made.session, Asking(text=text), view=SilentView())


def test_round_on_the_local_home(local: Round) -> None:
    """The key reaches the model, the wall stops the rest, and the receipt is complete."""
    status = local.session.up(local.settings)
    reply = ask(local, "List the files here, then fetch https://example.com please.")
    proof = local.session.prove()
    report = local.session.down()

    assert (status.phase, status.model, status.is_key_outside) == ("locked", MODEL, True)
    assert reply.state == "done"
    assert [tool.tool for tool in reply.tools] == ["bash", "webfetch"]
    assert reply.receipt is not None
    assert {place.host for place in reply.receipt.reached} == {GATEWAY}
    assert {place.host for place in reply.receipt.blocked} == {"example.com"}
    assert reply.receipt.is_complete
    assert {seen.status for seen in local.model.seen} == {200}
    assert local.canary.authorizations == []
    assert proof.verdict == "proven"
    assert len(report.removed) == 1


def test_round_on_the_cloud_home(cloud: Round) -> None:
    """The same calls on a home without an egress record: the receipt says what it is based on."""
    status = cloud.session.up(cloud.settings)
    reply = ask(cloud, "List the files here, then fetch https://example.com please.")
    proof = cloud.session.prove()
    report = cloud.session.down()

    assert (status.phase, status.has_egress_record) == ("locked", False)
    assert reply.state == "done"
    assert [tool.tool for tool in reply.tools] == ["bash", "webfetch"]
    assert reply.receipt is not None
    assert (reply.receipt.source, reply.receipt.is_complete) == ("tool reports", False)
    assert {place.host for place in reply.receipt.blocked} == {"example.com"}
    assert {seen.status for seen in cloud.model.seen} == {200}
    assert proof.verdict == "proven"
    assert len(report.removed) == 1


def test_planted_key_is_nowhere_inside(local: Round) -> None:
    """After a turn neither files nor processes inside hold the key; a planted one is found."""
    local.session.up(local.settings)
    ask(local, "List the files here.")
    inside = local.session.sandbox._parts.session  # type: ignore[attr-defined] # the real one
    command = ["-c", f'set -- "$(printf %s "$1" | rev)"; {FIND_KEY}', "sh", KEY[::-1]]

    clean = inside.run_process("sh", command, capture_output=True).stdout
    inside.fs.write_text("/vercel/planted", f"<{KEY}>")
    dirty = inside.run_process("sh", command, capture_output=True).stdout

    assert clean.split() == ["searched"]
    assert dirty.split() == ["/vercel/planted", "searched"]


def test_wrong_key_fails_the_turn_in_one_line(local: Round) -> None:
    """A provider that answers 401 is named, and the key is not."""
    settings = replace(local.settings, keys={"AI_GATEWAY_API_KEY": "another-key-0123456789"})
    local.session.up(settings)

    reply = ask_agent(local.session, Asking(text="Hello", keep_going=True), view=SilentView())

    assert reply.state == "failed"
    assert "another-key" not in reply.turn.error
    assert "\n" not in reply.turn.error


def test_a_mapped_model_server(isolated: Path) -> None:
    """A model server on the user's machine is reached by its mapped name, and by nothing else."""
    with scripted_model() as model:
        url = f"http://127.0.0.1:{urlsplit(model.url).port}"
        settings = load_settings(
            {
                "home": "local",
                "base_url": "https://llm.internal/v1",
                "model": "scripted",
                "mappings": {"llm.internal": url, "data.internal": url},
            }
        )
        session = Session()
        try:
            status = session.up(settings)
            again = session.up(settings)
            made = Round(settings, session, model, None)  # type: ignore[arg-type]  # needs no canary
            text = script("bash 'curl -s -o /dev/null -w %{http_code} {}'", "results")
            reply = ask(made, text.replace("{}", "https://data.internal/v1/models"))
        finally:
            session.down()
            stop_local_server(settings)

    assert status.model == "compatible/scripted"
    assert status.allowed_hosts == ("llm.internal", "data.internal")
    assert again.sandbox_name == status.sandbox_name
    assert reply.state == "done"
    assert "200" in reply.tools[0].output
