from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from opencode_magic.core.policy_wire import parse_policy
from opencode_magic.local import key_search
from tests.local.keepers import eventually, sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.local.keepers import Sandbox

VALUE = "planted-vck-0123456789abcdefghij"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the local home needs Linux")


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with sandbox() as running:
        yield running


def search(box: Sandbox) -> key_search.Found:
    return key_search.search([VALUE.encode()], box.folder, box.keeper.pid)


def test_a_clean_sandbox_has_no_hit(box: Sandbox) -> None:
    """Where nothing holds the value, all of its files and processes were read."""
    box.shell("echo hello > note.txt; ln -s / root; mkfifo pipe")
    command = box.start("sleep", "60")

    found = search(box)
    command.signal(9)

    assert found.hits == []
    assert found.is_whole
    assert found.files >= 1
    assert found.processes >= 3


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (f"printf %s x{VALUE}x > note.txt", "a file"),
        (f"mkdir -p a/.b/c; printf %s {VALUE} > a/.b/c/d; chmod 400 a/.b/c/d", "a file"),
        (f"head -c 3000000 /dev/zero > big; printf %s {VALUE} >> big", "a file"),
        (f"printf %s {VALUE} > /tmp/note", "a file"),
        (f"printf %s {VALUE} > /dev/shm/note", "a file"),
        (f"printf %s {VALUE} > /run/note", "a file"),
        (f"touch {VALUE}", "the name of a file"),
        (f"ln -s {VALUE} link", "a link"),
    ],
)
def test_a_value_in_a_file_is_found(box: Sandbox, script: str, kind: str) -> None:
    """Wherever a program inside can write."""
    code, _ = box.shell(script)

    found = search(box)

    assert code == 0
    assert found.hits == [kind]


def test_a_value_across_two_reads_is_found(box: Sandbox) -> None:
    """A value that begins in one piece of a file and ends in the next one is found."""
    head = 1024 * 1024 - len(VALUE) // 2
    box.shell(f"head -c {head} /dev/zero > big; printf %s {VALUE} >> big")

    assert search(box).hits == ["a file"]


@pytest.mark.parametrize("kind", ["the environment", "the arguments"])
def test_a_value_in_a_process_is_found(box: Sandbox, kind: str) -> None:
    """Environment and arguments of what runs inside are read."""
    if kind == "the environment":
        command = box.start("sleep", "60", env={"LEAK": f"x{VALUE}"})
    else:
        command = box.start("sh", "-c", f"sleep 60 # {VALUE}")
    is_found = eventually(lambda: search(box).hits == [f"{kind} of a process"], timeout_s=5)
    command.signal(9)

    assert is_found


def test_a_link_out_of_the_sandbox_is_not_followed(box: Sandbox, tmp_path: Path) -> None:
    """What stands on the host is not the sandbox's, even where a link names it."""
    (tmp_path / "host").write_text(VALUE)
    box.shell(f"ln -s {tmp_path} folder; ln -s {tmp_path}/host file")

    assert search(box).hits == []


def test_what_cannot_be_read_whole_is_said(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree deeper than the limit, or more than there is time for, is not passed off as read."""
    box.shell("i=0; while [ $i -lt 80 ]; do mkdir d; cd d; i=$((i+1)); done; echo x > deep")
    is_deep_whole = search(box).is_whole
    box.shell("rm -rf d; echo x > note.txt")
    monkeypatch.setattr(key_search, "TIME_LIMIT_S", 0.0)

    assert not is_deep_whole
    assert not search(box).is_whole


def test_values_are_those_that_the_policy_injects() -> None:
    """Each injected value without its scheme; one too short to tell from chance is left out."""
    headers = [{"authorization": f"Bearer {VALUE}"}, {"x-api-key": f"{VALUE}-2", "x-kind": "one"}]
    rules = [{"transform": [{"headers": each}]} for each in headers]
    policy = parse_policy({"allow": {"api.example.com": rules}})

    assert key_search.injected_values(policy) == (VALUE.encode(), f"{VALUE}-2".encode())
