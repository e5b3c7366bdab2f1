"""One decision of the firewall, as it goes over the wire and into status and receipt.

The local server writes these as NDJSON, one object a line, with exactly the field names below.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Verdict = Literal["allowed", "blocked"]
Channel = Literal["dns", "tcp", "udp", "ip", "tls", "http", "proxy"]
"""How the program tried: a name look-up, bare TCP, UDP or another protocol of IP, TLS by SNI, plain
HTTP, or CONNECT."""


@dataclass(frozen=True, slots=True)
class EgressRecord:
    """One attempt to leave the sandbox and what became of it.

    A connection that lives on is recorded when it is decided; ``bytes_out`` and ``bytes_in`` are
    then 0 and a second record with the same ``connection`` and ``is_end`` True gives the totals.
    """

    seq: int
    """Counts up from 1 within a sandbox; gaps mean that old records were dropped."""
    at_ms: int
    """Unix time of the decision, in milliseconds."""
    channel: Channel
    host: str
    """The canonical name asked for, or the address where there was no name."""
    port: int
    verdict: Verdict
    reason: str
    """Short and plain, such as ``not in the network policy``."""
    source_port: int = 0
    """The port inside the sandbox that the attempt came from: a probe's nonce."""
    connection: str = ""
    program: str = ""
    method: str = ""
    path: str = ""
    status_code: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    is_end: bool = False

    @property
    def record_id(self) -> str:
        """How the record is named to a person."""
        return f"{self.seq:04x}"

    def to_json(self) -> dict[str, object]:
        """Give the wire form."""
        return asdict(self)


def lookup_of(record: EgressRecord) -> tuple[str, int] | None:
    """Give what tells one name look-up from another; None where the record is of none."""
    is_known = record.channel == "dns" and record.source_port
    return (record.host, record.source_port) if is_known else None


def attempts(
    records: Iterable[EgressRecord], *, last_lookup: tuple[str, int] | None = None
) -> Iterator[EgressRecord]:
    """Give the records that count as attempts, in their order.

    The end of a connection is none. The questions of one name look-up (for an IPv4 and an IPv6
    address, asked from one socket) are one.

    Args:
        records: Oldest first.
        last_lookup: The look-up that the records before these ended with.
    """
    lookups = {last_lookup}
    for record in records:
        if record.is_end:
            continue
        lookup = lookup_of(record)
        if lookup is not None and lookup in lookups:
            continue
        lookups.add(lookup)
        yield record


def parse_egress_record(value: object) -> EgressRecord:
    """Parse one wire record.

    Raises:
        ValueError: A required field is missing or of the wrong type.
    """
    if not isinstance(value, dict):
        msg = "an egress record is a JSON object"
        raise ValueError(msg)  # noqa: TRY004 - every malformed record is one error to the caller
    fields: dict[str, object] = {}
    for name, kind in _FIELD_TYPES.items():
        if name not in value:
            continue
        item = value[name]
        if type(item) is not kind:
            msg = f"egress record field {name!r} is not {kind.__name__}"
            raise ValueError(msg)
        fields[name] = item
    if fields.get("channel") not in get_args(Channel) or fields.get("verdict") not in get_args(
        Verdict
    ):
        msg = "egress record has an unknown channel or verdict"
        raise ValueError(msg)
    missing = _REQUIRED - fields.keys()
    if missing:
        msg = f"egress record lacks {sorted(missing)}"
        raise ValueError(msg)
    # Every field was checked against _FIELD_TYPES above, which mypy cannot see.
    return EgressRecord(**fields)  # type: ignore[arg-type]


_FIELD_TYPES: dict[str, type] = {
    "seq": int,
    "at_ms": int,
    "channel": str,
    "host": str,
    "port": int,
    "verdict": str,
    "reason": str,
    "source_port": int,
    "connection": str,
    "program": str,
    "method": str,
    "path": str,
    "status_code": int,
    "bytes_out": int,
    "bytes_in": int,
    "is_end": bool,
}
_REQUIRED = {"seq", "at_ms", "channel", "host", "port", "verdict", "reason"}
