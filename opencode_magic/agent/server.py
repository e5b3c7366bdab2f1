"""What a sandbox must run for the agent: files, command, environment, and how to see its health."""

from __future__ import annotations

import json
import re
import secrets
from typing import TYPE_CHECKING

import httpx

from opencode_magic.agent.answers import AS_IT_IS, Answer, read_answer
from opencode_magic.agent.config import (
    ServerOptions,
    opencode_config,
    seed_files,
    server_environment,
)
from opencode_magic.agent.transport import BoundedTransport, within
from opencode_magic.core.opencode import USERNAME, VERSION, SandboxFile
from opencode_magic.core.stored import as_object, as_text
from opencode_magic.errors import AgentConnectionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opencode_magic.core.opencode import Place
    from opencode_magic.core.providers import ModelChoice

HEALTH_TIMEOUT_S = 0.5
"""A connection that OpenCode accepts while it boots is never answered: a try must be short."""
HEALTH_LIMIT_BYTES = 1024 * 1024
"""Its answer has 40 bytes, a page of an edge that answers instead some thousand; tries overlap."""
FAR_HEALTH_TIMEOUT_S = 3.0
"""The same for a server that is not on this machine: a new connection takes several round trips."""


def new_password() -> str:
    """Give a password for one start of the agent server."""
    return secrets.token_urlsafe(32)


_VERSION = re.compile(r"[0-9][\w.+-]{0,63}", re.ASCII)


class OpenCodeServer:
    """OpenCode 1.18 for one model. Implements ``sandbox.launch.AgentServer``.

    Args:
        model: What the agent thinks with.
        password: Of this one start.
        options: What can be chosen about it.
    """

    def __init__(
        self, model: ModelChoice, password: str, *, options: ServerOptions | None = None
    ) -> None:
        self._model = model
        self._password = password
        self._options = options or ServerOptions()
        # No connection is kept: one that was accepted too early would never be answered.
        self._http = httpx.Client(
            trust_env=False,
            auth=(USERNAME, password),
            follow_redirects=False,
            transport=BoundedTransport(keep=0, is_tls=True),
        )

    def __repr__(self) -> str:
        return f"<OpenCodeServer: {self._model.name}>"

    def files(self, place: Place) -> Sequence[SandboxFile]:
        """Give the files that keep OpenCode from running npm."""
        folder = f"{place.home}/.config/opencode"
        files = [
            SandboxFile(f"{folder}/{name}", json.dumps(content).encode())
            for name, content in seed_files().items()
        ]
        ignore = SandboxFile(f"{folder}/.gitignore", b"*\n")
        # A folder is made by a file in it; that it is there is what OpenCode looks at.
        modules = SandboxFile(f"{folder}/node_modules/.keep", b"")
        return (*files, ignore, modules)

    def command(self, place: Place) -> Sequence[str]:
        """Give the program and its arguments. What it logs goes to stderr."""
        address = ("--hostname", place.bind_host, "--port", str(place.port))
        return (place.binary, "serve", *address, "--print-logs", "--log-level", "WARN")

    def environment(self, place: Place) -> Mapping[str, str]:
        """Give the server's environment. It holds a placeholder where a key is expected."""
        config = json.dumps(opencode_config(self._model, self._options))
        return server_environment(
            place, password=self._password, config=config, options=self._options
        )

    def poll_health(self, url: str) -> str | None:
        """Try once, shortly: the server's version, or None while it does not answer.

        Raises:
            AgentConnectionError: Something else answers there, or OpenCode 2.
        """
        try:
            answer = self._get(f"{url}/global/health")
        except httpx.TransportError:
            return None
        if answer.status == httpx.codes.UNAUTHORIZED:
            raise AgentConnectionError(
                f"another server answers at {url}: it does not know this launch's password",
                next_step="end what uses that port, then launch again",
            )
        version = _version(answer)
        if version is None:
            self._look_again(url, is_answered=answer.is_success)
            return None
        if not version.startswith("1."):
            raise _unsupported(version)
        return version

    def close(self) -> None:
        """Let go of what the health polls used."""
        self._http.close()

    def _get(self, url: str) -> Answer:
        is_near = httpx.URL(url).host in {"127.0.0.1", "localhost", "::1"}
        timeout_s = HEALTH_TIMEOUT_S if is_near else FAR_HEALTH_TIMEOUT_S
        with (
            within(timeout_s),
            self._http.stream("GET", url, headers=AS_IT_IS, timeout=timeout_s) as response,
        ):
            return read_answer(response, limit_bytes=HEALTH_LIMIT_BYTES)

    def _look_again(self, url: str, *, is_answered: bool) -> None:
        """See what answers without health: OpenCode 2, another server, or an edge that waits too.

        Raises:
            AgentConnectionError: It is one of the first two.
        """
        try:
            info = self._get(f"{url}/api/info")
        except httpx.TransportError:
            return
        version = _version(info) if info.is_success else None
        if version is not None:
            raise _unsupported(version)
        if is_answered:
            raise AgentConnectionError(
                f"what answers at {url} is not OpenCode",
                next_step="end what uses that port, then launch again",
            )


def _version(answer: Answer) -> str | None:
    """Give the version that a JSON answer names; unknown paths of OpenCode answer with a page."""
    if not answer.headers.get("content-type", "").startswith("application/json"):
        return None
    try:
        named = as_text(as_object(answer.value()).get("version"))
    except ValueError:
        return None
    return named if _VERSION.fullmatch(named) else None


def _unsupported(version: str) -> AgentConnectionError:
    return AgentConnectionError(
        f"OpenCode {version} is another server than the 1.x that this package speaks to",
        next_step=f"use OpenCode {VERSION}: unset OPENCODE_MAGIC_BINARY, or name it there",
    )
