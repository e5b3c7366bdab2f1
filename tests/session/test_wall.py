"""The wall, shown with a canary that answers when it may and is out of reach when it may not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opencode_magic.errors import ProofFailedError
from opencode_magic.sandbox.connect import find_server
from opencode_magic.session.ask import Asking, SilentView, ask_agent
from tests.session.rounds import GATEWAY, KEY, Round, local_round

if TYPE_CHECKING:
    from opencode_magic.core.egress import EgressRecord

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the local home needs Linux"),
    pytest.mark.usefixtures("opencode_binary"),
]

HOST = "canary.example"
RAW = "203.0.113.5"

PYTHON = f"""
import socket, ssl
context = ssl.create_default_context()
with socket.create_connection(("{{address}}", 443), timeout=5) as raw:
    with context.wrap_socket(raw, server_hostname="{HOST}") as sock:
        sock.sendall(b"GET / HTTP/1.1\\r\\nhost: {HOST}\\r\\nconnection: close\\r\\n\\r\\n")
        print(sock.recv(65536).split()[1].decode())
"""
"""Speaks TLS itself: no proxy variable and no resolver setting is asked."""

CURL = "curl -s -o /dev/null -w %{http_code} --max-time 5"

WAYS = {
    "curl by name": ("sh", "-c", f"{CURL} https://{HOST}/"),
    "curl by address, with the name": (
        *("sh", "-c"),
        f"{CURL} --resolve {HOST}:443:{RAW} https://{HOST}/",
    ),
    "python by name": ("python3", "-c", PYTHON.format(address=HOST)),
    "python by address, with the name": ("python3", "-c", PYTHON.format(address=RAW)),
}
"""Each reaches the canary where the policy has its name."""

NEVER = {
    "curl by address": (("sh", "-c", f"{CURL} -k https://{RAW}/"), (RAW, 443)),
    "curl on another port": (("sh", "-c", f"{CURL} https://{HOST}:8443/"), (HOST, 8443)),
    "curl in plain HTTP": (("sh", "-c", f"{CURL} http://{HOST}/"), (HOST, 80)),
}
"""What no allowed name opens: the command, and the place that the record must name."""


def inside(round_: Round, command: tuple[str, ...]) -> str:
    """Run a command in the sandbox; gives the status it printed, or the empty text."""
    session = round_.session.sandbox._parts.session  # type: ignore[attr-defined] # the real one
    done = session.run_process(command[0], list(command[1:]), capture_output=True, kill_after=20)
    text = (done.stdout or "").strip()
    return text if done.returncode == 0 and text != "000" else ""


def allow(round_: Round, *hosts: str) -> None:
    """Put a policy in force that has the model's host, these hosts, and no other.

    Each has a header to inject, so that the firewall's own authority, which every program inside
    trusts, speaks for it.
    """
    from vercel.sandbox.sync import (  # noqa: PLC0415 - the SDK takes 0.25 s
        NetworkPolicy,
        NetworkPolicyRule,
        NetworkPolicyTransform,
    )

    def rules(headers: dict[str, str]) -> list[NetworkPolicyRule]:
        return [NetworkPolicyRule(transform=[NetworkPolicyTransform(headers=headers)])]

    allowed = {GATEWAY: rules({"authorization": f"Bearer {KEY}"})}
    allowed |= {host: rules({"authorization": "seen"}) for host in hosts}
    session = round_.session.sandbox._parts.session  # type: ignore[attr-defined] # the real one
    session.update_network_policy(NetworkPolicy.custom(allow=allowed))


def blocked_since(round_: Round, seq: int) -> list[EgressRecord]:
    records = round_.session.sandbox.records_since(seq, settle_s=2.0)
    return [record for record in records if record.verdict == "blocked"]


def wait_for_record(round_: Round, seq: int, place: tuple[str, int]) -> set[tuple[str, int]]:
    """Give what was blocked, once this place is among it: a bare packet is recorded afterwards."""
    deadline = time.monotonic() + 5
    while True:
        blocked = {(record.host, record.port) for record in blocked_since(round_, seq)}
        if place in blocked or time.monotonic() > deadline:
            return blocked
        time.sleep(0.05)


def test_canary_answers_only_while_the_policy_has_it() -> None:
    """Allowed, refused, allowed again: by name, by address, with and without a resolver."""
    with local_round() as round_:
        round_.session.up(round_.settings)

        allow(round_, HOST)
        before = {way: inside(round_, command) for way, command in WAYS.items()}
        reached = len(round_.canary.authorizations)
        allow(round_)
        between, recorded = {}, {}
        for way, command in WAYS.items():
            seq = round_.session.sandbox.last_seq
            between[way] = inside(round_, command)
            recorded[way] = {record.host for record in blocked_since(round_, seq)}
        reached_between = len(round_.canary.authorizations)
        allow(round_, HOST)
        after = {way: inside(round_, command) for way, command in WAYS.items()}

    assert set(before.values()) == {"200"}, before
    assert set(between.values()) == {""}, between
    assert all(HOST in hosts for hosts in recorded.values()), recorded
    assert (reached, reached_between) == (len(WAYS), len(WAYS))
    assert set(after.values()) == {"200"}, after


@pytest.mark.parametrize("way", NEVER)
def test_an_allowed_name_opens_nothing_else(way: str) -> None:
    """A bare address, another port and plain HTTP stay refused, each on record."""
    with local_round() as round_:
        round_.session.up(round_.settings)
        allow(round_, HOST)
        seq = round_.session.sandbox.last_seq

        command, place = NEVER[way]
        answer = inside(round_, command)
        recorded = wait_for_record(round_, seq, place)

        assert answer in {"", "403"}
        assert place in recorded
        assert round_.canary.authorizations == []


def test_the_agents_own_webfetch_meets_the_wall() -> None:
    """The agent's tool is refused where the policy has no host, and works where it has."""
    with local_round() as round_:
        round_.session.up(round_.settings)

        refused = _fetch(round_)
        reached_before = len(round_.canary.authorizations)
        allow(round_, HOST)
        fetched = _fetch(round_)

        assert refused == ("error", [HOST])
        assert reached_before == 0
        assert fetched == ("completed", [])
        assert len(round_.canary.authorizations) == 1


def _fetch(round_: Round) -> tuple[str, list[str]]:
    reply = ask_agent(
        round_.session, Asking(text=f"Fetch https://{HOST}/ for me."), view=SilentView()
    )
    assert reply.receipt is not None
    [tool] = reply.tools
    return tool.status, [place.host for place in reply.receipt.blocked]


BROKEN_SERVER = """
import sys
from opencode_magic.core import policy
from opencode_magic.local.firewall import dns, gate, judge, lookups, wall

real = policy.decide

def decide(rules, request):
    decision = real(rules, request)
    if decision.is_allowed:
        return decision
    return policy.Decision(is_allowed=True, reason="the wall is down")

for module in (policy, dns, gate, judge, lookups, wall):
    if hasattr(module, "decide"):
        module.decide = decide

from opencode_magic.local.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_wall_that_is_down_fails_the_proof() -> None:
    """With a firewall that lets everything pass the launch fails, and says why."""
    with local_round() as round_:
        settings = round_.settings
        process = _start_broken(round_)
        try:
            with pytest.raises(ProofFailedError, match=r"the wall does not hold: example\.com"):
                round_.session.up(settings)
            status = round_.session.status
        finally:
            process.terminate()
            process.wait(timeout=10)

        assert status.phase == "failed"
        assert not round_.session.is_up


def _start_broken(round_: Round) -> subprocess.Popen[bytes]:
    settings = round_.settings
    binary = next(settings.cache_dir.glob("opencode/*/*/opencode"))
    options = ["--runtime-dir", str(settings.runtime_dir), "--opencode", str(binary)]
    options += ["--state-dir", str(settings.state_dir / "local")]
    options += ["--upstream-ca", str(settings.upstream_ca)]
    options += [word for upstream in settings.upstreams for word in ("--upstream", upstream)]
    process = subprocess.Popen(
        [sys.executable, "-c", BROKEN_SERVER, "serve", *options],
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    deadline = time.monotonic() + 15
    while find_server(settings) is None:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def test_no_network_at_all_is_no_proof() -> None:
    """Where nothing answers, refusals show nothing: the launch does not pass for that reason."""
    with local_round() as round_:
        dead = tuple(f"{text.partition('=')[0]}=127.0.0.1:9" for text in round_.settings.upstreams)

        with pytest.raises(ProofFailedError, match="did not answer from inside"):
            round_.session.up(replace(round_.settings, upstreams=dead), allow_unproven=True)

        assert round_.session.status.phase == "failed"
        assert not round_.session.is_up


def test_policy_of_the_running_sandbox_shows_no_key() -> None:
    """What the home gives back of the policy has the header's name and no value."""
    with local_round() as round_:
        round_.session.up(round_.settings)
        session = round_.session.sandbox._parts.session  # type: ignore[attr-defined] # the real one
        session.refresh()

        shown = json.dumps(repr(session.network_policy))

        assert "authorization" in shown
        assert "planted" not in shown
        assert os.environ.get("AI_GATEWAY_API_KEY") is None
