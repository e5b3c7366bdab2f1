from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization

from opencode_magic.core.checks import Check
from opencode_magic.core.egress import EgressRecord
from opencode_magic.local import prove, start, walls, walls_limits, walls_network
from opencode_magic.local.__main__ import main
from opencode_magic.local.firewall.ca import SandboxCA
from opencode_magic.local.prove import Part
from opencode_magic.local.walls_inside import PROGRAM
from opencode_magic.local.walls_network import Tried, judge
from tests.local import keepers, readable
from tests.local.readable import PACKAGES
from tests.local.servers import LocalServer

if TYPE_CHECKING:
    from collections.abc import Iterator

USUAL, STRICT = walls_network.attempts(), walls_network.attempts(is_strict=True)
ALL = USUAL | STRICT
STATED = {name for name in USUAL if name.removesuffix(" by IPv6") in walls_network._STATED}
NOT_SHOWN_BY_CONTROL = {f"half a name, then the end{how}" for how in ("", " by IPv6")}
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
    ca = SandboxCA.create("canary!")
    key = ca._leaf_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    pem = key + ca._sign("any.example").public_bytes(serialization.Encoding.PEM)
    command = [readable.open_python(), "-I", "-c", PROGRAM, *walls_network.arguments(9999, ALL)]
    first = "from __future__ import annotations\n"
    arguments = f"import sys\nsys.argv[1:] = {[pem.decode(), *command]!r}\n"
    source = Path(__file__).with_name("control.py").read_text().replace(first, first + arguments)
    bare = ["unshare", "--user", "--map-root-user", "--net"]
    return walls_network.parse(keepers.run_as_ordinary_user(source, within=bare))


def part(said: str, title: str) -> str:
    """Give the lines of one part of the table."""
    return said.partition(f"\n{title}\n")[2].partition("\n\n")[0]


def is_said(lines: str, word: str, attempt: str) -> bool:
    return re.search(rf"^  {word} +{re.escape(attempt)} {{2,}}\S", lines, re.MULTILINE) is not None


def check_usual(said: str, attempt: str) -> None:
    word = "said" if attempt in STATED else "held"
    assert is_said(part(said, "Network"), word, attempt), said


@pytest.mark.parametrize("attempt", USUAL)
def test_an_attempt_to_reach_the_network_is_refused(said: str, attempt: str) -> None:
    """Nothing on the list works from inside, and the wall's own record or error says so.

    What passes unread behind a name that the policy allows is stated by the record.
    """
    check_usual(said, attempt)


@pytest.mark.parametrize("attempt", USUAL)
def test_an_ordinary_users_wall_is_the_same(ordinary_said: str, attempt: str) -> None:
    """Nothing on the list works in the sandbox of a user without rights either."""
    check_usual(ordinary_said, attempt)


@pytest.mark.parametrize("attempt", STRICT)
def test_a_strict_wall_reads_every_request(said: str, ordinary_said: str, attempt: str) -> None:
    """With ``--strict`` the host of each request is checked, for every user."""
    for text in (said, ordinary_said):
        assert is_said(part(text, "The same with --strict"), "held", attempt), text


@pytest.mark.parametrize("attempt", [*walls_limits.ATTEMPTS, walls_limits.OUTLIVING])
def test_a_limit_ends_inside(said: str, ordinary_said: str, attempt: str) -> None:
    """Each limit holds for every user, with an error that names it; nothing outlives a sandbox."""
    for text in (said, ordinary_said):
        assert is_said(part(text, "Limits, and the end"), "held", attempt), text


@pytest.mark.parametrize("attempt", walls.attempts())
def test_the_rest_is_in_the_table_too(said: str, ordinary_said: str, attempt: str) -> None:
    """What is tried of this machine, of rights and of system calls is told, for every user."""
    word = "said" if attempt in walls.STATED else "held"
    for text in (said, ordinary_said):
        assert is_said(text, word, attempt), text


def test_prove_tells_that_all_held(said: str, ordinary_said: str) -> None:
    """The last line counts the attempts, and the exit code is 0, for every user."""
    count = len(walls.attempts()) + len(USUAL) + len(STRICT) + len(walls_limits.ATTEMPTS) + 1

    endings = [text.rstrip().splitlines()[-3:] for text in (said, ordinary_said)]
    stated = len(STATED) + len(walls.STATED)
    held = f"all held; known limits, marked 'said': {stated}."
    name = "root (the agent is another user)" if os.geteuid() == 0 else "an ordinary user"
    assert endings == [
        ["", f"{count - stated} attempts as {name}: {held}", "exit code 0"],
        ["", f"{count - stated} attempts as an ordinary user: {held}", "exit code 0"],
    ]


@pytest.mark.parametrize("attempt", ALL)
def test_the_attempt_succeeds_where_there_is_no_wall(
    control: dict[str, Tried], attempt: str
) -> None:
    """The control: in a bare namespace the same program gets an answer."""
    assert (control[attempt].outcome == 0) is (attempt not in NOT_SHOWN_BY_CONTROL)


def test_where_there_is_no_wall_nothing_is_held(control: dict[str, Tried]) -> None:
    """What the control met is judged as open, all but the way that is allowed."""
    checks = {check.name: check.state for check in judge(control, (), is_strict=True)}

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


def test_what_passes_unread_counts_only_as_stated() -> None:
    """Another host behind an allowed name must be on record as unread, or the wall is open."""
    name, through = next(iter(walls_network._STATED)), Tried(0, (5,))
    unread = replace(record(5, "allowed"), reason="allowed host, passed through unread")

    found = [
        *judge({name: through}, [unread]),
        *judge({name: through}, [record(5, "allowed")]),
        *judge({name: through}, []),
        *judge({name: through}, [unread], is_strict=True),
        *judge({name: Tried(errno.ECONNRESET, (5,))}, [record(5, "blocked")], is_strict=True),
    ]

    assert [check.state for check in found] == ["warning", "blocked", "blocked", "blocked", "ok"]


def test_without_ipv6_its_attempts_are_left_out() -> None:
    """Where a machine has no IPv6 nothing that needs it is tried."""
    found = walls_network.attempts(has_ipv6=False)

    assert [name for name, text in found.items() if "V6" in text or "::" in text] == [
        "CONNECT to an IPv6 address",
        "CONNECT to [::ffff:127.0.0.1]",
    ]


def test_what_does_not_hold_is_told_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One attempt that worked makes the exit code 1, and the table ends with what to do."""
    held, stated = Check("one", "ok", "refused"), Check("two", "warning", "on record")
    opened = Check("another", "blocked", "it worked", walls.STEP)
    monkeypatch.setattr(prove, "prove", lambda: (Part("A", (held, stated)), Part("B", (opened,))))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    code = main(["prove"])

    assert code == 1
    assert capsys.readouterr().out == (
        "A\n  held  one      refused\n  said  two      on record\n\n"
        "B\n  OPEN  another  it worked\n\n"
        "2 attempts as an ordinary user: 1 NOT HELD; known limits, marked 'said': 1.\n"
        f"OPEN: another: it worked\nNext: {walls.STEP}\n"
    )


def test_where_no_sandbox_can_be_had_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is missing is named in one line with the next step, and the exit code is 1."""
    monkeypatch.setattr(start, "_BARE_ENVIRONMENT", {"PATH": "/nowhere"})

    code = main(["prove"])

    said = capsys.readouterr()
    assert (code, said.out, len(said.err.splitlines())) == (1, "", 1)
    assert "is not installed. Next: install the package" in said.err


def test_what_was_printed_is_read_back() -> None:
    """Each attempt's outcome, ports and words."""
    printed = json.dumps({"a": [13, [1, 2], "x"]})

    assert walls_network.parse(printed) == {"a": Tried(13, (1, 2), "x")}
