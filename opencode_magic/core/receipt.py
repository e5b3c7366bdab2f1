"""Egress record, policy and tool calls -> what a turn reached, what was blocked, how we know."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opencode_magic.core.egress import EgressRecord

ReceiptSource = Literal["firewall record", "tool reports"]


@dataclass(frozen=True, slots=True)
class HostCount:
    """How often one host and port was tried, with one outcome."""

    host: str
    port: int
    count: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one turn reached and what was blocked; most frequent first."""

    reached: tuple[HostCount, ...]
    blocked: tuple[HostCount, ...]
    source: ReceiptSource
    is_complete: bool
    """True only where every attempt is known (the local home's record, without gaps)."""


def receipt_from_records(records: Iterable[EgressRecord], *, is_complete: bool = True) -> Receipt:
    """Count the firewall's decisions.

    A name look-up that was allowed is no traffic and is left out; one that was refused is counted,
    and a refused connection to the same host is then counted beside it under its own port.
    """
    reached: Counter[tuple[str, int]] = Counter()
    blocked: Counter[tuple[str, int]] = Counter()
    reasons: dict[tuple[str, int], str] = {}
    for record in records:
        if record.is_end:
            continue
        place = (record.host, record.port)
        if record.verdict == "blocked":
            blocked[place] += 1
            reasons.setdefault(place, record.reason)
        elif record.channel != "dns":
            reached[place] += 1
    return Receipt(
        reached=_ranked(reached, {}),
        blocked=_ranked(blocked, reasons),
        source="firewall record",
        is_complete=is_complete,
    )


def _ranked(
    counts: Counter[tuple[str, int]], reasons: dict[tuple[str, int], str]
) -> tuple[HostCount, ...]:
    places = sorted(counts, key=lambda place: (-counts[place], place))
    return tuple(
        HostCount(
            host=host, port=port, count=counts[host, port], reason=reasons.get((host, port), "")
        )
        for host, port in places
    )
