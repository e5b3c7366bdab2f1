from __future__ import annotations

from dataclasses import replace

import pytest

from opencode_magic.__main__ import main
from opencode_magic.sandbox.lease import new_lease, write_lease
from opencode_magic.settings import load_settings


@pytest.fixture
def lease() -> str:
    """Give the name of a sandbox whose lease file stands, held by this process."""
    settings = load_settings()
    lease = replace(
        new_lease(settings, "ocm-quiet-heron", "local"), url="http://127.0.0.1:1", password="pw-1"
    )
    write_lease(settings, lease)
    return lease.name


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    """The doctor prints a table, and its exit code says whether something is blocked."""
    code = main(["doctor"])
    table = capsys.readouterr().out

    assert "Looked at" in table
    assert code == (1 if "blocked" in table.splitlines()[0] else 0)


@pytest.mark.usefixtures("lease")
def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    """Each sandbox is a line without its password."""
    assert main(["list"]) == 0
    line = capsys.readouterr().out

    assert line.startswith("ocm-quiet-heron  local home  kernel ")
    assert "pw-1" not in line


def test_list_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing is up, that is said."""
    assert main(["list"]) == 0
    assert capsys.readouterr().out == "No sandbox is up.\n"


@pytest.mark.parametrize("name", ["quiet-heron", "ocm-quiet-heron"])
@pytest.mark.usefixtures("lease")
def test_password(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """The password goes to standard output alone, for the command that attaches."""
    assert main(["password", name]) == 0
    assert capsys.readouterr().out == "pw-1\n"


def test_password_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown name is one line and exit code 1."""
    assert main(["password", "nobody"]) == 1
    assert capsys.readouterr().err == (
        "Not done: no sandbox 'nobody' is up. Next: run: python -m opencode_magic list\n"
    )


@pytest.mark.usefixtures("lease")
def test_sweep_leaves_what_lives(capsys: pytest.CaptureFixture[str]) -> None:
    """What a living kernel holds is not swept."""
    assert main(["sweep"]) == 0
    assert capsys.readouterr().out == "Removed: nothing.\n"
    assert main(["list"]) == 0
    assert "ocm-quiet-heron" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["bogus"], ["password"]])
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A command line that is not understood shows how it is used."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    assert "usage: opencode-magic" in capsys.readouterr().err
