from __future__ import annotations

import threading

from opencode_magic.core.egress import EgressRecord, parse_egress_record
from opencode_magic.local.firewall.record import Attempt, EgressLog, Outcome

ATTEMPT = Attempt("tls", "api.example.com", 443, 40_000, "c1")
BLOCKED = Outcome("blocked", "not in the network policy")


def test_records_are_numbered_and_dated() -> None:
    """The first record has number 1, and the wire form reads back to it."""
    log = EgressLog()
    record = log.append(ATTEMPT, BLOCKED)

    assert record == EgressRecord(
        seq=1,
        at_ms=record.at_ms,
        channel="tls",
        host="api.example.com",
        port=443,
        verdict="blocked",
        reason="not in the network policy",
        source_port=40_000,
        connection="c1",
    )
    assert parse_egress_record(record.to_json()) == record
    assert log.last_seq == 1


def test_the_log_is_bounded_and_shows_the_gap() -> None:
    """Beyond the limit the oldest go, and the numbers go on."""
    log = EgressLog(limit=3)
    for _ in range(5):
        log.append(ATTEMPT, BLOCKED)

    assert [record.seq for record in log.since(0)] == [3, 4, 5]
    assert [record.seq for record in log.since(4)] == [5]


def test_long_text_is_cut() -> None:
    """What a program sends cannot make a record large."""
    log = EgressLog()
    record = log.append(Attempt("http", "h" * 999, 80, path="p" * 9999, method="m" * 99), BLOCKED)

    assert (len(record.host), len(record.path), len(record.method)) == (260, 1024, 32)


def test_followers_get_everything_until_the_end() -> None:
    """A follower gets old and new records in order, and ends when the log is closed."""
    log = EgressLog()
    log.append(ATTEMPT, BLOCKED)
    seen: list[int] = []
    follower = threading.Thread(target=lambda: seen.extend(r.seq for r in log.follow(0)))
    follower.start()
    for _ in range(3):
        log.append(ATTEMPT, BLOCKED)
    log.close()
    follower.join(10)

    assert seen == [1, 2, 3, 4]
    assert log.is_closed
    assert log.wait(4, timeout_s=10) == ()
