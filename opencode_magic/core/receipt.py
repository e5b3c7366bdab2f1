"""Egress record, policy and tool calls -> what a turn reached, what was blocked, how we know."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal, Protocol

from opencode_magic.core.egress import attempts
from opencode_magic.core.policy import REASON_NOT_LISTED, canonical_host

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opencode_magic.core.egress import EgressRecord
    from opencode_magic.core.parts import ToolPart
    from opencode_magic.core.policy import NetworkPolicy


LARGEST_PLACES = 10_000
"""Of one turn, and of one call; a receipt from tool reports is not complete anyway."""


class _Printer(Protocol):
    """The part of IPython's pretty printer that is used."""

    def text(self, text: str) -> object: ...


ReceiptSource = Literal["firewall record", "tool reports"]


@dataclass(frozen=True, slots=True)
class HostCount:
    """How often one host and port was tried, with one outcome."""

    host: str
    port: int
    count: int
    reason: str = ""

    def __str__(self) -> str:
        times = "once" if self.count == 1 else f"{self.count} times"
        return f"{self.host} port {self.port}, {times}" + (self.reason and f": {self.reason}")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one turn reached and what was blocked; most frequent first."""

    reached: tuple[HostCount, ...]
    blocked: tuple[HostCount, ...]
    source: ReceiptSource
    is_complete: bool
    """True only where every attempt is known (the local home's record, without gaps)."""

    def __str__(self) -> str:
        lines = [f"reached {place}" for place in self.reached]
        lines += [f"blocked {place}" for place in self.blocked]
        known = "complete" if self.is_complete else "not complete"
        return "\n".join(
            [*(lines or ["nothing left the sandbox"]), f"from the {self.source}, {known}"]
        )

    def _repr_pretty_(self, printer: _Printer, cycle: bool) -> None:  # noqa: FBT001, ARG002 - IPython calls it so
        printer.text(str(self))


def receipt_from_records(records: Iterable[EgressRecord], *, is_complete: bool = True) -> Receipt:
    """Count the firewall's decisions.

    A name look-up that was allowed is no traffic and is left out; one that was refused is counted,
    once, and a refused connection to the same host is then counted beside it under its own port.
    """
    reached: Counter[tuple[str, int]] = Counter()
    blocked: Counter[tuple[str, int]] = Counter()
    reasons: dict[tuple[str, int], str] = {}
    for record in attempts(records):
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


def receipt_from_tools(
    tools: Iterable[ToolPart], policy: NetworkPolicy, *, model_host: str, model_calls: int
) -> Receipt:
    """Count the hosts that the agent's tool calls name, where no firewall's record exists.

    An address in a call's input counts as blocked where the policy has no place for its host. What
    a program that the agent started tried besides is not known: the receipt is not complete.

    Args:
        tools: The turn's tool calls.
        policy: The network policy as read back.
        model_host: Where the model answers.
        model_calls: How often it was asked.
    """
    reached: Counter[tuple[str, int]] = Counter()
    blocked: Counter[tuple[str, int]] = Counter()
    reasons: dict[tuple[str, int], str] = {}
    if model_calls:
        reached[model_host, 443] = model_calls
    found = islice((place for tool in tools for place in _places(tool)), LARGEST_PLACES)
    for place in found:
        if policy.mode == "allow-all" or policy.find(place[0]) is not None:
            reached[place] += 1
        else:
            blocked[place] += 1
            reasons[place] = REASON_NOT_LISTED
    return Receipt(
        reached=_ranked(reached, {}),
        blocked=_ranked(blocked, reasons),
        source="tool reports",
        is_complete=False,
    )


_ADDRESS = re.compile(
    r"\b(https?)://(?:[^/\s@'\"]*@)?([A-Za-z0-9.-]+)(?::(\d{1,5}))?", re.IGNORECASE
)


def _places(tool: ToolPart) -> set[tuple[str, int]]:
    """Give the hosts and ports in the addresses that a call's input holds."""
    text = " ".join(str(value) for value in tool.input.values())
    places = set()
    for match in islice(_ADDRESS.finditer(text), LARGEST_PLACES):
        scheme, name, port = match.groups()
        host = canonical_host(name) or _address(name)
        if host:
            places.add((host, int(port or (443 if scheme.lower() == "https" else 80))))
    return places


def _address(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return ""


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
