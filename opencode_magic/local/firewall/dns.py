"""DNS questions -> answers that the firewall makes up: nothing is ever asked outside for them.

An allowed name gets a synthetic address, one that leads to the firewall whatever it is; every
other name does not exist. Source: RFC 1035 section 4.
"""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict
from dataclasses import dataclass

QUERY_LIMIT_BYTES = 1024
TTL_S = 30

TYPE_A = 1
TYPE_AAAA = 28
CODE_OK = 0
CODE_FORMAT = 1
CODE_NO_NAME = 3
CODE_NOT_IMPLEMENTED = 4

_HEAD_BYTES = 12
_CLASS_IN = 1
_LABEL_LIMIT_BYTES = 63
_NAME_LIMIT_BYTES = 255
_RESPONSE = 0x8000
_OPCODE_MASK = 0x7800
_RECURSION_DESIRED = 0x0100
_RECURSION_AVAILABLE = 0x0080
_POINTER_TO_QUESTION = 0xC00C


@dataclass(frozen=True, slots=True)
class Question:
    """One well-formed question, with what an answer must repeat."""

    query_id: int
    flags: int
    name: str
    kind: int
    wire: bytes
    """The question section as it came."""


@dataclass(frozen=True, slots=True)
class BadQuery:
    """Something else than one question; ``answer`` says so, or is empty where nobody asked."""

    answer: bytes


def parse_query(data: bytes) -> Question | BadQuery:
    """Read one DNS message that a program sent. Never raises."""
    if len(data) < _HEAD_BYTES:
        return BadQuery(b"")
    query_id, flags, questions = (int.from_bytes(data[at : at + 2], "big") for at in (0, 2, 4))
    if flags & _RESPONSE:
        return BadQuery(b"")
    if flags & _OPCODE_MASK:
        return BadQuery(_head(query_id, flags, CODE_NOT_IMPLEMENTED, questions=0, answers=0))
    name, end = _parse_name(data)
    if questions != 1 or not end or len(data) < end + 4 or len(data) > QUERY_LIMIT_BYTES:
        return BadQuery(_head(query_id, flags, CODE_FORMAT, questions=0, answers=0))
    kind = int.from_bytes(data[end : end + 2], "big")
    if int.from_bytes(data[end + 2 : end + 4], "big") != _CLASS_IN:
        return BadQuery(_head(query_id, flags, CODE_NOT_IMPLEMENTED, questions=0, answers=0))
    return Question(query_id, flags, name, kind, data[_HEAD_BYTES : end + 4])


def make_answer(question: Question, code: int, address: str | None = None) -> bytes:
    """Give the answer: an error, one address, or that there is nothing of that kind."""
    if address is None:
        return _head(question.query_id, question.flags, code, questions=1, answers=0) + (
            question.wire
        )
    packed = ipaddress.ip_address(address).packed
    answer = b"".join(
        (
            _POINTER_TO_QUESTION.to_bytes(2, "big"),
            question.kind.to_bytes(2, "big"),
            _CLASS_IN.to_bytes(2, "big"),
            TTL_S.to_bytes(4, "big"),
            len(packed).to_bytes(2, "big"),
            packed,
        )
    )
    head = _head(question.query_id, question.flags, CODE_OK, questions=1, answers=1)
    return head + question.wire + answer


class SyntheticAddresses:
    """Gives each allowed name an address of its own, and tells which name an address stands for.

    The networks are those set aside for benchmarks (RFC 2544, RFC 5180): no program has a reason
    to reach them, and no rule of the policy can mean them. Thread-safe.
    """

    NETWORK_4 = ipaddress.IPv4Network("198.18.0.0/15")
    NETWORK_6 = ipaddress.IPv6Network("2001:2::/48")
    LIMIT = 65_536

    def __init__(self) -> None:
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self._names: dict[int, str] = {}
        self._next = 0
        self._lock = threading.Lock()

    def address_for(self, name: str, kind: int) -> str | None:
        """Give the IPv4 or IPv6 address of a name; None for any other kind of question."""
        if kind not in {TYPE_A, TYPE_AAAA}:
            return None
        network = self.NETWORK_4 if kind == TYPE_A else self.NETWORK_6
        return str(network[self._number_of(name) + 1])

    def name_of(self, address: str) -> str:
        """Give the name an address stands for; empty where it stands for none."""
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return ""
        for network in (self.NETWORK_4, self.NETWORK_6):
            if parsed.version == network.version and parsed in network:
                number = int(parsed) - int(network.network_address) - 1
                return self._names.get(number, "")
        return ""

    def _number_of(self, name: str) -> int:
        with self._lock:
            number = self._numbers.get(name)
            if number is not None:
                self._numbers.move_to_end(name)
                return number
            if len(self._numbers) >= self.LIMIT:
                _, number = self._numbers.popitem(last=False)
            else:
                number = self._next
                self._next += 1
            self._numbers[name] = number
            self._names[number] = name
            return number


def _parse_name(data: bytes) -> tuple[str, int]:
    """Give the name of the first question and where it ends; 0 where it is malformed."""
    at = _HEAD_BYTES
    labels: list[str] = []
    while at < len(data):
        size = data[at]
        at += 1
        if size == 0:
            return ".".join(labels), at
        if size > _LABEL_LIMIT_BYTES or at + size > len(data) or at > _NAME_LIMIT_BYTES + 12:
            break
        label = data[at : at + size]
        labels.append("".join(_show(octet) for octet in label))
        at += size
    return "", 0


def _show(octet: int) -> str:
    """Show an octet that no host name has as an escape: a dot in a label is not two labels."""
    char = chr(octet)
    return char if "!" <= char <= "~" and char not in ".\\" else f"\\{octet:03d}"


def _head(query_id: int, flags: int, code: int, *, questions: int, answers: int) -> bytes:
    reply = _RESPONSE | (flags & (_OPCODE_MASK | _RECURSION_DESIRED)) | _RECURSION_AVAILABLE | code
    numbers = (query_id, reply, questions, answers, 0, 0)
    return b"".join(number.to_bytes(2, "big") for number in numbers)
