from __future__ import annotations

import socket
import time

from opencode_magic.core.policy_wire import parse_policy
from opencode_magic.local.firewall.ca import SandboxCA
from opencode_magic.local.firewall.engine import Firewall
from opencode_magic.local.firewall.programs import LIMIT_PER_S, ProgramFinder
from opencode_magic.local.firewall.record import EgressLog
from tests.local import keepers

REFUSED = """
import socket
with open("/proc/self/comm", "w") as file:
    file.write("my \\x1b[31mprobe")
sock = socket.create_connection(("203.0.113.5", 443), 5)
sock.sendall(b"SSH-2.0")
try:
    sock.recv(1)
except ConnectionError:
    pass
"""


def test_a_refused_program_is_named() -> None:
    """A record of a refusal names the program that holds the socket, in plain characters."""
    log = EgressLog()
    with keepers.sandbox() as box:
        firewall = Firewall(
            box.keeper.listeners, parse_policy({}), ca=SandboxCA.create(), record=log
        )
        firewall.start()
        try:
            code, output = box.python(REFUSED)
            log.wait(0, timeout_s=5)
        finally:
            firewall.close()

    assert code == 0, output
    assert [record.program for record in log.since(0)] == ["my[31mprobe"]


def test_programs_of_the_host_are_not_looked_for() -> None:
    """A listener in the host's own namespace tells nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert ProgramFinder(listener).find("tls", listener.getsockname()[1]) == ""


def test_looking_is_bounded() -> None:
    """Within a second only some are looked for."""
    with keepers.sandbox() as box:
        finder = ProgramFinder(box.keeper.listeners["tls4"])
        started = time.monotonic()
        found = [finder.find("tls", 1) for _ in range(LIMIT_PER_S * 50)]
        took_s = time.monotonic() - started
        for listener in box.keeper.listeners.values():
            listener.close()

    assert set(found) == {""}
    assert took_s < 5
