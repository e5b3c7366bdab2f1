"""Stand-ins for what a shell publishes to, with a test of their own in ``test_screens.py``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Published:
    """One message as a front end gets it."""

    data: dict[str, object]
    metadata: dict[str, object]
    display_id: str
    is_update: bool

    @property
    def size_bytes(self) -> int:
        """How large it is on the wire, without its headers."""
        return len(json.dumps([self.data, self.metadata]))

    @property
    def html(self) -> str:
        """Its HTML."""
        return str(self.data["text/html"])

    @property
    def text(self) -> str:
        """Its text."""
        return str(self.data["text/plain"])


@dataclass
class Screen:
    """Keeps what is published. A shell and its ``display_pub`` in one."""

    messages: list[Published] = field(default_factory=list)
    kernel: object = None

    @property
    def display_pub(self) -> Screen:
        """Itself."""
        return self

    def publish(
        self,
        data: dict[str, object],
        metadata: dict[str, object] | None = None,
        *,
        transient: dict[str, object] | None = None,
        update: bool = False,
    ) -> None:
        """Keep one message."""
        display_id = str((transient or {}).get("display_id", ""))
        self.messages.append(Published(dict(data), dict(metadata or {}), display_id, update))


@dataclass
class Clock:
    """A clock that is moved by hand."""

    now_s: float = 100.0

    def __call__(self) -> float:
        """Give the time."""
        return self.now_s
