"""A launched sandbox: what can be asked of it, and its end."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from opencode_magic.core.status import HealthChanged, LeaseExtended, Proved, WentDown
from opencode_magic.errors import OpencodeMagicError, SandboxConnectionError
from opencode_magic.sandbox import ending, workspace
from opencode_magic.sandbox.faults import as_connection_error, describe
from opencode_magic.sandbox.lease import EXIT_BUDGET_S, Heartbeat, remove_lease
from opencode_magic.sandbox.output import SHELL, SYSTEM_FIRST, run_inside

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vercel.sandbox.sync import SyncProcess, SyncSandboxRuntimeSession

    from opencode_magic.core.egress import EgressRecord
    from opencode_magic.core.opencode import Place
    from opencode_magic.core.proof import Proof
    from opencode_magic.core.status import Home, StatusEvent
    from opencode_magic.sandbox.connect import Connection
    from opencode_magic.sandbox.egress import EgressFeed
    from opencode_magic.sandbox.prove import Prover
    from opencode_magic.settings import Settings

LOG_LIMIT_BYTES = 32 * 1024
KEEP_AFTER_INTERRUPT_S = 10.0
AGAIN_STEP = "launch again: %opencode_up"


@dataclass(frozen=True, slots=True)
class Terminated:
    """What ``terminate`` removed and what it kept, each as short lines for a person."""

    removed: tuple[str, ...]
    kept: tuple[str, ...]

    def __str__(self) -> str:
        removed, kept = (", ".join(words) or "nothing" for words in (self.removed, self.kept))
        return f"removed {removed}; kept {kept}"


@dataclass(slots=True)
class _Keeping:
    """What a thread that copies the work out has done."""

    has_work: bool
    """Whether there may be any."""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a launch made and hands over."""

    settings: Settings
    connection: Connection
    session: SyncSandboxRuntimeSession
    process: SyncProcess
    prover: Prover
    feed: EgressFeed | None
    emit: Callable[[StatusEvent], None]
    log_path: str
    model_host: str


class Sandbox:
    """A sandbox that runs an agent server. Safe to use from several threads.

    Attributes:
        name: Unique, such as ``ocm-quiet-heron``; the repr holds nothing more.
        home: Where it runs.
        url: Where the agent server answers from here.
        place: Where things stand inside.
        version: The agent server's.
        proof: The latest proof.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        name: str,
        home: Home,
        url: str,
        place: Place,
        version: str,
        expires_ms: int,
        proof: Proof,
    ) -> None:
        self._parts = parts
        self.name = name
        self.home = home
        self.url = url
        self.place = place
        self.version = version
        self.proof = proof
        self._expires_ms = expires_ms
        self._extend_lock = threading.Lock()
        self._end_lock = threading.Lock()
        self._terminated: Terminated | None = None
        self._is_lost = False
        self._is_unreachable = False
        limit_s = parts.settings.time_limit_s
        self._heartbeat = Heartbeat(limit_s / 3, self._beat, self._destroy_at_exit)

    def __repr__(self) -> str:
        return f"Sandbox({self.name!r}, {self.home!r})"

    @property
    def expires_ms(self) -> int:
        """When the sandbox ends unless it is extended, in Unix milliseconds."""
        return self._expires_ms

    @property
    def session_id(self) -> str:
        """The home's id of the running session."""
        return self._parts.session.id

    @property
    def has_egress_record(self) -> bool:
        """Whether this home keeps an egress record."""
        return self._parts.feed is not None

    @property
    def last_seq(self) -> int:
        """The number of the last egress record that has arrived; 0 where there is none."""
        return self._parts.feed.last_seq if self._parts.feed is not None else 0

    def start(self) -> None:
        """Begin the heartbeat. Called once, by the launch."""
        self._heartbeat.start()

    def abandon(self) -> None:
        """Leave the sandbox to the launch that made it, failed, and removes it."""
        self._terminated = Terminated((f"sandbox {self.name}",), ())
        self._heartbeat.stop()

    def records_since(self, seq: int, *, settle_s: float = 0.0) -> tuple[EgressRecord, ...]:
        """Give the egress records after a number, oldest first, without those of proofs.

        Args:
            seq: As ``last_seq`` gave it, such as at the start of a turn.
            settle_s: Wait for what the firewall has by now, at most so long.
        """
        feed = self._parts.feed
        return feed.since(seq, settle_s=settle_s) if feed is not None else ()

    def prove(self) -> Proof:
        """Run all probes again. Emits ``Proved``.

        Raises:
            SandboxConnectionError: The sandbox does not answer.
        """
        feed = self._parts.feed
        if feed is None:
            proof, _ = self._parts.prover.run()
        else:
            with feed.holding() as own:
                proof, seqs = self._parts.prover.run(last_seq=feed.last_seq)
                own.update(seqs)
        self.proof = proof
        self._parts.emit(Proved(proof))
        return proof

    def is_alive(self) -> bool:
        """Whether the sandbox runs and its agent server's process has not ended. Never raises."""
        if self._terminated is not None or self._is_lost:
            return False
        try:
            with as_connection_error():
                self._parts.process.refresh()
        except OpencodeMagicError as exc:
            # A cloud that cannot be reached for a moment may still run it.
            return self.home == "cloud" and not self._is_gone(exc)
        return self._parts.process.returncode is None

    def log_tail(self, *, limit_lines: int = 40) -> tuple[str, ...]:
        """Give the agent server's last lines, oldest first; empty where they cannot be had."""
        return read_log_tail(self._parts.session, self._parts.log_path, limit_lines=limit_lines)

    def extend(self, duration_s: float) -> int:
        """Let the sandbox live longer; gives the new end in Unix milliseconds.

        Raises:
            SandboxConnectionError: The home refused, or does not answer.
        """
        with self._extend_lock, as_connection_error():
            self._parts.session.extend_execution_time_limit(dt.timedelta(seconds=duration_s))
            self._expires_ms += int(duration_s * 1000)
        self._parts.emit(LeaseExtended(self._expires_ms))
        return self._expires_ms

    def cut_model(self) -> bool:
        """Cut the live connections to the model; False where this home cannot. Never raises."""
        local = self._parts.connection.local
        if local is None:
            return False
        try:
            local.cut(self.session_id, self._parts.model_host)
        except SandboxConnectionError:
            return False
        return True

    def end_server(self) -> None:
        """Kill the agent server's process. Never raises."""
        with contextlib.suppress(OpencodeMagicError), as_connection_error():
            self._parts.process.kill()

    def keep_work(self) -> Path:
        """Copy the workspace out into the user's state folder.

        Raises:
            SandboxConnectionError: The sandbox does not answer, or there is too much.
        """
        parts = self._parts
        return workspace.keep(parts.session, self.place, parts.settings.state_dir, self.name)

    def terminate(self, *, timeout_s: float = 10.0, keep: bool = True) -> Terminated:
        """Destroy the sandbox; a second call says what the first did.

        An Interrupt leaves the copying of the work 10 s more, a second one none; then the sandbox
        is destroyed, and the Interrupt raised again with what was removed and kept. Where it is
        not known that a cloud sandbox is gone, a second call tries again.

        Args:
            timeout_s: Wait at most so long for the home.
            keep: Copy the agent's work out first.
        """
        with self._end_lock:
            if self._terminated is not None:
                return self._terminated
            kept = _Keeping(has_work=keep)
            is_interrupted = False
            try:
                self._heartbeat.stop()
                if keep and not self._is_lost:
                    is_interrupted = self._keep_what_is_there(kept)
                self._close_feed()
            finally:
                notes = list(kept.notes)
                report = self._destroy(notes, timeout_s=timeout_s, discard=not kept.has_work)
            if is_interrupted:
                raise KeyboardInterrupt(str(report))
            return report

    def _keep_what_is_there(self, kept: _Keeping) -> bool:
        """Copy out the work of a cloud sandbox; gives whether an Interrupt came meanwhile."""

        def work() -> None:
            kept.has_work = self._has_work(kept.notes)
            if kept.has_work and self.home == "cloud":
                self._fetch_work(kept.notes)

        done = ending.begin(work, name="keep")
        is_interrupted = ending.wait_out(done, after_interrupt_s=KEEP_AFTER_INTERRUPT_S)
        if not done.is_set():
            kept.notes.append("not the agent's files: interrupted")
        return is_interrupted

    def _destroy(self, notes: list[str], *, timeout_s: float, discard: bool) -> Terminated:
        parts = self._parts
        ended = ending.Ended()
        if not self._is_lost or self.home == "local":
            # The local home has the files also of a sandbox that has ended.
            ended = ending.destroy(
                parts.connection,
                self.name,
                budget_s=timeout_s,
                discard=discard,
                may_restart=True,
            )
        if ended.kept and (not self._is_lost or workspace.has_files(ended.kept)):
            notes.append(_files(f"{ended.kept}/workspace"))
        report = _report(self.name, ended, notes)
        if not ended.left or self.home == "local":
            self._terminated = report
            parts.connection.close()
        if not ended.left:
            remove_lease(parts.settings, self.name)
        return report

    def _close_feed(self) -> None:
        if self._parts.feed is not None:
            self._parts.feed.close()

    def _has_work(self, notes: list[str]) -> bool:
        """Whether something in the workspace changed; where that is not known, it may have."""
        try:
            return workspace.has_work(self._parts.session, self.place)
        except OpencodeMagicError as exc:
            if self.home == "cloud":
                notes.append(f"not the agent's files: {exc.message}")
            return True

    def _fetch_work(self, notes: list[str]) -> None:
        try:
            path = self.keep_work()
        except OpencodeMagicError as exc:
            notes.append(f"not the agent's files: {exc.message}")
        else:
            notes.append(_files(path))

    def _beat(self) -> bool:
        """Extend up to the full time limit from now; False ends the heartbeat."""
        wanted_ms = time.time_ns() // 1_000_000 + int(self._parts.settings.time_limit_s * 1000)
        more_s = (wanted_ms - self._expires_ms) / 1000
        if more_s < 1:
            return True
        try:
            self.extend(more_s)
        except OpencodeMagicError as exc:
            return not self._is_gone(exc)
        if self._is_unreachable:
            self._is_unreachable = False
            self._parts.emit(HealthChanged("healthy"))
        return True

    def _is_gone(self, exc: OpencodeMagicError) -> bool:
        try:
            self._parts.session.refresh()
        except Exception as again:  # noqa: BLE001 - a thread's outer edge; reported as an event
            if not describe(again).is_gone:
                self._is_unreachable = True
                self._parts.emit(HealthChanged("unreachable"))
                return False
        else:
            if str(self._parts.session.status) in {"running", "SandboxStatus.RUNNING"}:
                return False
        self.lose(f"the sandbox has ended: {exc.message}")
        return True

    def lose(self, error: str) -> None:
        """Note that the sandbox is gone without our doing. Emits ``WentDown``, once."""
        if self._is_lost or self._terminated is not None:
            return
        self._is_lost = True
        remove_lease(self._parts.settings, self.name)
        self._parts.emit(WentDown(error, AGAIN_STEP))

    def _destroy_at_exit(self) -> None:
        ended = ending.destroy(self._parts.connection, self.name, budget_s=EXIT_BUDGET_S - 0.2)
        if not ended.left:
            remove_lease(self._parts.settings, self.name)


def _report(name: str, ended: ending.Ended, notes: list[str]) -> Terminated:
    if ended.left:
        notes.append(f"sandbox {name} may still run until its time is up: {ended.left}")
        return Terminated((), tuple(notes))
    return Terminated((f"sandbox {name}: processes, network, files inside",), tuple(notes))


def _files(path: Path | str) -> str:
    return f"the agent's files, for {workspace.KEPT_FOR_S / 86_400:.0f} days: {path}"


def read_log_tail(
    session: SyncSandboxRuntimeSession, log_path: str, *, limit_lines: int = 40
) -> tuple[str, ...]:
    """Give the last lines of a file inside, oldest first; empty where they cannot be had."""
    try:
        script = f'{SYSTEM_FIRST}exec tail -c {LOG_LIMIT_BYTES} "$1"'
        done = run_inside(session, SHELL, ["-c", script, "sh", log_path], kill_after=5.0)
    except Exception:  # noqa: BLE001 - the log is a help beside a failure, never a second one
        return ()
    return tuple(done.stdout.splitlines()[-limit_lines:])
