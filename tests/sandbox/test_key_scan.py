from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from opencode_magic.sandbox.key_scan import KeyScan

KEY = "vck_planted-0123456789-abcdef"
SCRIPT = Path(__file__).parents[2] / "opencode_magic" / "sandbox" / "probes.js"


def search(opencode: Path, folder: Path, scan: KeyScan, **limits: int) -> list[object]:
    """What a search of a folder hit."""
    hits = run_search(opencode, folder, scan, **limits)["hits"]
    assert isinstance(hits, list)
    return hits


def run_search(opencode: Path, folder: Path, scan: KeyScan, **limits: int) -> dict[str, object]:
    """Run the search of the probes on a folder, with OpenCode's own runtime."""
    text = SCRIPT.read_text(encoding="utf-8").partition("Promise.all([")[0]
    own = scan.plan([str(folder)], skip=str(folder / "skipped")) | {"processes": str(folder)}
    plan = {"key": own | limits}
    done = subprocess.run(
        [str(opencode), "-e", f"const PLAN = {json.dumps(plan)};\n{text}\nfindKey();"],
        env={"BUN_BE_BUN": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


@pytest.mark.parametrize(
    "content",
    [
        KEY.encode(),
        b"x" * 100_000 + KEY.encode(),
        b"\x00\xff\xfe" * 33 + KEY.encode() + b"\xff",
        json.dumps({"options": {"apiKey": KEY}}).encode(),
        KEY[:-1].encode() + KEY.encode(),
        b"x" * (1024 * 1024 + 20) + KEY.encode(),
        b"x" * (17 * 1024 * 1024) + KEY.encode(),
    ],
)
def test_key_is_found_wherever_it_stands(
    opencode_binary: Path, tmp_path: Path, content: bytes
) -> None:
    """The rolling hash finds the key at the start, at the end, and inside binary."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(content)
    scan = KeyScan(KEY)

    assert scan.is_among(search(opencode_binary, tmp_path, scan))


def test_nothing_is_found_where_nothing_is(opencode_binary: Path, tmp_path: Path) -> None:
    """A key less its last character, another key, and a skipped file are no find."""
    (tmp_path / "file").write_text(f"{KEY[:-1]} {KEY.upper()} {KEY[::-1]}")
    (tmp_path / "skipped").write_text(KEY)
    scan = KeyScan(KEY)

    assert not scan.is_among(search(opencode_binary, tmp_path, scan))


@pytest.mark.parametrize("border", range(60, 100, 3))
def test_key_across_two_chunks_is_found(opencode_binary: Path, tmp_path: Path, border: int) -> None:
    """A large file is read in pieces, and a key that two of them share is one key."""
    (tmp_path / "file").write_bytes(b"x" * border + KEY.encode() + b"x" * 100)
    scan = KeyScan(KEY)

    assert scan.is_among(search(opencode_binary, tmp_path, scan, chunkBytes=64))


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({}, "whole"),
        ({"limitBytes": 10}, "not whole"),
        ({"timeoutMs": -1}, "not whole"),
        ({"depth": 1}, "not whole"),
        ({"depth": 2}, "whole"),
    ],
)
def test_search_says_what_it_left_out(
    opencode_binary: Path, tmp_path: Path, limits: dict[str, int], said: str
) -> None:
    """Whatever ended a search early, it does not pass for one of all files."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"x" * 100)

    answer = run_search(opencode_binary, tmp_path, KeyScan(KEY), **limits)

    assert answer["isWhole"] == (said == "whole")


def test_plan_gives_nothing_away() -> None:
    """What goes inside holds no part of the key, and differs each time."""
    plans = [json.dumps(KeyScan(KEY).plan(["/"], "")) for _ in range(2)]

    pieces = {KEY[i : i + 4] for i in range(len(KEY) - 3)}
    assert not any(piece in plan for piece in pieces for plan in plans)
    assert plans[0] != plans[1]


def test_short_key_is_not_looked_for() -> None:
    """24 bits of a short key would give some of it away."""
    assert KeyScan.of("Bearer short") is None
    assert KeyScan.of(f"Bearer {KEY}") is not None
