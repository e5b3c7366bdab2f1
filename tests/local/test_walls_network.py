from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization

from opencode_magic.core.checks import Check
from opencode_magic.core.egress import EgressRecord
from opencode_magic.local import prove, walls, walls_network
from opencode_magic.local.__main__ import main
from opencode_magic.local.firewall.ca import SandboxCA
from opencode_magic.local.walls_inside import PROGRAM
from opencode_magic.local.walls_network import Tried, judge
from tests.local import keepers, readable
from tests.local.readable import PACKAGES
from tests.local.servers import LocalServer

if TYPE_CHECKING:
    from collections.abc import Iterator

NOT_SHOWN_BY_CONTROL = {"half a name, then the end"}
"""It asks for nothing that could be given: it is there for what it may hold up."""
LIMIT_S = 60


@pytest.fixture(scope="module")
def ordinary_run() -> Iterator[subprocess.Popen[str]]:
    """The command of an ordinary user, which runs beside the one of the tests' own user."""
    made = LocalServer.make_ordinary()
    process = subprocess.Popen(
        [*made.python, "-m", "opencode_magic.local", "prove"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": PACKAGES, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
    )
    yield process
    process.communicate()
    made.close()


@pytest.fixture(scope="module")
def said(ordinary_run: subprocess.Popen[str]) -> str:
    """What the command prints for the tests' own user."""
    assert ordinary_run.pid
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = main(["prove"])
    return f"{output.getvalue()}exit code {code}\n"


@pytest.fixture(scope="module")
def ordinary_said(said: str, ordinary_run: subprocess.Popen[str]) -> str:
    """What the command prints for an ordinary user."""
    assert said
    output, _ = ordinary_run.communicate(timeout=LIMIT_S)
    return f"{output}exit code {ordinary_run.returncode}\n"


@pytest.fixture(scope="module")
def control() -> dict[str, Tried]:
    """What the same attempts meet in a bare namespace of an ordinary user, without a wall."""
    ca = SandboxCA.create()
    key = ca._key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    command = [readable.open_python(), "-I", "-c", PROGRAM, *walls_network.arguments(9999)]
    first = "from __future__ import annotations\n"
    arguments = f"import sys\nsys.argv[1:] = {[(key + ca.pem).decode(), *command]!r}\n"
    source = Path(__file__).with_name("control.py").read_text().replace(first, first + arguments)
    bare = ["unshare", "--user", "--map-root-user", "--net"]
    return walls_network.parse(keepers.run_as_ordinary_user(source, within=bare))


def is_held(said: str, attempt: str) -> bool:
    return re.search(rf"^held +{re.escape(attempt)} {{2,}}\S", said, re.MULTILINE) is not None


@pytest.mark.parametrize("attempt", walls_network.attempts())
def test_an_attempt_to_reach_the_network_is_refused(said: str, attempt: str) -> None:
    """Nothing on the list works from inside, and the wall's own record or error says so."""
    assert is_held(said, attempt), said


@pytest.mark.parametrize("attempt", walls_network.attempts())
def test_an_ordinary_users_wall_is_the_same(ordinary_said: str, attempt: str) -> None:
    """Nothing on the list works in the sandbox of a user without rights either."""
    assert is_held(ordinary_said, attempt), ordinary_said


def test_prove_tells_that_all_held(said: str, ordinary_said: str) -> None:
    """Every attempt is in the table, and the exit code is 0, for every user."""
    count = len(walls.attempts()) + len(walls_network.attempts())

    ending = f"\n\n{count} attempts, all held.\nexit code 0\n"
    assert (said[-len(ending) :], ordinary_said[-len(ending) :]) == (ending, ending)


@pytest.mark.parametrize("attempt", walls_network.attempts())
def test_the_attempt_succeeds_where_there_is_no_wall(
    control: dict[str, Tried], attempt: str
) -> None:
    """The control: in a bare namespace the same program gets an answer."""
    assert (control[attempt].outcome == 0) is (attempt not in NOT_SHOWN_BY_CONTROL)


def test_where_there_is_no_wall_nothing_is_held(control: dict[str, Tried]) -> None:
    """What the control met is judged as open, all but the way that is allowed."""
    checks = {check.name: check.state for check in judge(control, ())}

    assert {name for name, state in checks.items() if state == "ok"} == set(walls_network.ALLOWED)


def record(port: int, verdict: str) -> EgressRecord:
    return EgressRecord(7, 0, "tls", "a.example", 443, verdict, "so", port)  # type: ignore[arg-type] # a verdict's text


def test_a_refusal_counts_only_with_its_own_record() -> None:
    """Where nothing came back, the wall held only if each port's refusal is on record."""
    one = Tried(errno.ECONNRESET, (5,))
    two = Tried(errno.ECONNRESET, (5, 6))

    [with_record] = judge({"a": one}, [record(5, "blocked")])
    others = [
        *judge({"a": one}, [record(6, "blocked")]),
        *judge({"a": one}, [record(5, "allowed")]),
        *judge({"a": two}, [record(5, "blocked")]),
        *judge({"a": Tried(errno.ECONNRESET)}, [record(0, "blocked")]),
        *judge({"a": Tried(0, (5,))}, [record(5, "blocked")]),
        *judge({"a": Tried(walls.BROKEN, (5,))}, [record(5, "blocked")]),
        *judge({"ICMP": Tried(errno.ETIMEDOUT)}, []),
        *judge({next(iter(walls_network.ALLOWED)): one}, [record(5, "blocked")]),
    ]

    assert (with_record.state, with_record.detail) == ("ok", "on record as 0007: so")
    assert {check.state for check in others} == {"blocked"}


def test_what_does_not_hold_is_told_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One attempt that worked makes the exit code 1, and the table ends with what to do."""
    found = (Check("one", "ok", "refused"), Check("another", "blocked", "it worked", walls.STEP))
    monkeypatch.setattr(prove, "prove", lambda: found)

    code = main(["prove"])

    assert code == 1
    assert capsys.readouterr().out == (
        "held  one      refused\nOPEN  another  it worked\n\n2 attempts, 1 not held.\n"
        f"Next: {walls.STEP}\n"
    )


def test_what_was_printed_is_read_back() -> None:
    """Each attempt's outcome, ports and words."""
    printed = json.dumps({"a": [13, [1, 2], "x"]})

    assert walls_network.parse(printed) == {"a": Tried(13, (1, 2), "x")}
