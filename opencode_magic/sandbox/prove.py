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
from opencode_magic.sandbox.faults import as_connection_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vercel.sandbox.sync import SyncSandboxRuntimeSession

    from opencode_magic.core.egress import EgressRecord
    from opencode_magic.core.policy import NetworkPolicy
    from opencode_magic.core.proof import Seen
    from opencode_magic.sandbox.key_scan import KeyScan
    from opencode_magic.sandbox.local_api import LocalApi

BLOCKED_NAMES = ("example.com", "example.org", "example.net")
BLOCKED_ADDRESS = "192.0.2.1"
"""TEST-NET-1: nothing answers there, whatever the network."""

PROBE_TIMEOUT_S = 3.0
MODEL_TIMEOUT_S = 15.0
RECORD_WAIT_S = 1.0
_SCRIPT = Path(__file__).with_name("probes.js")
_PROBE_ENV = {"BUN_BE_BUN": "1", "HOME": "/usr/share", "XDG_CONFIG_HOME": "/usr/share"}
"""With ``/`` as its folder: the runtime finds no settings there that the agent could have written,
neither a ``bunfig.toml`` nor a ``.env``."""
_GATEWAY_STATUSES = {502, 504}
"""What a firewall or proxy says itself when it cannot reach the model."""


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
            judge: _Judge = _RecordJudge(self.local, self.session.id, last_seq)
        else:
            judge = _OutsideJudge(outside)
        probes = [
            _model_probe(self.model_host, answers.get("model")),
            *self._refusals(plan, answers, judge),
        ]
        judge.note_model(answers.get("model"))
        if self.is_key_outside:
            probes.append(_key_probe(self.key_scan, answers.get("key")))
        duration_s = time.monotonic() - started
        return Proof(tuple(probes), started_ms, duration_s), judge.own_seqs()

    def _plan(self, outside: _Outside | None) -> dict[str, object]:
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
            done = self.session.run_process(
                self.runtime,
                ["-e", script],
                cwd="/",
                env=_PROBE_ENV,
                kill_after=MODEL_TIMEOUT_S + 2 * PROBE_TIMEOUT_S,
                capture_output=True,
            )
        answers: dict[str, dict[str, object]] = {}
        for line in (done.stdout or "").splitlines():
            try:
                value = json.loads(line)
                answers[str(value.pop("probe"))] = value
            except (ValueError, KeyError, AttributeError, TypeError):
                continue
        if not answers:
            said = (done.stderr or "").strip().splitlines()
            detail = f": {said[-1]}" if said else ""
            msg = f"the probes did not run inside the sandbox (exit {done.returncode}){detail}"
            raise SandboxConnectionError(msg, next_step="launch again: %opencode_up")
        return answers

    def _refusals(
        self,
        plan: Mapping[str, object],
        answers: Mapping[str, Mapping[str, object]],
        judge: _Judge,
    ) -> list[Probe]:
        address, port = plan["address"], plan["port"]
        asked = {
            "name": f"{self.target.name} by name",
            "address": f"{address} by address",
            "bare": f"{address} without a name",
            "port": f"{address} port {port}",
        }
        return [judge.refusal(name, text, answers.get(name), plan) for name, text in asked.items()]


class _Judge:
    """Says what a refusal is worth."""

    def refusal(
        self,
        name: str,
        asked: str,
        answer: Mapping[str, object] | None,
        plan: Mapping[str, object],
    ) -> Probe:
        if answer is None:
            return Probe(asked, "refused", "no answer", "the probe said nothing")
        duration_s = _number(answer.get("s"))
        detail = str(answer.get("detail") or "")
        if answer.get("seen") == "got through":
            return Probe(asked, "refused", "got through", detail, duration_s=duration_s)
        seen, evidence, is_wall = self.evidence(name, answer, plan)
        return Probe(asked, "refused", seen, evidence, is_wall, duration_s)

    def evidence(
        self, name: str, answer: Mapping[str, object], plan: Mapping[str, object]
    ) -> tuple[Seen, str, bool]:
        raise NotImplementedError

    def note_model(self, answer: Mapping[str, object] | None) -> None:
        """Learn which records the question to the model's host caused."""

    def own_seqs(self) -> frozenset[int]:
        return frozenset()


class _RecordJudge(_Judge):
    """The local home: a refusal counts where the firewall has it on record."""

    def __init__(self, local: LocalApi, session_id: str, last_seq: int) -> None:
        self._local = local
        self._session_id = session_id
        self._last_seq = last_seq
        self._records: tuple[EgressRecord, ...] = ()
        self._own: set[int] = set()

    def evidence(
        self, name: str, answer: Mapping[str, object], plan: Mapping[str, object]
    ) -> tuple[Seen, str, bool]:
        record = self._find(name, answer, plan)
        if record is None:
            return "no answer", "not on the firewall's record", False
        if record.verdict == "allowed":
            return "got through", f"record {record.record_id}: allowed", False
        return "refused", f"record {record.record_id}: {_in_words(record)}", True

    def note_model(self, answer: Mapping[str, object] | None) -> None:
        """Learn which records the question to the model's host caused."""
        ports = answer.get("ports") if answer is not None else None
        if not isinstance(ports, list):
            return
        self._records = self._local.egress(self._session_id, self._last_seq)
        for record in self._records:
            if record.source_port and record.source_port in ports:
                self._claim(record)

    def own_seqs(self) -> frozenset[int]:
        return frozenset(self._own)

    def _claim(self, record: EgressRecord) -> None:
        """Note a record as ours, with all others of its connection."""
        self._own.add(record.seq)
        if record.connection:
            stem = record.connection.partition(".")[0]
            self._own.update(
                other.seq for other in self._records if other.connection.partition(".")[0] == stem
            )

    def _find(
        self, name: str, answer: Mapping[str, object], plan: Mapping[str, object]
    ) -> EgressRecord | None:
        """Wait shortly for the record: packets on other ports are noted a moment later."""
        deadline = time.monotonic() + RECORD_WAIT_S
        source_port = answer.get("port")
        while True:
            for record in self._records:
                is_own = bool(source_port) and record.source_port == source_port
                if name == "port":
                    is_own = record.port == plan["port"] and record.host == plan["address"]
                if is_own and not record.is_end:
                    self._claim(record)
                    return record
            if time.monotonic() > deadline:
                return None
            self._records = self._local.egress(self._session_id, self._last_seq)
            if not self._records:
                time.sleep(0.02)


class _OutsideJudge(_Judge):
    """The cloud home: a refusal counts where the same place answers from the kernel."""

    def __init__(self, outside: _Outside | None) -> None:
        self._outside = outside if outside is not None else _Outside("", does_answer=False)

    def evidence(
        self,
        name: str,
        answer: Mapping[str, object],
        plan: Mapping[str, object],
    ) -> tuple[Seen, str, bool]:
        detail = str(answer.get("detail") or "refused")
        is_same = name == "name" or (name == "address" and plan["address"] == self._outside.address)
        if is_same and self._outside.does_answer:
            return "refused", f"{detail}; answers from here", True
        return "refused", f"{detail}; not provable from here", False


@dataclass(frozen=True, slots=True)
class _Outside:
    address: str
    does_answer: bool


def _look_from_here(target: ProofTarget) -> _Outside:
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
        return _Outside("", does_answer=False)
    return _Outside(address if "." in address else "", does_answer=True)


def _model_probe(host: str, answer: Mapping[str, object] | None) -> Probe:
    if answer is None:
        return Probe(host, "answers", "no answer", "the probe said nothing")
    duration_s = _number(answer.get("s"))
    status = answer.get("status")
    if answer.get("seen") != "answered":
        detail = str(answer.get("detail") or "no answer")
        return Probe(host, "answers", "no answer", detail, duration_s=duration_s)
    if status in _GATEWAY_STATUSES:
        detail = f"HTTP {status}: a gateway answered, not the model"
        return Probe(host, "answers", "no answer", detail, duration_s=duration_s)
    return Probe(host, "answers", "answered", f"HTTP {status}", duration_s=duration_s)


def _key_probe(scan: KeyScan | None, answer: Mapping[str, object] | None) -> Probe:
    asked = "the key, inside"
    if scan is None:
        return Probe(asked, "absent", "absent", "too short to look for without giving it away")
    if answer is None:
        return Probe(asked, "absent", "no answer", "the search did not end")
    duration_s = _number(answer.get("s"))
    hits = answer.get("hits")
    if scan.is_among(hits if isinstance(hits, list) else []):
        return Probe(asked, "absent", "present", "found inside", duration_s=duration_s)
    where = "environment, files, processes"
    if not answer.get("isWhole"):
        where += " (not all files: there are too many)"
    return Probe(asked, "absent", "absent", where, duration_s=duration_s)


def _in_words(record: EgressRecord) -> str:
    channel = {"dns": "DNS", "tls": "TLS", "tcp": "TCP", "udp": "UDP", "http": "HTTP"}
    return f"{channel.get(record.channel, record.channel)}, {record.reason}"


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
