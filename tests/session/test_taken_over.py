"""A sandbox whose agent server is hostile: every magic still ends, with one line."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from opencode_magic.agent.server import OpenCodeServer
from opencode_magic.errors import TurnFailed
from opencode_magic.session.ask import Asking, SilentView, ask_agent
from opencode_magic.session.reply import Reply
from tests.session.rounds import local_round

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opencode_magic.core.opencode import Place

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the local home needs Linux"),
    pytest.mark.usefixtures("opencode_binary"),
]

HOSTILE = """
import itertools, json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

prompted = threading.Event()
WAY = sys.argv[2]
IDS = {"sessionID": "ses_1", "messageID": "msg_1", "partID": "prt_1"}

def event(kind, **properties):
    return b"data: " + json.dumps({"type": kind, "properties": properties}).encode() + b"\\n\\n"

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if "/event" in self.path:
            self.flood()
        elif WAY == "drips" and prompted.is_set():
            self.drip()
        elif "/health" in self.path:
            self.say({"healthy": True, "version": "1.18.33"})
        else:
            self.say({} if "status" in self.path or "providers" in self.path else [])

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        if "/message" in self.path:
            prompted.set()
            self.drip()
        elif self.path.startswith("/session?"):
            self.say({"id": "ses_1"})
        elif WAY == "drips":
            self.drip()
        else:
            self.say(True)

    do_PATCH = do_POST

    def say(self, value):
        self.head()
        self.wfile.write(json.dumps(value).encode())

    def head(self, kind="application/json"):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.end_headers()

    def drip(self):
        self.head()
        while True:
            self.wfile.write(b" ")
            self.wfile.flush()
            threading.Event().wait(0.1)

    def flood(self):
        self.head("text/event-stream")
        self.wfile.write(event("server.connected"))
        self.wfile.flush()
        prompted.wait()
        self.wfile.write(event("message.part.delta", **IDS, field="text", delta="The beginning. "))
        self.wfile.flush()
        more = event("message.part.delta", **IDS, field="text", delta="word " * 2000)
        for _ in itertools.count():
            if WAY == "drips":
                threading.Event().wait(1)
            else:
                self.wfile.write(more)

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def be_hostile(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Have each launch run the hostile server in OpenCode's place."""

    def command(_server: OpenCodeServer, place: Place) -> Sequence[str]:
        return ("python3", "-c", HOSTILE, str(place.port), way)

    monkeypatch.setattr(OpenCodeServer, "command", command)


def test_a_server_that_floods_leaves_every_magic_working(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ask fails with its limit and keeps what came; status, prove and down go on."""
    be_hostile(monkeypatch, "floods")
    with local_round() as made:
        session = made.session
        session.up(made.settings)
        started = time.monotonic()

        with pytest.raises(TurnFailed, match=r"past its limit of 4,000,000 characters") as caught:
            ask_agent(session, Asking(text="x"), view=SilentView())
        first = caught.value.reply
        reply = ask_agent(session, Asking(text="x", keep_going=True), view=SilentView())
        is_alive = session.is_alive()
        proof = session.prove()
        report = session.down()

        assert isinstance(first, Reply)
        assert first.text.startswith("The beginning. word word ")
        assert len(reply.text) > 1_000_000
        assert (reply.state, is_alive, proof.verdict) == ("failed", True, "proven")
        assert report.removed
        assert not session.is_up
        assert time.monotonic() - started < 90


def test_a_server_that_drips_leaves_every_magic_working(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn that never ends is stopped; what drips holds neither status, prove nor down."""
    be_hostile(monkeypatch, "drips")
    with local_round() as made:
        session = made.session
        session.up(made.settings)
        timer = threading.Timer(2, session.stop_turn)
        timer.start()
        started = time.monotonic()

        reply = ask_agent(session, Asking(text="x"), view=SilentView())
        stopped_s = time.monotonic() - started
        is_alive = session.is_alive()
        proof = session.prove() if is_alive else None
        report = session.down()

        assert (reply.state, reply.text) == ("stopped", "The beginning. ")
        assert stopped_s < 30
        assert proof is None or proof.verdict == "proven"
        assert report.removed or not is_alive
        assert not session.is_up
        assert time.monotonic() - started < 90
