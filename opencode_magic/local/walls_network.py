"""Attempts to reach the network from inside past the policy, for ``prove`` and for the tests.

Each is one Python expression, tried in a process of its own. The wall holds where nothing comes
back from outside and the firewall's own record, found by the attempt's source ports, says so; where
the kernel refuses before anyone is asked, its error is the evidence.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opencode_magic.core.checks import Check
from opencode_magic.core.policy_wire import parse_policy
from opencode_magic.errors import SandboxError
from opencode_magic.local import image
from opencode_magic.local.commands import CommandSpec, run
from opencode_magic.local.walls import BROKEN, STEP
from opencode_magic.local.walls_inside import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from opencode_magic.core.egress import EgressRecord
    from opencode_magic.core.policy import NetworkPolicy
    from opencode_magic.local.keeper import Keeper

TIMEOUT_S = 90.0
CANARY = "canary.internal"
"""The one host that is let through: it shows that a way out would be seen."""
INNER = {
    "loopback.example": "127.0.0.1",
    "loopback6.example": "::1",
    "mapped.example": "::ffff:127.0.0.1",
    "private.example": "10.0.0.1",
    "private6.example": "fd00::1",
    "link-local.example": "169.254.1.1",
    "link-local6.example": "fe80::1",
    "metadata.example": "169.254.169.254",
    "metadata6.example": "fd00:ec2::254",
    "translated.example": "64:ff9b::a9fe:a9fe",
    "unspecified.example": "0.0.0.0",
}
"""Names that the policy allows, and where they lead outside: nowhere that may be reached."""
WILD = "*.wild.example"
"""Names that the policy allows, whatever stands before the dot."""

ALLOWED = {
    "the allowed way": "secure(V4, CANARY, get(CANARY))",
    "the allowed way by IPv6": "secure(V6, CANARY, get(CANARY))",
    "the allowed way past 1,500 half-open connections": "past_half_open(1500)",
}
"""What must work, or the rest shows nothing."""

_ATTEMPTS = {
    "TCP to an address": "tcp(V4, 443, b'canary?')",
    "TCP to an IPv6 address": "tcp(V6, 443, b'canary?')",
    "TLS without a name": "secure(V4, None, get(V4))",
    "TLS without a name by IPv6": "secure(V6, None, get('[2001:db8::9]'))",
    "TLS to a name that is an address": "knock(V4, hello('203.0.113.9'))",
    "TLS to a name that is not allowed": "secure(V4, 'blocked.example', get('blocked.example'))",
    "TLS to a longer name": "secure(V4, 'a.canary.internal', get(CANARY))",
    "TLS to a name with more behind it": "knock(V4, hello('canary.internal.example'))",
    "a name cut into two TLS records": "knock(V4, halved(hello('blocked.example')))",
    "a name that comes slowly": "knock(V4, hello('slow.example'), pieces=4)",
    "half a name, then the end": "knock(V4, hello('half.example')[:60] + b'canary?', is_end=True)",
    "encrypted ClientHello": "knock(V4, encrypted(hello('public.example')))",
    "encrypted ClientHello by IPv6": "knock(V6, encrypted(hello('public.example')))",
    "another host behind an allowed name": "secure(V4, CANARY, get('blocked.example'))",
    "another host in the request's line": (
        "secure(V4, CANARY, get(CANARY, path='https://blocked.example/'))"
    ),
    "a second Host header": "secure(V4, CANARY, get(CANARY, 'Host: blocked.example'))",
    "two lengths": (
        "secure(V4, CANARY, get(CANARY, 'Content-Length: 5', 'Transfer-Encoding: chunked'))"
    ),
    "HTTP/2": "secure(V4, CANARY, PREFACE, alpn=['h2'])",
    "HTTP/2 in plain": "tcp(V4, 80, PREFACE)",
    "huge headers": "secure(V4, CANARY, get(CANARY, 'X: ' + 'x' * 1_000_000))",
    "a host behind huge headers": "tcp(V4, 80, huge('blocked.example'))",
    "plain HTTP to an address": "tcp(V4, 80, get(V4))",
    "plain HTTP to an IPv6 address": "tcp(V6, 80, get('[2001:db8::9]'))",
    "plain HTTP to a name": "tcp(V4, 80, get('blocked.example'))",
    "plain HTTP to the metadata service": "tcp('169.254.169.254', 80, get('169.254.169.254'))",
    "WebSocket": "tcp(V4, 80, get('blocked.example', *UPGRADE))",
    "WebSocket over TLS": "secure(V4, 'ws.example', get('ws.example', *UPGRADE))",
    "a redirect to another host": "redirected()",
    "other protocols on port 443": "tcp(V4, 443, b'SSH-2.0-canary\\r\\n')",
    "other protocols on port 80": "tcp(V4, 80, b'\\0canary')",
    "1,200 connections at once": "crowd(1200)",
    "CONNECT to a name": "proxied('blocked.example:443')",
    "CONNECT to an address": "proxied('203.0.113.9:443')",
    "CONNECT to an IPv6 address": "proxied('[2001:db8::9]:443')",
    "CONNECT to another port": "proxied(CANARY + ':22')",
    "CONNECT to this machine": "proxied('127.0.0.1:22')",
    "CONNECT to the metadata service": "proxied('169.254.169.254:80')",
    "CONNECT, then another name": "proxied(CANARY + ':443', 'blocked.example')",
    "CONNECT, then no TLS": "proxied(CANARY + ':443')",
    "the proxy port with a whole URL": (
        "tcp('127.0.0.1', 3128, get('blocked.example', path='http://blocked.example/'))"
    ),
    "DNS for a name that is not allowed": "look_up('127.0.0.1', 'blocked.example')",
    "DNS for a longer name": "look_up('127.0.0.1', 'a.canary.internal')",
    "DNS of another server": "look_up(V4, 'blocked.example')",
    "DNS by IPv6": "look_up(V6, 'blocked.example')",
    "DNS over TCP": "look_up(V4, 'blocked.example', is_tcp=True)",
    "DNS as a tunnel": "look_up('127.0.0.1', '.'.join(['d' * 60] * 3) + '.tunnel.example', 16)",
    "DNS as a tunnel, answer by NULL": "look_up('127.0.0.1', 'x' * 60 + '.tunnel.example', 10)",
    "DNS as a tunnel below an allowed name": "look_up('127.0.0.1', 'd' * 60 + '.wild.example', 16)",
    "DNS over TLS": "tcp(V4, 853, b'canary?')",
    "DNS over HTTPS": "secure(V4, 'dns.example', get('dns.example', path='/dns-query'))",
    "something else on the DNS port": "udp(V4, 53, b'canary? not a question')",
    "UDP to an address": "udp(V4, 9999, b'canary?')",
    "UDP to an IPv6 address": "udp(V6, 9999, b'canary?')",
    "QUIC": "udp(V4, 443, QUIC)",
    "QUIC by IPv6": "udp(V6, 443, QUIC)",
    "NTP": "udp(V4, 123, b'canary?')",
    **{f"TCP port {port}": f"tcp(V4, {port}, b'canary?')" for port in (22, 25, 8443, 65535)},
    **{f"TCP port {port} by IPv6": f"tcp(V6, {port}, b'canary?')" for port in (22, 8443)},
    **{
        f"CONNECT to {spelling}": f"proxied('{spelling}:443')"
        for spelling in ("127.1", "2130706433", "0x7f.1", "0177.0.0.1", "[::ffff:127.0.0.1]")
    },
    **{
        f"an allowed name that leads to {address}": f"secure(V4, '{name}', get('{name}'))"
        for name, address in INNER.items()
    },
}
_BY_KERNEL = {
    "a server on this machine's loopback": "tcp('127.0.0.1', PORT, b'canary?')",
    "ICMP": "ping(socket.AF_INET, socket.SOCK_RAW, 1)",
    "ICMP by IPv6": "ping(socket.AF_INET6, socket.SOCK_RAW, 58)",
    "ICMP without rights": "ping(socket.AF_INET, socket.SOCK_DGRAM, 1)",
}
"""Refused by the kernel inside, before the firewall could see anything."""
_UNASKED = {"DNS as a tunnel below an allowed name"}
"""Allowed, and answered by the firewall itself with nothing: nobody outside is asked."""
_KERNEL_ERRORS = {errno.EPERM, errno.EACCES, errno.ECONNREFUSED, errno.EPROTONOSUPPORT}


@dataclass(frozen=True, slots=True)
class Tried:
    """What one attempt met."""

    outcome: int
    """An error's number, 0 where an answer came from outside, ``BROKEN`` where it failed itself."""
    ports: tuple[int, ...] = ()
    """The source ports of all that had to be refused."""
    said: str = ""


def attempts() -> dict[str, str]:
    """Give every attempt by name, with those that must succeed first."""
    return ALLOWED | _ATTEMPTS | _BY_KERNEL


def policy_for(canary_port: int) -> NetworkPolicy:
    """Give the policy that the attempts are made against: one host leads to the canary."""
    forward = [{"forwardURL": f"http://127.0.0.1:{canary_port}"}]
    return parse_policy({"allow": {CANARY: forward, **{name: [] for name in (WILD, *INNER)}}})


def arguments(canary_port: int) -> list[str]:
    """Give what the program of ``walls_inside`` is started with, after its own text."""
    return [json.dumps({"attempts": attempts(), "canary": CANARY, "port": canary_port})]


def try_all(keeper: Keeper, canary_port: int) -> dict[str, Tried]:
    """Make every attempt in a keeper's sandbox; gives what each met.

    Raises:
        SandboxError: The sandbox could not run the attempts at all.
    """
    argv = [image.inside_python().program, "-I", "-c", PROGRAM, *arguments(canary_port)]
    command = run(keeper, CommandSpec(argv), image.environment(has_opencode=False))
    code = command.wait(TIMEOUT_S)
    outputs = command.outputs()
    if code != 0:
        said = b"".join(output.data for output in outputs)[-500:].decode(errors="replace")
        raise SandboxError(f"the attempts did not run to their end ({code}): {said}")
    return parse(b"".join(output.data for output in outputs if output.stream == "stdout"))


def parse(printed: bytes | str) -> dict[str, Tried]:
    """Read what the program printed."""
    return {
        str(name): Tried(int(outcome), tuple(map(int, ports)), str(said))
        for name, (outcome, ports, said) in json.loads(printed).items()
    }


def is_recorded(tried: Mapping[str, Tried], records: Iterable[EgressRecord]) -> bool:
    """Whether every attempt has the evidence that it needs: a record may come a little later."""
    return all(check.state == "ok" for check in judge(tried, tuple(records)))


def judge(tried: Mapping[str, Tried], records: Sequence[EgressRecord]) -> tuple[Check, ...]:
    """Say of each attempt whether the wall held, and by which evidence."""
    refusals = {
        record.source_port: record
        for record in records
        if record.verdict == "blocked" and record.source_port
    }
    answers = {record.source_port: record for record in records if record.channel == "dns"}
    return tuple(
        _judge_one(name, one, answers if name in _UNASKED else refusals)
        for name, one in tried.items()
    )


def _judge_one(name: str, tried: Tried, refusals: Mapping[int, EgressRecord]) -> Check:
    if name in ALLOWED:
        if tried.outcome == 0:
            return Check(name, "ok", "it answered, as it must")
        detail = f"no answer, so that the rest shows nothing: {_met(tried)}"
        return Check(name, "blocked", detail, STEP)
    if tried.outcome in {0, BROKEN}:
        detail = "it worked" if tried.outcome == 0 else f"it could not be tried: {tried.said}"
        return Check(name, "blocked", detail, STEP)
    if name in _BY_KERNEL:
        if tried.outcome in _KERNEL_ERRORS:
            return Check(name, "ok", f"refused by the kernel: {_met(tried)}")
    elif tried.ports and all(port in refusals for port in tried.ports):
        record = refusals[tried.ports[-1]]
        more = f" and {len(tried.ports) - 1} more" if len(tried.ports) > 1 else ""
        reason = "answered with nothing, and nobody asked" if name in _UNASKED else record.reason
        return Check(name, "ok", f"on record as {record.record_id}{more}: {reason}")
    detail = f"nothing came back, and nothing shows that the wall refused it: {_met(tried)}"
    return Check(name, "blocked", detail, STEP)


def _met(tried: Tried) -> str:
    code = errno.errorcode.get(tried.outcome, str(tried.outcome))
    return tried.said or f"{os.strerror(tried.outcome)} ({code})"
