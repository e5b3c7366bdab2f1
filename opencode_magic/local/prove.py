"""Makes sandboxes, tries to get out of them in every way on the list, tells what held."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opencode_magic.core.checks import Check
from opencode_magic.local import walls, walls_limits, walls_network
from opencode_magic.local.canary import Canary
from opencode_magic.local.firewall.ca import SandboxCA
from opencode_magic.local.firewall.engine import Firewall
from opencode_magic.local.firewall.record import EgressLog
from opencode_magic.local.isolation import SandboxSpec
from opencode_magic.local.keeper import Keeper, KeeperPlace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

RECORD_TIMEOUT_S = 3.0
_WORDS = {"ok": "held", "warning": "said", "blocked": "OPEN"}


@dataclass(frozen=True, slots=True)
class Part:
    """What was tried of one kind."""

    title: str
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class _Bench:
    """What all sandboxes of a proof share."""

    base: Path
    canary: Canary
    canary_ca: Path


def prove() -> tuple[Part, ...]:
    """Try everything in sandboxes made for it, which end with this call.

    Raises:
        HomeUnavailableError: No sandbox can be built here; names what is missing.
        SandboxError: The attempts could not be run.
    """
    with _folder() as base, contextlib.ExitStack() as ending:
        canary = Canary(walls_network.PLAIN)
        ending.callback(canary.close)
        bench = _Bench(base, canary, canary.write_ca(base / "canary.pem"))
        pool = ending.enter_context(ThreadPoolExecutor(max_workers=2))
        limits = pool.submit(_limits, bench)
        usual = _usual(bench)
        strict = _network(bench, is_strict=True)
        return (*usual, Part("The same with --strict", strict), limits.result())


def _usual(bench: _Bench) -> tuple[Part, ...]:
    with _sandbox(bench, "usual") as keeper:
        outcomes = walls.try_all(keeper)
    calls = walls.system_calls()
    kinds: tuple[tuple[str, Mapping[str, str]], ...] = (
        ("This machine's files, sockets, processes and settings", walls.PLACES | walls.STATED),
        ("Rights, and ways into the kernel", walls.RIGHTS),
        ("System calls", calls),
    )
    parts = [
        Part(title, walls.judge({name: outcomes[name] for name in names})) for title, names in kinds
    ]
    return (*parts, Part("Network", _network(bench)))


def _network(bench: _Bench, *, is_strict: bool = False) -> tuple[Check, ...]:
    """Try the network's ways past a firewall that lets two hosts through."""
    log, ca = EgressLog(), SandboxCA.create()
    with contextlib.ExitStack() as ending:
        keeper = Keeper.prepare(KeeperPlace(bench.base / "boxes"))
        ending.callback(keeper.close)
        firewall = Firewall(
            keeper.listeners,
            walls_network.policy_for(bench.canary.port),
            ca=ca,
            record=log,
            upstreams={walls_network.PLAIN: ("127.0.0.1", bench.canary.tls_port)},
            upstream_ca=bench.canary_ca,
            allow_loopback_forward=True,
            is_strict=is_strict,
            look_up=lambda host, _: (walls_network.INNER[host],),
        )
        ending.callback(firewall.close)
        firewall.start()
        name = "strict" if is_strict else "network"
        keeper.enter(SandboxSpec(name, bench.base / "boxes" / name, ca_bundle=ca.pem))
        has_ipv6 = "tls6" in keeper.listeners
        chosen = walls_network.attempts(is_strict=is_strict, has_ipv6=has_ipv6)
        tried = walls_network.try_all(keeper, bench.canary.port, chosen)
        deadline_s = time.monotonic() + RECORD_TIMEOUT_S
        while time.monotonic() < deadline_s:
            # What the kernel refused is put on record a moment later.
            if walls_network.is_recorded(tried, log.since(0), is_strict=is_strict):
                break
            time.sleep(0.02)
        checks = walls_network.judge(tried, log.since(0), is_strict=is_strict)
    left_out = len(walls_network.attempts(is_strict=is_strict)) - len(chosen)
    detail = f"this machine has none, and so has the sandbox: {left_out} attempts are left out"
    return checks if has_ipv6 else (*checks, Check("IPv6", "ok", detail))


def _limits(bench: _Bench) -> Part:
    with _no_warnings(), _sandbox(bench, "limits", is_small=True) as keeper:
        checks = walls_limits.judge(walls_limits.try_all(keeper))
        end = walls_limits.outlive(keeper, f"opencode-magic-{secrets.token_hex(8)}")
    return Part("Limits, and the end", (*checks, end))


@contextlib.contextmanager
def _sandbox(bench: _Bench, name: str, *, is_small: bool = False) -> Iterator[Keeper]:
    """Give a sandbox that nothing may leave."""
    folder = bench.base / "boxes" / name
    spec = SandboxSpec(name, folder, limits=walls_limits.LIMITS) if is_small else None
    keeper = Keeper.start(KeeperPlace(bench.base / "boxes"), spec or SandboxSpec(name, folder))
    try:
        yield keeper
    finally:
        keeper.close()


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Keep the log's lines about limits off the terminal, where no log is kept: they are wanted."""
    logger, handler = logging.getLogger("opencode_magic"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def table(parts: Sequence[Part]) -> str:
    """Give a title for each part, a line for each attempt, and one line for all at the end."""
    checks = [check for part in parts for check in part.checks]
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for part in parts:
        lines += [part.title, *(_line(check, width) for check in part.checks), ""]
    return "\n".join([*lines, *_summary(checks)])


def is_whole(parts: Sequence[Part]) -> bool:
    """Whether everything held, or is stated."""
    return all(check.state != "blocked" for part in parts for check in part.checks)


def _line(check: Check, width: int) -> str:
    return f"  {_WORDS[check.state]}  {check.name:<{width}}  {check.detail}"


def _summary(checks: Sequence[Check]) -> Iterator[str]:
    still_open = [check for check in checks if check.state == "blocked"]
    stated = sum(check.state == "warning" for check in checks)
    user = "root (the agent is another user)" if os.geteuid() == 0 else "an ordinary user"
    result = f"{len(still_open)} NOT HELD" if still_open else "all held"
    rest = f"; known limits, marked 'said': {stated}" if stated else ""
    yield f"{len(checks) - stated} attempts as {user}: {result}{rest}."
    for check in still_open:
        yield f"OPEN: {check.name}: {check.detail}"
    for step in sorted({check.next_step for check in still_open}):
        yield f"Next: {step}"


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="opencode-magic-prove-"))
    try:
        base.chmod(0o755)  # as root, the sandbox's user is another one
        yield base
    finally:
        shutil.rmtree(base, ignore_errors=True)
