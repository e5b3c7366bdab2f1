"""A running sandbox -> a ``Proof``: probes run inside, judged by the wall's own evidence.

A refusal alone shows nothing: on a machine without a network everything is refused. What counts is
the firewall's record of that very probe (local home), or that the same address answers from here
(cloud home).
"""

from __future__ import annotations

import json
import secrets
import socket
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from opencode_magic.core.policy import Request, decide
from opencode_magic.core.proof import Probe, Proof
from opencode_magic.errors import SandboxConnectionError
from opencode_magic.sandbox.evidence import Judge, Outside, OutsideJudge, RecordJudge
from opencode_magic.sandbox.faults import as_connection_error
from opencode_magic.sandbox.output import run_inside
from opencode_magic.sandbox.policy import check_readback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vercel.sandbox.sync import SyncSandboxRuntimeSession

    from opencode_magic.core.policy import NetworkPolicy
    from opencode_magic.sandbox.key_scan import KeyScan
    from opencode_magic.sandbox.local_api import LocalApi

BLOCKED_NAMES = ("example.com", "example.org", "example.net")
BLOCKED_ADDRESS = "192.0.2.1"
"""TEST-NET-1: nothing answers there, whatever the network."""

PROBE_TIMEOUT_S = 3.0
MODEL_TIMEOUT_S = 15.0
_SCRIPT = Path(__file__).with_name("probes.js")
_PROBE_ENV = {"BUN_BE_BUN": "1", "HOME": "/usr/share", "XDG_CONFIG_HOME": "/usr/share"}
"""With ``/`` as its folder: the runtime finds no settings there that the agent could have written,
neither a ``bunfig.toml`` nor a ``.env``."""


@dataclass(frozen=True, slots=True)
class ProofTarget:
    """The host that must be refused, and where the kernel finds it (cloud home's evidence)."""

    name: str = BLOCKED_NAMES[0]
    kernel_address: tuple[str, int] | None = None
    """Where the name leads from here; None resolves it."""


def choose_target(policy: NetworkPolicy, target: ProofTarget) -> ProofTarget:
    """Give a host that the policy must refuse: the usual one, unless the user allowed it."""
    if target != ProofTarget():
        return target
    refused = (name for name in BLOCKED_NAMES if not decide(policy, Request(name)).is_allowed)
    return ProofTarget(next(refused, BLOCKED_NAMES[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prover:
    """Everything that a proof of one sandbox needs. Its repr holds no key."""

    session: SyncSandboxRuntimeSession
    """Pinned: a proof must never wake another sandbox."""
    local: LocalApi | None
    runtime: str
    """The program inside that runs JavaScript: the OpenCode binary, or Node."""
    model_host: str
    is_key_outside: bool
    key_scan: KeyScan | None = field(repr=False)
    folders: tuple[str, ...]
    """What the scan for the key reads, beside processes and their environment."""
    policy: NetworkPolicy | None = None
    """What must be in force; None compares nothing."""
    skip: str = ""
    """The agent's binary, which is not scanned."""
    target: ProofTarget = ProofTarget()

    def run(self, *, last_seq: int = 0) -> tuple[Proof, frozenset[int]]:
        """Run all probes once.

        Args:
            last_seq: The number of an egress record from before; 0 reads all of them.

        Returns:
            The proof, and the numbers of the egress records that its probes caused.

        Raises:
            SandboxConnectionError: The sandbox does not answer, or cannot run the probes.
        """
        started_ms, started = time.time_ns() // 1_000_000, time.monotonic()
        outside = None if self.local is not None else _look_from_here(self.target)
        plan = self._plan(outside)
        answers = self._run_inside(plan)
        if self.local is not None:
            judge: Judge = RecordJudge(self.local, self.session.id, last_seq)
        else:
            judge = OutsideJudge(outside)
        probes = [
            judge.model(self.model_host, answers.get("model")),
            *self._refusals(plan, answers, judge),
        ]
        if self.is_key_outside:
            probes.append(judge.key(self.key_scan, answers.get("key")))
        probes.extend(self._compare_policy())
        duration_s = time.monotonic() - started
        return Proof(tuple(probes), started_ms, duration_s), judge.own_seqs()

    def _compare_policy(self) -> tuple[Probe, ...]:
        """Give a probe that failed where the home enforces another policy than was asked for."""
        if self.policy is None:
            return ()
        with as_connection_error():
            self.session.refresh()
        difference = check_readback(self.policy, self.session.network_policy)
        if not difference:
            return ()
        return (Probe("a changed network policy", "absent", "present", difference),)

    def _plan(self, outside: Outside | None) -> dict[str, object]:
        address = outside.address if outside is not None and outside.address else BLOCKED_ADDRESS
        plan: dict[str, object] = {
            "model": self.model_host,
            "modelTimeoutMs": int(MODEL_TIMEOUT_S * 1000),
            "timeoutMs": int(PROBE_TIMEOUT_S * 1000),
            "name": self.target.name,
            "address": address,
            "servername": self.target.name,
            # A port that no other program has a reason to ask for names this probe on record.
            "port": 20_000 + secrets.randbelow(10_000),
            "key": None,
        }
        if self.is_key_outside and self.key_scan is not None:
            plan["key"] = self.key_scan.plan(self.folders, self.skip)
        return plan

    def _run_inside(self, plan: Mapping[str, object]) -> dict[str, dict[str, object]]:
        script = f"const PLAN = {json.dumps(plan)};\n{_SCRIPT.read_text(encoding='utf-8')}"
        with as_connection_error():
            done = run_inside(
                self.session,
                self.runtime,
                ["-e", script],
                cwd="/",
                env=_PROBE_ENV,
                kill_after=MODEL_TIMEOUT_S + 2 * PROBE_TIMEOUT_S,
            )
        answers = _parse(done.stdout)
        if not answers:
            detail = f": {done.last_line}" if done.last_line else ""
            msg = f"the probes did not run inside the sandbox (exit {done.returncode}){detail}"
            raise SandboxConnectionError(msg, next_step="launch again: %opencode_up")
        if done.returncode != 0:
            # Somebody ended them: nothing that they said counts.
            return {}
        return {name: said[0] for name, said in answers.items() if len(said) == 1}

    def _refusals(
        self,
        plan: Mapping[str, object],
        answers: Mapping[str, Mapping[str, object]],
        judge: Judge,
    ) -> list[Probe]:
        address, port = plan["address"], plan["port"]
        asked = {
            "name": f"{self.target.name} by name",
            "address": f"{address} by address",
            "bare": f"{address} without a name",
            "port": f"{address} port {port}",
        }
        return [judge.refusal(name, text, answers.get(name), plan) for name, text in asked.items()]


def _look_from_here(target: ProofTarget) -> Outside:
    """Ask the blocked host from the kernel: only where it answers is a refusal inside evidence."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    place = target.kernel_address or (target.name, 443)
    try:
        with (
            socket.create_connection(place, timeout=PROBE_TIMEOUT_S) as raw,
            context.wrap_socket(raw, server_hostname=target.name),
        ):
            address = raw.getpeername()[0] if target.kernel_address is None else ""
    except OSError:
        return Outside("", does_answer=False)
    return Outside(address if "." in address else "", does_answer=True)


def _parse(text: str) -> dict[str, list[dict[str, object]]]:
    """Give all that was said for each probe. A probe speaks once; who speaks again is no probe."""
    answers: dict[str, list[dict[str, object]]] = {}
    for line in text.splitlines():
        try:
            value = json.loads(line)
            answers.setdefault(str(value.pop("probe")), []).append(value)
        except (ValueError, KeyError, AttributeError, TypeError):
            continue
    return answers
