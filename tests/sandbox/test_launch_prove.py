"""Proofs in a sandbox whose agent works against them."""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from opencode_magic.errors import ProofFailedError
from opencode_magic.local.firewall import gate, lookups, resolve
from opencode_magic.sandbox.evidence import POLICY_REASONS, RecordJudge
from opencode_magic.sandbox.launch import launch
from tests.sandbox.homes import KEY, Events, quick_server

if TYPE_CHECKING:
    from opencode_magic.sandbox.handle import Sandbox
    from opencode_magic.sandbox.launch import LaunchRequest

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the local home needs Linux"),
    pytest.mark.usefixtures("opencode_binary"),
]


FORGER = """
import json, os, re, signal, socket, ssl, sys, time

def attempt(address, port, name):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        sock = socket.create_connection((address, port), timeout=3)
        source = sock.getsockname()[1]
        context.wrap_socket(sock, server_hostname=name)
    except OSError:
        pass
    return source

def forge(process, plan):
    os.kill(process, signal.SIGSTOP)
    out = os.open(f"/proc/{process}/fd/1", os.O_WRONLY)
    source = attempt(plan["address"], 443, None)
    answers = [{"probe": "model", "seen": "answered", "status": 200, "ports": []}]
    for probe in ("name", "address", "bare", "port"):
        answers.append({"probe": probe, "seen": "refused", "port": source})
    os.write(out, "".join(json.dumps(answer) + "\\n" for answer in answers).encode())
    os.kill(process, signal.SIGKILL if sys.argv[1] == "kill" else signal.SIGCONT)
    open("/vercel/forged", "w").close()

open("/vercel/ready", "w").close()
end = time.time() + 20
while time.time() < end:
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = open(f"/proc/{name}/cmdline", "rb").read()
        except OSError:
            continue
        if b"-e\\0const PLAN" in command:
            forge(int(name), json.loads(re.search(rb"const PLAN = (.*?);\\n", command)[1]))
            sys.exit()
    time.sleep(0.001)
"""
"""Waits for the probes, speaks for them, and ends them or lets them speak as well."""

ATTEMPTS = """
import json, socket, ssl

def ask(name, path):
    sock = socket.create_connection(("127.0.0.1", 443), timeout=3)
    source = sock.getsockname()[1]
    try:
        with ssl.create_default_context().wrap_socket(sock, server_hostname=name) as secure:
            head = f"GET {path} HTTP/1.1\\r\\nhost: {name}\\r\\nconnection: close\\r\\n\\r\\n"
            secure.sendall(head.encode())
            while secure.recv(65536):
                pass
    except OSError:
        pass
    return source

model = "demo-model.internal"
places = [(model, "/taken-out"), ("evil.example", "/"), (model, "/")]
print(json.dumps([ask(*place) for place in places]))
"""
"""What an agent does beside a proof; says the source ports."""


def run_python(sandbox: Sandbox, script: str) -> str:
    """Run a script inside, to its end."""
    session = sandbox._parts.session
    done = session.run_process("python3", ["-c", script], capture_output=True, kill_after=20)
    return done.stdout or ""


def wait_for_file(sandbox: Sandbox, path: str) -> None:
    """Wait until a file is there inside."""
    deadline = time.monotonic() + 10
    while sandbox._parts.session.run_process("test", ["-e", path]).returncode != 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("then", ["kill", "go on"])
def test_forged_answers_prove_nothing(local: LaunchRequest, then: str) -> None:
    """Answers that the agent writes for the probes make a proof fail, whatever they say."""
    sandbox = launch(local, quick_server(), Events())
    try:
        sandbox._parts.session.create_process("python3", ["-c", FORGER, then])
        wait_for_file(sandbox, "/vercel/ready")
        proof = sandbox.prove()
        wait_for_file(sandbox, "/vercel/forged")
    finally:
        sandbox.terminate(keep=False)

    assert proof.verdict == "failed"
    assert [probe.seen for probe in proof.probes] == ["no answer"] * 5


def test_source_ports_alone_are_no_evidence(local: LaunchRequest) -> None:
    """A record counts for the very place that was asked, and once; the rest stays on receipts."""
    sandbox = launch(local, quick_server(), Events())
    try:
        before = sandbox.last_seq
        other_path, other_host, root = ports = json.loads(run_python(sandbox, ATTEMPTS))
        api = sandbox._parts.connection.local
        assert api is not None
        judge = RecordJudge(api, sandbox.session_id, before)
        said = {"seen": "answered", "status": 200}
        model = [
            judge.model("demo-model.internal", said | {"ports": asked}).seen
            for asked in ([other_path, other_host], ports, [root])
        ]
        plan = {"name": "example.com", "servername": "example.com", "address": "192.0.2.1"}
        refused = [
            judge.refusal(name, name, {"seen": "refused", "port": other_host}, plan | {"port": 9})
            for name in ("name", "address", "bare", "port")
        ]
        own = judge.own_seqs()
        records = api.egress(sandbox.session_id, before)
    finally:
        sandbox.terminate(keep=False)

    assert model == ["no answer", "answered", "no answer"]
    assert {probe.seen for probe in refused} == {"no answer"}
    assert {(r.host, r.path) for r in records if r.seq in own} == {("demo-model.internal", "/")}


def test_evidence_is_not_said_twice(local: LaunchRequest) -> None:
    """Evidence names the protocol once, also where the firewall's reason begins with it."""
    sandbox = launch(local, quick_server(), Events())
    sandbox.terminate(keep=False)

    (bare,) = (p for p in sandbox.proof.probes if p.asked == "192.0.2.1 without a name")
    assert re.fullmatch(r"record \w+: TLS without a server name", bare.evidence)


def test_changed_policy_fails_the_proof(local: LaunchRequest) -> None:
    """Where another policy is in force than was asked for, the proof says so."""
    from vercel.sandbox.sync import NetworkPolicy  # noqa: PLC0415 - the SDK takes 0.25 s

    sandbox = launch(local, quick_server(), Events())
    try:
        policy = NetworkPolicy.custom(allow={"demo-model.internal": [], "more.example": []})
        sandbox._parts.session.update_network_policy(policy)
        proof = sandbox.prove()
    finally:
        sandbox.terminate(keep=False)

    assert proof.verdict == "failed"
    assert proof.probes[-1].evidence == "it also allows 'more.example'"


def test_only_the_policys_refusals_count() -> None:
    """The firewall's words for them are known here; an address that is not public is none."""
    assert {gate.REASON_NO_NAME, lookups.REASON_NO_WAY} < POLICY_REASONS
    assert resolve.REASON_NOT_GLOBAL not in POLICY_REASONS


def test_settings_of_the_agent_do_not_run_in_a_probe(local: LaunchRequest) -> None:
    """A runtime's settings that the agent wrote are not read by the probes."""
    sandbox = launch(local, quick_server(), Events())
    session = sandbox._parts.session
    try:
        for folder in (sandbox.place.home, sandbox.place.workspace):
            for name in ("bunfig.toml", ".bunfig.toml"):
                session.fs.write_text(f"{folder}/{name}", f'preload = ["{folder}/evil.js"]\n')
            session.fs.write_text(f"{folder}/.env", "BUN_OPTIONS=--preload=/vercel/evil.js\n")
            session.fs.write_text(
                f"{folder}/evil.js",
                'require("node:fs").writeFileSync("/vercel/fooled", "");process.exit(0);\n',
            )
        proof = sandbox.prove()
        fooled = session.run_process("ls", ["/vercel/fooled"], capture_output=True)
    finally:
        sandbox.terminate(keep=False)

    assert proof.verdict == "proven"
    assert fooled.returncode != 0


@pytest.mark.parametrize("folder", ["/var/tmp", "/dev/shm"])
@pytest.mark.parametrize(
    ("home", "evidence"),
    [
        ("local_keyed", r"searched from outside: \d+ files, \d+ processes"),
        ("cloud", "environment, files, processes"),
    ],
)
def test_key_outside_the_home_is_found(
    home: str, evidence: str, folder: str, request: pytest.FixtureRequest
) -> None:
    """The search looks wherever the agent can write, and says where it saw all files."""
    sandbox = launch(request.getfixturevalue(home), quick_server(), Events())
    try:
        first = sandbox.proof.probes[-1]
        sandbox._parts.session.fs.write_text(f"{folder}/notes", f"key={KEY}")
        proof = sandbox.prove()
    finally:
        sandbox.terminate(keep=False)

    assert first.seen == "absent"
    assert re.fullmatch(evidence, first.evidence)
    assert (proof.verdict, proof.probes[-1].seen) == ("failed", "present")


def test_search_that_left_files_out_says_so(cloud: LaunchRequest) -> None:
    """A file that cannot be read makes no proof of all files."""
    sandbox = launch(cloud, quick_server(), Events())
    session = sandbox._parts.session
    try:
        session.run_process("sh", ["-c", "echo x > /vercel/closed; chmod 0 /vercel/closed"])
        proof = sandbox.prove()
    finally:
        sandbox.terminate(keep=False)

    assert "not all files" in proof.probes[-1].evidence


@pytest.mark.parametrize("home", ["local_keyed", "cloud"])
def test_firewalls_own_answer_is_not_the_models(home: str, request: pytest.FixtureRequest) -> None:
    """Where the firewall refuses the model's host itself, its answer is no model's."""
    launching: LaunchRequest = request.getfixturevalue(home)
    model = replace(launching.model, host="localhost")

    with pytest.raises(ProofFailedError, match=r"localhost did not answer from inside: .*firewall"):
        launch(replace(launching, model=model), quick_server(), Events())
