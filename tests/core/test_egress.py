from __future__ import annotations

import json
from dataclasses import replace

import pytest

from opencode_magic.core.egress import EgressRecord, attempts, parse_egress_record

RECORD = EgressRecord(
    seq=10,
    at_ms=1_700_000_000_000,
    channel="tls",
    host="example.com",
    port=443,
    verdict="blocked",
    reason="not in the network policy",
    source_port=40123,
)


def test_a_record_survives_the_wire() -> None:
    """What is written as JSON is read back as the same value."""
    wire = json.loads(json.dumps(RECORD.to_json()))

    assert parse_egress_record(wire) == RECORD


def test_an_unknown_field_is_passed_over() -> None:
    """A later server may say more."""
    assert parse_egress_record({**RECORD.to_json(), "colour": "red"}) == RECORD


def test_a_record_is_named_by_its_number() -> None:
    """The id shown to a person is short."""
    assert RECORD.record_id == "000a"


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {**RECORD.to_json(), "port": "443"},
        {**RECORD.to_json(), "is_end": 1},
        {**RECORD.to_json(), "verdict": "maybe"},
        {**RECORD.to_json(), "channel": "carrier pigeon"},
        {"seq": 1},
    ],
)
def test_a_malformed_record_is_an_error(value: object) -> None:
    """Nothing malformed becomes a record."""
    with pytest.raises(ValueError, match="egress record"):
        parse_egress_record(value)


def test_questions_of_one_lookup_are_one_attempt() -> None:
    """A resolver asks for both address families from one socket; the next look-up has another."""
    question = replace(RECORD, channel="dns", port=53, source_port=1)
    again = replace(question, source_port=2)
    unknown = replace(question, source_port=0)

    assert list(attempts([question, question, again, again, unknown, unknown])) == [
        question,
        again,
        unknown,
        unknown,
    ]


def test_the_end_of_a_connection_is_no_attempt() -> None:
    """Totals come in a record of their own."""
    assert list(attempts([RECORD, replace(RECORD, is_end=True), RECORD])) == [RECORD, RECORD]
