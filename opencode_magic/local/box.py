"""The running parts of one sandbox, joined: keeper, firewall, authority, commands, ports.

A spare sandbox, which nothing may leave, is kept ready: a create gives it a name and a policy.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from opencode_magic.core.policy import NetworkPolicy
from opencode_magic.errors import OpencodeMagicError
from opencode_magic.local import commands, image, key_search, versions
from opencode_magic.local.company import Company, load_company
from opencode_magic.local.firewall.ca import SandboxCA
from opencode_magic.local.firewall.engine import Firewall
from opencode_magic.local.firewall.record import EgressLog
from opencode_magic.local.firewall.trust import Trust
from opencode_magic.local.isolation import SandboxSpec
from opencode_magic.local.keeper import Keeper, KeeperPlace
from opencode_magic.local.payloads import CWD, ApiError
from opencode_magic.local.ports import PublishedPort
from opencode_magic.local.store import remove_tree

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from opencode_magic.local.bodies import RunRequest
    from opencode_magic.local.cgroups import Cgroups

COMMANDS_KEPT = 1000
LARGE_COMMANDS_KEPT = 200
LARGE_OUTPUT_BYTES = 16 * 1024
"""Commands with so much output may have it in memory or an open file each: fewer are kept."""
OUTPUT_KEPT_BYTES = commands.LOG_LIMIT_BYTES
FORGET_EVERY = 4
"""Ended commands beyond those numbers, or with more output than this together, are forgotten,
oldest first; looked at with each new one while they are few, later with each of so many."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BoxOptions:
    """What every sandbox of this server shares."""

    boxes: Path
    opencode: Path | None = None
    upstreams: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    upstream_ca: Path | None = None
    company: Company = field(default_factory=Company)
    """How a sandbox goes out that was not created with surroundings of its own."""
    is_strict: bool = False
    """Plain allowed hosts are terminated too."""
    cgroups: Cgroups | None = None
    """Makes each sandbox's control group, where this machine lets us have one."""
    may_reach_loopback: bool = False
    """Mappings are honoured: a ``.internal`` host may lead to this machine's loopback."""


class RunningCommand:
    """A command with the name that the API knows it by, and the count of its input."""

    def __init__(self, command_id: str, request: RunRequest, command: commands.Command) -> None:
        self.command_id = command_id
        self.request = request
        self.command = command
        self.bytes_written = 0
        self.stdin_lock = threading.Lock()

    @property
    def kept_bytes(self) -> int:
        """How much output is kept of a command that has ended; 0 while it runs."""
        return 0 if self.command.exit_code is None else self.command.kept_bytes

    def payload(self, session_id: str) -> dict[str, object]:
        """Give the command as the API shows it."""
        return {
            "id": self.command_id,
            "name": self.request.command,
            "args": list(self.request.args),
            "cwd": self.request.cwd or CWD,
            "sessionId": session_id,
            "exitCode": self.command.exit_code,
            "startedAt": self.command.started_ms,
        }


class Box:
    """One running sandbox. Safe to use from any thread."""

    def __init__(
        self,
        box_id: str,
        keeper: Keeper,
        firewall: Firewall,
        egress: EgressLog,
        *,
        folder: Path,
        has_opencode: bool,
    ) -> None:
        self.box_id = box_id
        self._folder = folder
        self.keeper = keeper
        self.firewall = firewall
        self.egress = egress
        self.base_env = image.environment(has_opencode=has_opencode)
        self.env: Mapping[str, str] = {}
        self.proxy = ""
        """The upstream proxy that it goes out by, as it may be shown; empty where there is none."""
        self._commands: OrderedDict[str, RunningCommand] = OrderedDict()
        self._started = 0
        self._ports: dict[int, PublishedPort] = {}
        self._lock = threading.Lock()

    @property
    def routes(self) -> dict[int, str]:
        """Published ports and where each can be reached."""
        with self._lock:
            return {port: published.url for port, published in self._ports.items()}

    @property
    def is_alive(self) -> bool:
        """Whether the keeper still runs; without it nothing of the sandbox does."""
        return self.keeper.is_alive

    def publish(self, ports: tuple[int, ...]) -> None:
        """Publish these ports and no others."""
        with self._lock:
            gone = [self._ports.pop(port) for port in set(self._ports) - set(ports)]
            for port in ports:
                if port not in self._ports:
                    self._ports[port] = PublishedPort(partial(self.keeper.connect, port))
        for published in gone:
            published.close()

    def run(self, request: RunRequest, *, is_group_ended: bool = False) -> RunningCommand:
        """Start a command; what it leaves behind may end with it.

        Raises:
            SandboxError: As ``Keeper.spawn`` raises.
        """
        spec = commands.CommandSpec(
            argv=(request.command, *request.args),
            cwd=request.cwd or CWD,
            env={**self.env, **request.env},
            has_stdin=request.has_stdin,
            kill_after_s=None if request.timeout_ms is None else request.timeout_ms / 1000,
            is_group_ended=is_group_ended,
        )
        command = commands.run(self.keeper, spec, self.base_env)
        running = RunningCommand(f"cmd_{secrets.token_hex(8)}", request, command)
        with self._lock:
            self._commands[running.command_id] = running
            self._forget_old()
        return running

    def find(self, command_id: str) -> RunningCommand:
        """Give a command.

        Raises:
            ApiError: There is none of this name.
        """
        with self._lock:
            running = self._commands.get(command_id)
        if running is None and not self.is_alive:
            raise ApiError(410, "sandbox_stopped", "Sandbox is stopped")
        if running is None:
            raise ApiError(404, "not_found", "Command not found.")
        return running

    def all(self) -> list[RunningCommand]:
        """Give all commands, oldest first."""
        with self._lock:
            return list(self._commands.values())

    def search(self, values: Sequence[bytes]) -> key_search.Found:
        """Look for values in its files and processes."""
        return key_search.search(values, self._folder, self.keeper.pid)

    def close(self) -> None:
        """End everything of it. Twice is harmless."""
        with self._lock:
            ports, self._ports = list(self._ports.values()), {}
        for published in ports:
            published.close()
        self.keeper.close()
        self.firewall.close()
        self.egress.close()
        with self._lock:
            # Who still reads one's output has it; nobody else can ask for it any more.
            self._commands.clear()

    def _forget_old(self) -> None:
        self._started += 1
        if len(self._commands) > LARGE_COMMANDS_KEPT and self._started % FORGET_EVERY:
            return
        sizes = {key: item.kept_bytes for key, item in self._commands.items()}
        kept_bytes = sum(sizes.values())
        large = sum(size > LARGE_OUTPUT_BYTES for size in sizes.values())
        for key, size in sizes.items():
            is_large = size > LARGE_OUTPUT_BYTES
            is_over = len(self._commands) > COMMANDS_KEPT or kept_bytes > OUTPUT_KEPT_BYTES
            if not is_over and large <= LARGE_COMMANDS_KEPT:
                return
            is_ended = self._commands[key].command.exit_code is not None
            if is_ended and (is_over or is_large):
                kept_bytes -= size
                large -= is_large
                del self._commands[key]


class BoxFactory:
    """Makes running sandboxes, and keeps a spare one ready that may reach nothing."""

    def __init__(self, options: BoxOptions) -> None:
        self.options = options
        self._spare: Box | None = None
        self._lock = threading.Lock()
        self._building = threading.Lock()
        self._is_closed = False
        self._trusted = image.host_ca_bundle().rstrip() + b"\n"

    @property
    def spare_id(self) -> str:
        """The folder of the spare; empty where there is none."""
        with self._lock:
            return "" if self._spare is None else self._spare.box_id

    def take(self, policy: NetworkPolicy, surroundings: Mapping[str, str] | None = None) -> Box:
        """Give a running sandbox on a folder of its own, with the policy in force.

        Args:
            policy: What it may reach.
            surroundings: Its user's proxy and certificate authorities; None is the server's own.

        Raises:
            SettingsError: The surroundings cannot be used; never repeats a password.
            HomeUnavailableError: Isolation cannot be had here.
            SandboxError: The sandbox cannot be built.
        """
        if self._company(surroundings) != self.options.company:
            return self.make(new_box_id(), policy, surroundings)
        # A spare that is being built is ready sooner than another one would be.
        with self._building, self._lock:
            spare, self._spare = self._spare, None
        if spare is not None and not spare.is_alive:
            self._discard(spare)
            spare = None
        if spare is None:
            return self.make(new_box_id(), policy)
        spare.firewall.set_policy(policy)
        return spare

    def make(
        self,
        box_id: str,
        policy: NetworkPolicy,
        surroundings: Mapping[str, str] | None = None,
    ) -> Box:
        """Give a running sandbox on the folder of this name, which may have files already.

        Raises:
            SettingsError: The surroundings cannot be used; never repeats a password.
            HomeUnavailableError: Isolation cannot be had here.
            SandboxError: The sandbox cannot be built.
        """
        versions.require_same()
        started = time.monotonic()
        options, company = self.options, self._company(surroundings)
        trusted = self._trusted + company.authorities
        # OpenSSL's defaults are the server's own.
        is_own = company == options.company
        upstream_ca = options.upstream_ca if is_own else Trust(trusted, company.authority_dir)
        place = KeeperPlace(options.boxes, options.opencode, options.cgroups)
        keeper = Keeper.prepare(place)
        try:
            ca, egress = SandboxCA.create(), EgressLog()
            firewall = Firewall(
                keeper.listeners,
                policy,
                ca=ca,
                record=egress,
                upstreams=options.upstreams,
                upstream_ca=upstream_ca,
                allow_loopback_forward=options.may_reach_loopback,
                is_strict=options.is_strict,
                way_out=company.way_out,
            )
            has_opencode, folder = options.opencode is not None, options.boxes / box_id
            box = Box(box_id, keeper, firewall, egress, folder=folder, has_opencode=has_opencode)
            box.proxy = company.proxy
        except BaseException:
            keeper.close()
            raise
        try:
            firewall.start()
            spec = SandboxSpec(
                name=box_id,
                folder=options.boxes / box_id,
                ca_bundle=trusted + ca.pem,
                opencode=options.opencode,
            )
            keeper.enter(spec)
        except BaseException:
            box.close()
            raise
        log.info("sandbox built in %.3f s", time.monotonic() - started)
        return box

    def _company(self, surroundings: Mapping[str, str] | None) -> Company:
        if surroundings is None:
            return self.options.company
        return load_company(surroundings, self.options.upstream_ca)

    def refill(self) -> None:
        """Make the spare where there is none. Never raises: a create says what is wrong."""
        with self._building:
            self._refill()

    def drop_spare(self) -> None:
        """End the spare, if there is one."""
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None:
            self._discard(spare)

    def close(self) -> None:
        """End the spare, for good; one that is being built is waited for and ended too."""
        with self._lock:
            self._is_closed = True
        self.drop_spare()
        with self._building:
            pass

    def _refill(self) -> None:
        with self._lock:
            if self._is_closed or (self._spare is not None and self._spare.is_alive):
                return
            dead, self._spare = self._spare, None
        if dead is not None:
            self._discard(dead)
        box_id = new_box_id()
        try:
            box = self.make(box_id, NetworkPolicy())
        except OpencodeMagicError as exc:
            remove_tree(self.options.boxes / box_id)
            log.warning("no spare sandbox: %s", exc)
            return
        with self._lock:
            if self._spare is None and not self._is_closed:
                self._spare = box
                return
        self._discard(box)

    def _discard(self, box: Box) -> None:
        box.close()
        remove_tree(self.options.boxes / box.box_id)


def new_box_id() -> str:
    """Give a name for a sandbox's folder."""
    return f"box_{secrets.token_hex(8)}"
