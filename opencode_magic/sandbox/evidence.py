"""What a probe says -> what that is worth, by evidence that does not come from inside.

Whatever runs inside can write what it likes into a probe's answer. On the local home the firewall's
record decides: for a refusal one of the policy, for the model's answer one that was let through.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opencode_magic.core.policy import REASON_ADDRESS, REASON_DENY_ALL, REASON_NOT_LISTED
from opencode_magic.core.proof import Probe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opencode_magic.core.egress import EgressRecord
    from opencode_magic.core.proof import Seen
    from opencode_magic.sandbox.key_scan import KeyScan
    from opencode_magic.sandbox.local_api import LocalApi

RECORD_WAIT_S = 1.0
POLICY_REASONS = frozenset(
    {
        REASON_ADDRESS,
        REASON_DENY_ALL,
        REASON_NOT_LISTED,
        "TLS without a server name",
        "there is no way out on this port",
    }
)
"""A refusal for another reason, such as an address that is not public, shows no policy."""

KEY = "the key, inside"
NOT_ALL = "(not all files could be read)"

_GATEWAY_STATUSES = {502, 504}
"""What a firewall or proxy says itself when it cannot reach the model."""
_TLS_PORT, _DNS_PORT = 443, 53


@dataclass(frozen=True, slots=True)
class Outside:
    """What the kernel saw when it asked for the blocked host itself."""

    address: str
    does_answer: bool


class Judge:
    """Says what an answer is worth."""

    def model(self, host: str, answer: Mapping[str, object] | None) -> Probe:
        """Judge the question to the model's host."""
        if answer is None:
            return Probe(host, "answers", "no answer", "the probe said nothing")
        duration_s = number(answer.get("s"))
        status = answer.get("status")
        problem = ""
        if answer.get("seen") != "answered" or not isinstance(status, int):
            problem = str(answer.get("detail") or "no answer")
        elif answer.get("blocked"):
            problem = f"HTTP {status}: the firewall answered, not the model"
        recorded, record_problem = self.model_evidence(host, answer)
        status = recorded or status
        if problem and record_problem.startswith("record "):
            # A program inside sees a reset alone; the firewall knows why.
            problem = f"{problem} ({record_problem})"
        problem = problem or record_problem
        if not problem and status in _GATEWAY_STATUSES:
            problem = f"HTTP {status}: a gateway answered, not the model"
        if problem:
            return Probe(host, "answers", "no answer", problem, duration_s=duration_s)
        return Probe(host, "answers", "answered", f"HTTP {status}", duration_s=duration_s)

    def refusal(
        self,
        name: str,
        asked: str,
        answer: Mapping[str, object] | None,
        plan: Mapping[str, object],
    ) -> Probe:
        """Judge an attempt that must be refused."""
        if answer is None:
            return Probe(asked, "refused", "no answer", "the probe said nothing")
        duration_s = number(answer.get("s"))
        detail = str(answer.get("detail") or "")
        if answer.get("seen") == "got through":
            return Probe(asked, "refused", "got through", detail, duration_s=duration_s)
        seen, evidence, is_wall = self.evidence(name, answer, plan)
        return Probe(asked, "refused", seen, evidence, is_wall, duration_s)

    def key(self, scan: KeyScan | None, answer: Mapping[str, object] | None) -> Probe:
        """Judge the search for the key that ran inside."""
        if scan is None:
            return Probe(KEY, "absent", "absent", "too short to look for without giving it away")
        if answer is None:
            return Probe(KEY, "absent", "no answer", "the search did not end")
        duration_s = number(answer.get("s"))
        hits = answer.get("hits")
        if scan.is_among(hits if isinstance(hits, list) else []):
            return Probe(KEY, "absent", "present", "found inside", duration_s=duration_s)
        where = "environment, files, processes"
        if not answer.get("isWhole"):
            where += f" {NOT_ALL}"
        return Probe(KEY, "absent", "absent", where, duration_s=duration_s)

    def model_evidence(self, host: str, answer: Mapping[str, object]) -> tuple[int, str]:  # noqa: ARG002 - for judges that have a record
        """Give the status that is on record (0: none), and what speaks against an answer."""
        return 0, ""

    def evidence(
        self, name: str, answer: Mapping[str, object], plan: Mapping[str, object]
    ) -> tuple[Seen, str, bool]:
        """Give what was seen, in words, and whether it is the wall's own evidence."""
        raise NotImplementedError

    def own_seqs(self) -> frozenset[int]:
        """Give the numbers of the records that the probes caused."""
        return frozenset()


class RecordJudge(Judge):
    """The local home: an answer counts where the firewall has it on record, each record once."""

    def __init__(self, local: LocalApi, session_id: str, last_seq: int) -> None:
        self._local = local
        self._session_id = session_id
        self._last_seq = last_seq
        self._records: tuple[EgressRecord, ...] = ()
        self._own: set[int] = set()

    def key(self, scan: KeyScan | None, answer: Mapping[str, object] | None) -> Probe:
        """Look for the key from outside too, where nothing inside has a say in what is found."""
        inside = super().key(scan, answer)
        if scan is None or inside.seen == "present":
            return inside
        started = time.monotonic()
        found = self._local.search_key(self._session_id)
        if found is None:
            return inside
        duration_s = time.monotonic() - started
        if found.hits:
            where = f"found in {', '.join(found.hits)}"
            return Probe(KEY, "absent", "present", where, duration_s=duration_s)
        where = f"searched from outside: {found.files} files, {found.processes} processes"
        if not found.is_whole:
            where += f" {NOT_ALL}"
        return Probe(KEY, "absent", "absent", where, duration_s=duration_s)

    def model_evidence(self, host: str, answer: Mapping[str, object]) -> tuple[int, str]:
        """Look for the request that was let through, and for how it ended."""
        ports = answer.get("ports")
        ports = ports if isinstance(ports, list) else []

        def is_asked(record: EgressRecord, channel: str, port: int) -> bool:
            place = (record.channel, record.host, record.port)
            return place == (channel, host, port) and record.source_port in ports

        def is_request(record: EgressRecord) -> bool:
            is_root = record.path in {"", "/"} and not record.is_end
            return is_root and is_asked(record, "tls", _TLS_PORT)

        record = self._find(is_request)
        self._find(lambda r: not r.is_end and is_asked(r, "dns", _DNS_PORT), wait_s=0.0)
        if record is None:
            return 0, "not on the firewall's record"
        if record.verdict != "allowed":
            return 0, f"record {record.record_id}: {_in_words(record)}"
        end = self._find(lambda r: r.is_end and (r.connection, r.host) == (record.connection, host))
        if end is None or end.status_code or (end.bytes_in and not end.path):
            return end.status_code if end is not None else 0, ""
        return 0, f"record {end.record_id}: {_in_words(end)}"

    def evidence(
        self, name: str, answer: Mapping[str, object], plan: Mapping[str, object]
    ) -> tuple[Seen, str, bool]:
        """Look for the probe's own refusal by the policy."""
        places = _places(name, plan)
        source_port = answer.get("port")

        def is_own(record: EgressRecord) -> bool:
            # A packet to a port that nobody serves is known by that port, which is drawn by lot.
            is_from = name == "port" or (source_port and record.source_port == source_port)
            is_to = (record.channel, record.host, record.port) in places
            return bool(is_from) and is_to and not record.is_end

        record = self._find(is_own)
        if record is None:
            return "no answer", "not on the firewall's record", False
        evidence = f"record {record.record_id}: {_in_words(record)}"
        if record.verdict == "allowed":
            return "got through", f"record {record.record_id}: allowed", False
        if record.reason not in POLICY_REASONS:
            return "no answer", f"{evidence}: not the policy", False
        return "refused", evidence, True

    def own_seqs(self) -> frozenset[int]:
        """Give the numbers of the records that the probes caused."""
        return frozenset(self._own)

    def _find(
        self, is_wanted: Callable[[EgressRecord], bool], *, wait_s: float = RECORD_WAIT_S
    ) -> EgressRecord | None:
        """Claim the first record that fits; waits, as some are noted a moment later."""
        deadline = time.monotonic() + wait_s
        pause_s = 0.0
        while True:
            for record in self._records:
                if record.seq not in self._own and is_wanted(record):
                    self._own.add(record.seq)
                    return record
            if time.monotonic() > deadline:
                return None
            time.sleep(pause_s)
            pause_s = 0.02
            self._records = self._local.egress(self._session_id, self._last_seq)


class OutsideJudge(Judge):
    """The cloud home: a refusal counts where the same place answers from the kernel."""

    def __init__(self, outside: Outside | None) -> None:
        self._outside = outside if outside is not None else Outside("", does_answer=False)

    def evidence(
        self,
        name: str,
        answer: Mapping[str, object],
        plan: Mapping[str, object],
    ) -> tuple[Seen, str, bool]:
        """Compare with what was seen from here."""
        detail = str(answer.get("detail") or "refused")
        is_same = name == "name" or (name == "address" and plan["address"] == self._outside.address)
        if is_same and self._outside.does_answer:
            return "refused", f"{detail}; answers from here", True
        return "refused", f"{detail}; not provable from here", False


def number(value: object) -> float:
    """Give a number that a probe said; 0 for anything else."""
    return float(value) if isinstance(value, int | float) else 0.0


def _places(name: str, plan: Mapping[str, object]) -> set[tuple[object, object, object]]:
    """Give channel, host and port of what a probe tries."""
    places: dict[str, set[tuple[object, object, object]]] = {
        "name": {("dns", plan["name"], _DNS_PORT), ("tls", plan["name"], _TLS_PORT)},
        "address": {("tls", plan["servername"], _TLS_PORT)},
        "bare": {("tls", plan["address"], _TLS_PORT)},
        "port": {("tcp", plan["address"], plan["port"])},
    }
    return places[name]


def _in_words(record: EgressRecord) -> str:
    names = {"dns": "DNS", "tls": "TLS", "tcp": "TCP", "udp": "UDP", "http": "HTTP"}
    channel = names.get(record.channel, record.channel)
    return record.reason if record.reason.startswith(channel) else f"{channel}, {record.reason}"
