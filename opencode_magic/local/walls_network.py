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
from opencode_magic.local.firewall.gate import UNREAD
from opencode_magic.local.walls import BROKEN, STEP
from opencode_magic.local.walls_inside import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from opencode_magic.core.egress import EgressRecord
    from opencode_magic.core.policy import NetworkPolicy
    from opencode_magic.local.keeper import Keeper

TIMEOUT_S = 90.0
CANARY = "canary.internal"
"""A host that is let through, with rules: it shows that a way out would be seen."""
PLAIN = "plain.example"
"""A host that is let through, without rules."""
INNER = {
    "loopback.example": "127.0.0.1",
    "loopback6.example": "::1",
    "mapped.example": "::ffff:127.0.0.1",
    "private.example": "10.0.0.1",
    "private-b.example": "172.16.0.1",
    "private-c.example": "192.168.0.1",
    "private6.example": "fd00::1",
    "shared.example": "100.64.0.1",
    "link-local.example": "169.254.1.1",
    "link-local6.example": "fe80::1",
    "metadata.example": "169.254.169.254",
    "metadata6.example": "fd00:ec2::254",
    "wire-server.example": "168.63.129.16",
    "translated.example": "64:ff9b::a9fe:a9fe",
    "tunnelled.example": "2002:a9fe:a9fe::1",
    "unspecified.example": "0.0.0.0",
    "unspecified6.example": "::",
    "multicast.example": "224.0.0.1",
    "broadcast.example": "255.255.255.255",
}
"""Names that the policy allows, and where they lead outside: nowhere that may be reached."""
WILD = "*.wild.example"
"""Names that the policy allows, whatever stands before the dot."""
_V6 = " by IPv6"

ALLOWED = {
    "the allowed way": "secure(V4, CANARY, get(CANARY))",
    "the allowed way by IPv6": "secure(V6, CANARY, get(CANARY))",
    "the allowed way with HTTP/2 offered": (
        "secure(V4, CANARY, get(CANARY), alpn=['h2', 'http/1.1'], chosen='http/1.1')"
    ),
    "the allowed way by WebSocket": "websocket(V4, CANARY)",
    "the allowed way through the proxy port": "proxied(CANARY + ':443', CANARY, get(CANARY))",
    "the allowed way to a host without rules": "secure(V4, PLAIN, get(PLAIN))",
    "the allowed way past 1,500 half-open connections": "past_half_open(1500)",
}
"""What must work, or the rest shows nothing."""
_ON_PLAIN = {
    "encrypted ClientHello behind an allowed name": "shown(V4, encrypted(hello(PLAIN, True)))",
    "encrypted ClientHello behind a name with rules": "shown(V4, encrypted(hello(CANARY, True)))",
}
_STATED = {
    "another host behind an allowed name without rules": (
        "secure(V4, PLAIN, get('neighbour.example'))"
    ),
    "WebSocket to another host behind such a name": "websocket(V4, PLAIN, 'neighbour.example')",
}
"""Passed through unread, which the record says; refused where the firewall is strict."""
_ATTEMPTS = {
    "TCP": "tcp(V4, 443, b'canary?')",
    "TLS without a name": "secure(V4, None, get(H4))",
    "TLS to a name that is an address": "knock(V4, hello('203.0.113.9'))",
    "TLS to a name that is not allowed": "secure(V4, 'blocked.example', get('blocked.example'))",
    "TLS to a longer name": "secure(V4, 'a.canary.internal', get(CANARY))",
    "TLS to a name with more behind it": "knock(V4, hello('canary.internal.example'))",
    "a name cut into two TLS records": "knock(V4, halved(hello('blocked.example')))",
    "a name that comes slowly": "knock(V4, hello('slow.example'), pieces=4)",
    "half a name, then the end": "knock(V4, hello('half.example')[:60] + b'canary?', is_end=True)",
    "encrypted ClientHello": "knock(V4, encrypted(hello('public.example')))",
    "another host behind an allowed name": "secure(V4, CANARY, get('blocked.example'))",
    "another host in the request's line": (
        "secure(V4, CANARY, get(CANARY, path='https://blocked.example/'))"
    ),
    "another host in a second request": "second(V4, CANARY, 'blocked.example')",
    "another host in a request sent ahead": "second(V4, CANARY, 'blocked.example', True)",
    "another host by WebSocket": "websocket(V4, CANARY, 'blocked.example')",
    "a second Host header": "secure(V4, CANARY, get(CANARY, 'Host: blocked.example'))",
    "two lengths": (
        "secure(V4, CANARY, get(CANARY, 'Content-Length: 5', 'Transfer-Encoding: chunked'))"
    ),
    "HTTP/2": "secure(V4, CANARY, PREFACE, alpn=['h2'])",
    "HTTP/2 in plain": "tcp(V4, 80, PREFACE)",
    "huge headers": "secure(V4, CANARY, get(CANARY, 'X: ' + 'x' * 1_000_000))",
    "a host behind huge headers": "tcp(V4, 80, huge('blocked.example'))",
    "plain HTTP to an address": "tcp(V4, 80, get(H4))",
    "plain HTTP to a name": "tcp(V4, 80, get('blocked.example'))",
    "plain HTTP to an allowed name": "tcp(V4, 80, get(PLAIN))",
    "plain HTTP that comes slowly": "tcp(V4, 80, get('blocked.example'), pieces=4)",
    "half a request, then the end": "knock(V4, b'GET / HTT', is_end=True, port=80)",
    "plain HTTP to the metadata service": "tcp('169.254.169.254', 80, get('169.254.169.254'))",
    "plain HTTP to the metadata service by IPv6": (
        "tcp('fd00:ec2::254', 80, get('[fd00:ec2::254]'))"
    ),
    "WebSocket": "websocket(V4, '', 'blocked.example')",
    "WebSocket over TLS": "websocket(V4, 'ws.example')",
    "a redirect to another host": "redirected(V4)",
    "other protocols on port 443": "tcp(V4, 443, b'SSH-2.0-canary\\r\\n')",
    "other protocols on port 80": "tcp(V4, 80, b'\\0canary')",
    "2,000 connections at once": "crowd(2000)",
    "CONNECT to a name": "proxied('blocked.example:443')",
    "CONNECT to an address": "proxied('203.0.113.9:443')",
    "CONNECT to an IPv6 address": "proxied('[2001:db8::9]:443')",
    "CONNECT to another port": "proxied(CANARY + ':22')",
    "CONNECT to this machine": "proxied('127.0.0.1:22')",
    "CONNECT to the metadata service": "proxied('169.254.169.254:80')",
    "CONNECT, then another name": "proxied(CANARY + ':443', 'blocked.example')",
    "CONNECT, then another host": "proxied(CANARY + ':443', CANARY, get('blocked.example'))",
    "CONNECT, then no TLS": "proxied(CANARY + ':443')",
    "CONNECT on port 80": "proxied('blocked.example:443', to=(V4, 80))",
    "CONNECT within TLS": "proxied('blocked.example:443', to=(V4, 443), within=CANARY)",
    "the proxy port with a whole URL": (
        "tcp('127.0.0.1', 3128, get('blocked.example', path='http://blocked.example/'))"
    ),
    "DNS for a name that is not allowed": "look_up('127.0.0.1', 'blocked.example')",
    "DNS for a longer name": "look_up('127.0.0.1', 'a.canary.internal')",
    "DNS of another server": "look_up(V4, 'blocked.example')",
    "DNS over TCP": "look_up(V4, 'blocked.example', is_tcp=True)",
    "DNS as a tunnel": "look_up('127.0.0.1', '.'.join(['d' * 60] * 3) + '.tunnel.example', 16)",
    "DNS as a tunnel, answer by NULL": "look_up('127.0.0.1', 'x' * 60 + '.tunnel.example', 10)",
    "DNS as a tunnel below an allowed name": "look_up('127.0.0.1', 'd' * 60 + '.wild.example', 16)",
    "DNS over TLS": "tcp(V4, 853, b'canary?')",
    "DNS over HTTPS": "secure(V4, 'dns.example', get('dns.example', path='/dns-query'))",
    "something else on the DNS port": "udp(V4, 53, b'canary? not a question')",
    "QUIC": "udp(V4, 443, QUIC)",
    "NTP": "udp(V4, 123, b'canary?')",
    **{f"UDP port {port}": f"udp(V4, {port}, b'canary?')" for port in (1, 9999, 65535)},
    **{f"TCP port {port}": f"tcp(V4, {port}, b'canary?')" for port in (22, 25, 8443, 65535)},
    "data in the first packet": "fast_open(V4, 22)",
    "an IPv4 address within an IPv6 one": "tcp('::ffff:203.0.113.9', 443, b'canary?')",
    "a translated IPv4 address": "tcp('64:ff9b::cb00:7109', 443, b'canary?')",
    **{
        f"CONNECT to {spelling}": f"proxied('{spelling}:443')"
        for spelling in ("127.1", "2130706433", "0x7f.1", "0177.0.0.1", "[::ffff:127.0.0.1]")
    },
    **{
        f"an allowed name that leads to {address}": f"secure(PLACE, '{name}', get('{name}'))"
        for name, address in INNER.items()
    },
}
_BY_KERNEL = {
    "a server on this machine's loopback": "tcp('127.0.0.1', PORT, b'canary?')",
    "a server on this machine's loopback by IPv6": "tcp('::1', PORT, b'canary?')",
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


def attempts(*, is_strict: bool = False, has_ipv6: bool = True) -> dict[str, str]:
    """Give every attempt by name, with those that must succeed first.

    Args:
        is_strict: Those that a strict firewall is there for, and no others.
        has_ipv6: Those by IPv6 too.
    """
    more = _ON_PLAIN | _STATED
    if is_strict:
        found = {name: text for name, text in ALLOWED.items() if "half_open" not in text}
    else:
        found, more = dict(ALLOWED), more | _ATTEMPTS
    for name, text in more.items():
        found[name] = text
        if "V4" in text:
            found[f"{name}{_V6}"] = text.replace("V4", "V6").replace("H4", "H6")
    found |= {} if is_strict else _BY_KERNEL
    return {name: text for name, text in found.items() if has_ipv6 or not _needs_ipv6(name, text)}


def _needs_ipv6(name: str, text: str) -> bool:
    return name.endswith(_V6) or "tcp('::" in text or "tcp('64:" in text


def policy_for(canary_port: int) -> NetworkPolicy:
    """Give the policy that the attempts are made against: one host leads to the canary."""
    forward = [{"forwardURL": f"http://127.0.0.1:{canary_port}"}]
    plain = (PLAIN, WILD, *INNER)
    return parse_policy({"allow": {CANARY: forward, **{name: [] for name in plain}}})


def arguments(canary_port: int, chosen: Mapping[str, str]) -> list[str]:
    """Give what the program of ``walls_inside`` is started with, after its own text."""
    told = {"canary": CANARY, "plain": PLAIN, "port": canary_port}
    return [json.dumps({"attempts": chosen, **told})]


def try_all(keeper: Keeper, canary_port: int, chosen: Mapping[str, str]) -> dict[str, Tried]:
    """Make attempts in a keeper's sandbox; gives what each met.

    Raises:
        SandboxError: The sandbox could not run the attempts at all.
    """
    argv = [image.inside_python().program, "-I", "-c", PROGRAM, *arguments(canary_port, chosen)]
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


def is_recorded(
    tried: Mapping[str, Tried], records: Iterable[EgressRecord], *, is_strict: bool = False
) -> bool:
    """Whether every attempt has the evidence that it needs: a record may come a little later."""
    checks = judge(tried, tuple(records), is_strict=is_strict)
    return all(check.state != "blocked" for check in checks)


def judge(
    tried: Mapping[str, Tried], records: Sequence[EgressRecord], *, is_strict: bool = False
) -> tuple[Check, ...]:
    """Say of each attempt whether the wall held, and by which evidence.

    What the policy itself lets pass, and the record states, is a warning.
    """
    evidence = _Evidence(records)
    return tuple(_judge_one(name, one, evidence, is_strict) for name, one in tried.items())


class _Evidence:
    """The records, by the port inside that they are about."""

    def __init__(self, records: Sequence[EgressRecord]) -> None:
        known = [record for record in records if record.source_port and not record.is_end]
        self.refusals = {one.source_port: one for one in known if one.verdict == "blocked"}
        self.allowed = {one.source_port: one for one in known if one.verdict == "allowed"}
        self.answers = {one.source_port: one for one in known if one.channel == "dns"}

    def refused(self, name: str, tried: Tried) -> str:
        """Give how the records show that an attempt was refused; empty where they do not."""
        found = self.answers if name in _UNASKED else self.refusals
        if not tried.ports or not all(port in found for port in tried.ports):
            return ""
        record = found[tried.ports[-1]]
        more = f" and {len(tried.ports) - 1} more" if len(tried.ports) > 1 else ""
        reason = "answered with nothing, and nobody asked" if name in _UNASKED else record.reason
        return f"on record as {record.record_id}{more}: {reason}"

    def stated(self, tried: Tried) -> str:
        """Give how the records tell that something was passed through unread."""
        found = [self.allowed[port] for port in tried.ports if port in self.allowed]
        if len(found) != 1 or not found[0].reason.endswith(UNREAD):
            return ""
        return f"on record as {found[0].record_id}: {found[0].reason}; --strict refuses it"


def _judge_one(name: str, tried: Tried, evidence: _Evidence, is_strict: bool) -> Check:  # noqa: FBT001 - a private helper
    if name in ALLOWED and tried.outcome == 0:
        return Check(name, "ok", "it answered, as it must")
    if not is_strict and name.removesuffix(_V6) in _STATED and tried.outcome == 0:
        detail = evidence.stated(tried)
        return Check(name, "warning", detail) if detail else _open(name, "it worked, unsaid")
    if name not in ALLOWED and tried.outcome not in {0, BROKEN}:
        if name in _BY_KERNEL and tried.outcome in _KERNEL_ERRORS:
            return Check(name, "ok", f"refused by the kernel: {_met(tried)}")
        if name not in _BY_KERNEL and (detail := evidence.refused(name, tried)):
            return Check(name, "ok", detail)
    return _open(name, _why_open(name, tried))


def _why_open(name: str, tried: Tried) -> str:
    if name in ALLOWED:
        return f"no answer, so that the rest shows nothing: {_met(tried)}"
    if tried.outcome == BROKEN:
        return f"it could not be tried: {tried.said}"
    if tried.outcome == 0:
        return "it worked"
    return f"nothing came back, and nothing shows that the wall refused it: {_met(tried)}"


def _open(name: str, detail: str) -> Check:
    return Check(name, "blocked", detail, STEP)


def _met(tried: Tried) -> str:
    code = errno.errorcode.get(tried.outcome, str(tried.outcome))
    return tried.said or f"{os.strerror(tried.outcome)} ({code})"
