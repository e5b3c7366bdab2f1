"""Whose processes a sandbox's are, where its folders may lie, and a bubblewrap that fails."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opencode_magic.errors import HomeUnavailableError
from opencode_magic.local import image, start
from opencode_magic.local.isolation import SandboxSpec
from opencode_magic.local.keeper import Keeper, KeeperPlace
from tests.local import keepers
from tests.local.keepers import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with keepers.sandbox() as made:
        yield made


def test_it_works_as_an_ordinary_user() -> None:
    """A user without any right gets the same walls: user 1000, no capability, our listener."""
    seen = json.loads(
        keepers.run_as_ordinary_user(
            """
import json, os, pathlib
from opencode_magic.local import image
from opencode_magic.local.commands import CommandSpec, run
from opencode_magic.local.isolation import SandboxSpec
from opencode_magic.local.keeper import Keeper, KeeperPlace
boxes = pathlib.Path(os.environ["BASE"], "boxes")
keeper = Keeper.start(KeeperPlace(boxes), SandboxSpec("u", boxes / "u"))
def sh(script):
    command = run(keeper, CommandSpec(["sh", "-c", script]), image.environment(has_opencode=False))
    command.wait(20)
    return b"".join(output.data for output in command.outputs()).decode()
text = sh("id -u; pwd; grep CapEff /proc/self/status; echo hi > /vercel/x; ls /home /root")
started = run(keeper, CommandSpec([image.inside_python().program, "-c",
    "import socket; socket.create_connection(('203.0.113.5', 443))"]), {})
keeper.listeners["tls4"].settimeout(10)
address = keeper.listeners["tls4"].accept()[0].getsockname()[0]
owner = (boxes / "u/home/x").stat().st_uid
keeper.close()
print(json.dumps([text, address, owner == os.getuid()]))
"""
        )
    )

    assert seen == [
        "1000\n/vercel\nCapEff:\t0000000000000000\n/home:\n\n/root:\n",
        "203.0.113.5",
        True,
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user has no spare user ids")
def test_as_root_the_kernel_sees_a_spare_user(box: Sandbox) -> None:
    """Files of the sandbox belong to a user id that nobody has, and never to root."""
    box.shell("touch /vercel/mine")

    assert (box.folder / "home/mine").stat().st_uid == box.keeper.uid
    assert box.keeper.uid not in {0, 1000}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has folders that only root may enter")
def test_as_root_everything_may_lie_in_closed_folders(tmp_path: Path) -> None:
    """Sandbox folders and binary under a folder of mode 0700 are reached all the same."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "state/deep").mkdir(parents=True, mode=0o700)
    binary = closed / "cache" / "opencode"
    binary.parent.mkdir(mode=0o700)
    binary.write_text("#!/bin/sh\necho 1.18.33\n")
    binary.chmod(0o755)
    boxes = closed / "state/deep/boxes"
    keeper = Keeper.start(
        KeeperPlace(boxes, binary), SandboxSpec("c", boxes / "c", opencode=binary)
    )
    made = Sandbox(keeper, boxes / "c")
    try:
        assert made.run(image.OPENCODE) == (0, "1.18.33\n")
        assert made.shell("echo hi > note && cat note") == (0, "hi\n")
    finally:
        keeper.close()


def test_kept_folders_can_be_entered_again(tmp_path: Path) -> None:
    """A second keeper on the same folder finds the files, and may change them."""
    tmp_path.chmod(0o755)
    boxes = tmp_path / "boxes"
    texts = []
    for script in ("echo one > a", "echo two >> a; cat a"):
        keeper = Keeper.start(KeeperPlace(boxes), SandboxSpec("r", boxes / "r"))
        texts.append(Sandbox(keeper, boxes / "r").shell(script))
        keeper.close()

    assert texts == [(0, ""), (0, "one\ntwo\n")]


def test_a_missing_bubblewrap_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without bubblewrap nothing is launched, and the error names the package."""
    monkeypatch.setattr(start, "_BARE_ENVIRONMENT", {"PATH": "/nonexistent"})

    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.raises(HomeUnavailableError, match=r"'bwrap' is not installed.*'bubblewrap'"),
    ):
        Keeper.prepare(KeeperPlace(Path(folder) / "boxes"))


def test_what_bubblewrap_says_is_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the walls cannot be built the error carries bubblewrap's own words."""
    monkeypatch.setattr(
        "opencode_magic.local.isolation.keeper_arguments", lambda: ["--no-such-option"]
    )

    with (
        tempfile.TemporaryDirectory(prefix="om-", dir="/tmp") as folder,
        pytest.raises(HomeUnavailableError, match="no-such-option"),
    ):
        Keeper.prepare(KeeperPlace(Path(folder) / "boxes"))
