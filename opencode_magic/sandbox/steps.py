"""The steps of one launch, each reported as it happens; ``launch`` decides what a failure means."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import secrets
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from opencode_magic.core.opencode import PACKAGES, PORT, VERSION, Place
from opencode_magic.core.policy import HostRules, NetworkPolicy, Rule
from opencode_magic.core.policy_wire import parse_pattern
from opencode_magic.core.status import (
    Launched,
    LaunchStarted,
    Proved,
    StepDone,
    StepFailed,
    StepStarted,
    Warned,
)
from opencode_magic.errors import SandboxLaunchError
from opencode_magic.sandbox import ending, opencode
from opencode_magic.sandbox.connect import Connection, connect
from opencode_magic.sandbox.egress import EgressFeed
from opencode_magic.sandbox.faults import describe
from opencode_magic.sandbox.handle import Parts, Sandbox, read_log_tail
from opencode_magic.sandbox.health import LINES_STEP, wait_healthy
from opencode_magic.sandbox.inside import Inside
from opencode_magic.sandbox.key_scan import SCANNED, KeyScan
from opencode_magic.sandbox.labels import WORDS, steps_of
from opencode_magic.sandbox.lease import (
    load_leases,
    new_lease,
    remove_lease,
    with_route,
    write_lease,
)
from opencode_magic.sandbox.names import new_name
from opencode_magic.sandbox.policy import check_readback, to_sdk_policy
from opencode_magic.sandbox.prove import Prover, choose_target
from opencode_magic.sandbox.proving import Proving
from opencode_magic.sandbox.verdict import require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vercel.sandbox.sync import SyncProcess, SyncSandbox, SyncSandboxRuntimeSession

    from opencode_magic.core.proof import Proof
    from opencode_magic.core.status import StatusEvent
    from opencode_magic.sandbox.launch import AgentServer, LaunchRequest

CLEAN_UP_BUDGET_S = 15.0
TAIL_BUDGET_S = 2.0
UPLOAD_PACKAGE = PACKAGES["opencode-linux-x64"]
"""What a cloud sandbox runs on, whatever this machine is."""
LOCAL_BINARY = "/opt/opencode/bin/opencode"
"""Where a local server's image holds the binary that the server was started with."""


@dataclass(slots=True)
class _Note:
    """A step writes here what a person should read beside it."""

    detail: str = ""


class Steps:
    """One launch. ``run`` makes the sandbox; ``fail`` removes whatever there is by then."""

    def __init__(
        self, request: LaunchRequest, server: AgentServer, emit: Callable[[StatusEvent], None]
    ) -> None:
        self._request = request
        self._settings = request.settings
        self._home = request.choice.home
        self._model = request.model
        self._server = server
        self._emit = emit
        leases = load_leases(request.settings)
        self._name = new_name(self._home, taken={lease.name for lease in leases})
        self._started = self._step_started = time.monotonic()
        self.current = ""
        self._connection: Connection | None = None
        self._is_creating = False
        self._may_exist = False
        self._session: SyncSandboxRuntimeSession | None = None
        self._process: SyncProcess | None = None
        self._log_path = ""
        self._feed: EgressFeed | None = None
        self._sandbox: Sandbox | None = None
        self._expires_ms = 0

    @property
    def failed_label(self) -> str:
        """The step that runs, in words for an error."""
        return WORDS.get(self.current, "the launch")

    def run(self) -> Sandbox:
        """Take all steps."""
        self._announce()
        binary: opencode.Binary | None = None
        if self._home == "local":
            with self._step("binary") as note:
                binary = opencode.ensure_binary(self._settings)
                note.detail = binary.detail
        with self._step("create"):
            is_pinned = binary is not None and self._settings.binary is None
            box = self._create(binary.path if binary is not None and is_pinned else None)
            place, found = self._prepare()
        place = self._place_binary(place, found)
        with self._step("configure") as note:
            self._inside().write(self._server.files(place))
            note.detail = "key stays outside" if self._model.is_key_outside else "no key needed"
        proving, url, version = self._serve(place, box)
        with self._step("prove") as note:
            proof = proving.result()
            self._emit(Proved(proof))
            warning = require(proof, allow_unproven=self._request.allow_unproven)
            if warning:
                self._emit(Warned(warning))
            refused = sum(probe.must == "refused" for probe in proof.probes)
            note.detail = f"{refused} probes refused in {proof.duration_s:.1f} s, meanwhile"
        return self._finish(place, url, version, proof)

    def fail(self, exc: BaseException) -> ending.CleanedUp:
        """Remove everything. Never raises."""
        if self.current:
            detail = "interrupted" if isinstance(exc, KeyboardInterrupt) else ""
            failed, self.current = self.current, ""
            self._emit(StepFailed(failed, time.monotonic() - self._step_started, detail))
        if self._sandbox is not None:
            self._sandbox.abandon()
        cleaned = ending.CleanedUp()
        if self._may_exist:
            cleaned.left = ending.still_there(self._name, "the home did not answer in time")
        work = functools.partial(self._remove, cleaned, time.monotonic() + CLEAN_UP_BUDGET_S)
        ending.wait(ending.begin(work, name="clean up"), CLEAN_UP_BUDGET_S)
        return cleaned

    def _remove(self, cleaned: ending.CleanedUp, deadline: float) -> None:
        if self._process is not None and self._session is not None:
            read = functools.partial(read_log_tail, self._session, self._log_path)
            cleaned.log_lines = ending.lines_within(read, TAIL_BUDGET_S)
        connection = self._connection
        if connection is None:
            return
        ended = ending.Ended()
        if self._may_exist:
            ended = ending.destroy(
                connection,
                self._name,
                budget_s=max(1.0, deadline - time.monotonic() - 0.5),
                may_appear=self._is_creating,
                discard=True,
            )
        cleaned.left = ending.still_there(self._name, ended.left) if ended.left else ""
        if not ended.left:
            remove_lease(self._settings, self._name)
        if self._feed is not None:
            self._feed.close()
        connection.close()

    def _announce(self) -> None:
        self._emit(
            LaunchStarted(
                at_ms=time.time_ns() // 1_000_000,
                home=self._home,
                home_reason=self._request.choice.reason,
                sandbox_name=self._name,
                steps=steps_of(self._home, is_named=self._settings.binary is not None),
                model=self._model.name,
                is_scripted=self._model.is_scripted,
                is_key_outside=self._model.is_key_outside,
                allowed_hosts=tuple(entry.pattern for entry in self._policy().hosts),
                has_egress_record=self._home == "local",
                is_strict=self._settings.is_strict,
            )
        )

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[_Note]:
        self.current = name
        self._step_started = time.monotonic()
        self._emit(StepStarted(name, time.time_ns() // 1_000_000))
        note = _Note()
        yield note
        self._emit(StepDone(name, time.monotonic() - self._step_started, note.detail))
        self.current = ""

    def _policy(self) -> NetworkPolicy:
        policy = self._model.policy()
        wanted = {
            parse_pattern(host): HostRules(parse_pattern(host)) for host in self._request.hosts
        }
        for name, url in self._settings.mappings.items():
            wanted[parse_pattern(name)] = HostRules(parse_pattern(name), (Rule(forward_url=url),))
        known = {entry.pattern for entry in policy.hosts}
        more = tuple(entry for pattern, entry in wanted.items() if pattern not in known)
        return replace(policy, hosts=(*policy.hosts, *more))

    def _create(self, binary: Path | None) -> SyncSandbox:
        connection = connect(self._settings, self._home, opencode=binary)
        self._connection = connection
        if self._model.is_scripted and not self._model.forward_url:
            self._model = replace(self._model, forward_url=connection.demo_model_url)
        limit_s = self._settings.time_limit_s
        self._expires_ms = int((time.time() + limit_s) * 1000)
        try:
            box = self._create_named(connection, limit_s)
        except Exception as exc:
            if not describe(exc).is_taken:
                raise
            # Somebody else's sandbox has the name; ours was not made, and theirs is not touched.
            remove_lease(self._settings, self._name)
            self._name = f"{self._name}-{secrets.token_hex(2)}"
            self._announce()
            self._emit(StepStarted("create", time.time_ns() // 1_000_000))
            box = self._create_named(connection, limit_s)
        session = box.current_session
        if session is None:
            raise SandboxLaunchError("the home created a sandbox without a session", step="create")
        self._session = session
        difference = check_readback(self._policy(), session.network_policy)
        if difference:
            message = f"the home did not put the network policy in force: {difference}"
            raise SandboxLaunchError(message, step="create", next_step="run %opencode_doctor")
        if connection.local is not None:
            self._feed = EgressFeed(connection.local, session.id, self._emit, self._on_lost)
            self._feed.start()
        return box

    def _create_named(self, connection: Connection, limit_s: float) -> SyncSandbox:
        write_lease(self._settings, new_lease(self._settings, self._name, self._home))
        self._is_creating = self._may_exist = True
        try:
            box = connection.client.create_sandbox(
                name=self._name,
                ports=[PORT],
                execution_time_limit=dt.timedelta(seconds=limit_s),
                persistent=False,
                network_policy=to_sdk_policy(self._policy()),
                tags={"app": "opencode-magic"},
                **connection.extras,  # type: ignore[arg-type] # the SDK passes them on
            )
        except Exception as exc:
            fault = describe(exc)
            self._is_creating = not fault.has_answered
            self._may_exist = not fault.is_refused
            raise
        self._is_creating = False
        return box

    def _on_lost(self) -> None:
        if self._sandbox is not None:
            self._sandbox.lose("the local server ended, and the sandbox with it")

    def _prepare(self) -> tuple[Place, str]:
        """Make the workspace; give the place, and the OpenCode that the image holds, or empty."""
        found = self._inside().prepare(asks_version=self._home == "cloud")
        own = f"{found.home}/.opencode-magic"
        self._log_path = f"{own}/server.log"
        is_local_image = self._connection is not None and self._connection.has_opencode
        binary = found.binary if found.version == VERSION else ""
        place = Place(
            home=found.home,
            workspace=f"{found.home}/workspace",
            binary="",
            temporary=f"{own}/tmp",  # noqa: S108 - inside the sandbox
            bind_host="127.0.0.1" if self._home == "local" else "0.0.0.0",
        )
        if is_local_image and self._settings.binary is None:
            binary = LOCAL_BINARY
        return place, binary

    def _inside(self) -> Inside:
        return Inside(self._in_session(), self._settings, self.current, self.failed_label)

    def _in_session(self) -> SyncSandboxRuntimeSession:
        assert self._session is not None
        return self._session

    def _place_binary(self, place: Place, found: str) -> Place:
        """Give the place with the binary that will run, uploaded where the image lacks it."""
        if found == LOCAL_BINARY:
            return replace(place, binary=found)
        with self._step("binary") as note:
            if found and self._settings.binary is None:
                note.detail = "in the image"
                return replace(place, binary=found)
            uploaded = self._inside().upload(f"{place.home}/.opencode-magic", UPLOAD_PACKAGE)
            is_named = self._settings.binary is not None
            detail = opencode.ensure_binary(self._settings).detail if is_named else "verified"
            note.detail = f"{detail}, uploaded"
        return replace(place, binary=uploaded)

    def _serve(self, place: Place, box: SyncSandbox) -> tuple[Proving, str, str]:
        with self._step("serve") as note:
            url = next((r.url for r in box.routes if r.port == place.port), "")
            if not url:
                raise SandboxLaunchError("the home published no port", step="serve")
            self._process = self._inside().start(
                self._server.command(place),
                log_path=self._log_path,
                cwd=place.workspace,
                env=self._server.environment(place),
            )
            proving = Proving(self._prover(place), self._feed)
            proving.start()
            version = wait_healthy(self._server, url, look=self._check_running)
            self._check_version(version)
            note.detail = "healthy"
        return proving, url, version

    def _check_running(self) -> None:
        assert self._process is not None
        self._process.refresh()
        code = self._process.returncode
        if code is not None:
            msg = f"the agent server ended with code {code}"
            raise SandboxLaunchError(msg, step="serve", next_step=LINES_STEP)

    def _check_version(self, version: str) -> None:
        is_named = self._settings.binary is not None
        if version == VERSION or (is_named and version.startswith("1.")):
            return
        msg = f"the agent server is OpenCode {version}, and {VERSION} is the one that is pinned"
        step = "unset OPENCODE_MAGIC_BINARY to use the pinned release" if is_named else ""
        raise SandboxLaunchError(msg, step="serve", next_step=step)

    def _prover(self, place: Place) -> Prover:
        assert self._connection is not None
        own = f"{place.home}/.opencode-magic"
        return Prover(
            session=self._in_session(),
            local=self._connection.local,
            runtime=place.binary,
            model_host=self._model.host,
            is_key_outside=self._model.is_key_outside,
            key_scan=KeyScan.of(self._model.header_value),
            policy=self._policy(),
            folders=(place.home, *SCANNED),
            skip=f"{own}/bin/opencode",
            target=choose_target(self._policy(), self._request.target),
        )

    def _finish(self, place: Place, url: str, version: str, proof: Proof) -> Sandbox:
        assert self._connection is not None
        assert self._process is not None
        session = self._in_session()
        lease = with_route(
            new_lease(self._settings, self._name, self._home),
            url=url,
            session_id=session.id,
            process_id=self._process.id,
            workspace=place.workspace,
            password=self._server.environment(place).get("OPENCODE_SERVER_PASSWORD", ""),
        )
        write_lease(self._settings, lease)
        parts = Parts(
            settings=self._settings,
            connection=self._connection,
            session=session,
            process=self._process,
            prover=self._prover(place),
            feed=self._feed,
            emit=self._emit,
            log_path=self._log_path,
            model_host=self._model.host,
        )
        sandbox = Sandbox(
            parts,
            name=self._name,
            home=self._home,
            url=url,
            place=place,
            version=version,
            expires_ms=self._expires_ms,
            proof=proof,
        )
        self._sandbox = sandbox
        self._request.on_made(sandbox)
        sandbox.start()
        self._emit(
            Launched(
                is_proven=proof.verdict == "proven",
                duration_s=time.monotonic() - self._started,
                server_version=version,
                expires_ms=self._expires_ms,
            )
        )
        return sandbox
