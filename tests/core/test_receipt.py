from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from opencode_magic.core.egress import EgressRecord
from opencode_magic.core.receipt import HostCount, Receipt, receipt_from_records

ALLOWED = EgressRecord(1, 0, "tls", "model.example", 443, "allowed", "in the network policy")
BLOCKED = EgressRecord(2, 0, "tls", "example.com", 443, "blocked", "not in the network policy")


def test_nothing() -> None:
    """Without a record nothing was reached and nothing blocked."""
    assert receipt_from_records([]) == Receipt((), (), "firewall record", is_complete=True)


def test_counts() -> None:
    """Each host and port is counted, the most frequent first, then by name."""
    records = [
        ALLOWED,
        ALLOWED,
        replace(ALLOWED, host="a.example"),
        BLOCKED,
        replace(BLOCKED, port=80),
        replace(BLOCKED, port=80, reason="later"),
    ]

    assert receipt_from_records(records) == Receipt(
        reached=(HostCount("model.example", 443, 2), HostCount("a.example", 443, 1)),
        blocked=(
            HostCount("example.com", 80, 2, "not in the network policy"),
            HostCount("example.com", 443, 1, "not in the network policy"),
        ),
        source="firewall record",
        is_complete=True,
    )


def test_first_reason_stays() -> None:
    """A place that is refused for several reasons says the first."""
    receipt = receipt_from_records([replace(BLOCKED, reason="first"), BLOCKED])

    assert receipt.blocked == (HostCount("example.com", 443, 2, "first"),)


def test_names() -> None:
    """A name that was looked up is no traffic; one that was refused is counted."""
    allowed = replace(ALLOWED, channel="dns", port=53)
    refused = replace(BLOCKED, channel="dns", port=53)

    assert receipt_from_records([allowed, refused, BLOCKED]) == Receipt(
        reached=(),
        blocked=(
            HostCount("example.com", 53, 1, "not in the network policy"),
            HostCount("example.com", 443, 1, "not in the network policy"),
        ),
        source="firewall record",
        is_complete=True,
    )


def test_ends_are_left_out() -> None:
    """A connection that ends is not counted a second time."""
    ended = replace(ALLOWED, seq=3, is_end=True, bytes_in=9)

    assert receipt_from_records([ALLOWED, ended]).reached == (HostCount("model.example", 443, 1),)


def test_gaps() -> None:
    """A record with gaps gives a receipt that says so."""
    assert not receipt_from_records([ALLOWED], is_complete=False).is_complete


@given(st.lists(st.sampled_from([ALLOWED, BLOCKED, replace(BLOCKED, port=80)]), max_size=30))
def test_nothing_is_lost(records: list[EgressRecord]) -> None:
    """Every decision is counted exactly once."""
    receipt = receipt_from_records(iter(records))
    counted = sum(place.count for place in (*receipt.reached, *receipt.blocked))

    assert counted == len(records)


def test_a_receipt_reads_as_lines() -> None:
    """Printed, a receipt says what was reached, what was blocked and why, and how we know."""
    receipt = receipt_from_records([ALLOWED, BLOCKED, BLOCKED], is_complete=False)

    assert str(receipt).splitlines() == [
        "reached model.example port 443, once",
        "blocked example.com port 443, 2 times: not in the network policy",
        "from the firewall record, not complete",
    ]


def test_an_empty_receipt_says_so() -> None:
    """A turn that reached nothing has a receipt that can be read too."""
    assert str(receipt_from_records([])).splitlines()[0] == "nothing left the sandbox"
