"""Classic BPF: a few instructions with labels -> the bytes that the kernel takes.

Source: Linux, include/uapi/linux/bpf_common.h and filter.h.
"""

from __future__ import annotations

import struct

LOAD_WORD, LOAD_HALF, LOAD_BYTE = 0x20, 0x28, 0x30
LOAD_HALF_AT_X, LOAD_BYTE_AT_X = 0x48, 0x50
SET_X, SET_X_TO_IP_HEAD = 0x01, 0xB1
AND = 0x54
IF_EQUAL, IF_GREATER_EQUAL, IF_ANY_BIT = 0x15, 0x35, 0x45
GIVE = 0x06


class Program:
    """A program being written. Jumps go forward, to a label; no label means the next line."""

    def __init__(self) -> None:
        self._lines: list[tuple[int, str, str, int]] = []
        self._labels: dict[str, int] = {}

    def put(self, code: int, value: int, yes: str = "", no: str = "") -> None:
        """Append an instruction."""
        self._lines.append((code, yes, no, value & 0xFFFFFFFF))

    def label(self, name: str) -> None:
        """Name the next instruction."""
        self._labels[name] = len(self._lines)

    def assemble(self) -> bytes:
        """Give the bytes.

        Raises:
            KeyError: A label is missing.
            struct.error: A jump is longer than 255 instructions, or goes back.
        """
        return b"".join(
            struct.pack("=HBBI", code, self._jump(at, yes), self._jump(at, no), value)
            for at, (code, yes, no, value) in enumerate(self._lines)
        )

    def _jump(self, at: int, name: str) -> int:
        return self._labels[name] - at - 1 if name else 0


def attempts_filter(keep_bytes: int) -> bytes:
    """Give a packet filter for ``lo`` that passes first packets to places without a listener.

    Passed are, once each: TCP SYN but to ports 443, 80 and 53; UDP but from or to port 53; every
    other protocol but ICMP's answers. Dropped is what goes to 127.0.0.0/8 or ::1.
    """
    program = Program()
    put, label = program.put, program.label
    put(LOAD_WORD, _PACKET_TYPE)
    put(IF_EQUAL, _OUTGOING, "drop")  # each packet on lo is seen twice
    put(LOAD_WORD, _PROTOCOL)
    put(IF_EQUAL, 0x86DD, "v6")
    put(IF_EQUAL, 0x0800, "", "pass")
    put(LOAD_BYTE, 16)
    put(IF_EQUAL, 127, "drop")
    put(SET_X_TO_IP_HEAD, 0)
    put(LOAD_BYTE, 9)
    _by_transport(program)
    label("v6")
    for offset in (24, 28, 32):
        put(LOAD_WORD, offset)
        put(IF_EQUAL, 0, "", "v6 far")
    put(LOAD_WORD, 36)
    put(IF_EQUAL, 1, "drop")
    label("v6 far")
    put(SET_X, 40)
    put(LOAD_BYTE, 6)
    _by_transport(program)
    _judge_transports(program)
    label("pass")
    put(GIVE, keep_bytes)
    label("drop")
    put(GIVE, 0)
    return program.assemble()


_PROTOCOL, _PACKET_TYPE, _OUTGOING = -0x1000, -0x1000 + 4, 4


def _by_transport(program: Program) -> None:
    """Go on by the protocol number in A, with the transport's offset in X."""
    program.put(IF_EQUAL, 6, "tcp")
    program.put(IF_EQUAL, 17, "udp")
    program.put(IF_EQUAL, 1, "icmp")
    program.put(IF_EQUAL, 58, "icmp6", "pass")


def _judge_transports(program: Program) -> None:
    put, label = program.put, program.label
    label("tcp")
    put(LOAD_BYTE_AT_X, 13)
    put(AND, 0x12)
    put(IF_EQUAL, 0x02, "", "drop")
    put(LOAD_HALF_AT_X, 2)
    _drop_these(program, (443, 80, 53))
    label("udp")
    put(LOAD_HALF_AT_X, 0)
    put(IF_EQUAL, 53, "drop")
    put(LOAD_HALF_AT_X, 2)
    _drop_these(program, (53,))
    label("icmp")
    put(LOAD_BYTE_AT_X, 0)
    _drop_these(program, (0, 3, 11, 12))
    label("icmp6")
    put(LOAD_BYTE_AT_X, 0)
    _drop_these(program, (1, 3, 4, 129, 133, 135, 136, 143))


def _drop_these(program: Program, values: tuple[int, ...]) -> None:
    """Drop when A is one of the values, else pass."""
    for value in values[:-1]:
        program.put(IF_EQUAL, value, "drop")
    program.put(IF_EQUAL, values[-1], "drop", "pass")
