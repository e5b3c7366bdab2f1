"""The agent of a launched sandbox: its client, its event reader, and the conversation with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from opencode_magic.agent.client import AgentClient
from opencode_magic.agent.reader import EventReader
from opencode_magic.session.notebook import notebook_name

if TYPE_CHECKING:
    from opencode_magic.core.providers import ModelChoice

Permissions = Literal["allow", "ask"]

READY_TIMEOUT_S = 15.0
_ASKED = ("bash", "edit")
"""What the agent asks leave for, where it must ask."""


@dataclass(eq=False)
class Agent:
    """One agent server as one notebook uses it."""

    client: AgentClient
    reader: EventReader
    model: ModelChoice
    session_id: str
    _permissions: Permissions = "allow"

    @classmethod
    def connect(cls, url: str, password: str, directory: str, *, model: ModelChoice) -> Agent:
        """Open the event stream and begin a conversation.

        Raises:
            AgentError: The agent server does not answer; nothing is left open.
        """
        client = AgentClient(url, password, directory)
        reader = EventReader(client)
        try:
            reader.start()
            session_id = client.create_session(notebook_name())
            reader.wait_ready(timeout_s=READY_TIMEOUT_S)
            # Loading its models takes the server 0.7 s, which the user's typing hides.
            client.start_making_ready()
        except BaseException:
            reader.close()
            client.close()
            raise
        return cls(client, reader, model, session_id)

    def renew(self) -> None:
        """Begin a new conversation; the old one stays on the agent server."""
        self.session_id = self.client.create_session(notebook_name())
        self._permissions = "allow"

    def set_permissions(self, permissions: Permissions) -> None:
        """Let the agent run commands and edit files, or have it ask each time."""
        if permissions != self._permissions:
            self.client.set_permissions(self.session_id, dict.fromkeys(_ASKED, permissions))
            self._permissions = permissions

    def close(self) -> None:
        """End the event stream, its thread and all connections."""
        self.reader.close()
        self.client.close()
