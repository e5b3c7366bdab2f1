"""What the local home finds on this machine: its own doctor's checks, asked for as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import get_args

from opencode_magic.core.checks import Check, CheckState
from opencode_magic.sandbox.connect import server_environment

TIMEOUT_S = 20.0
_SEEN = ("KUBERNETES_SERVICE_HOST",)
"""Variables that tell the doctor where it is."""


def local_checks() -> tuple[Check, ...]:
    """Give the local home's checks of this machine; none where they cannot be had. Never raises.

    A sandbox is built and ended for it, which takes 0.2 s.
    """
    env = {name: os.environ[name] for name in _SEEN if name in os.environ}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "opencode_magic.local", "doctor", "--json"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            cwd="/",
            env={**server_environment(), **env},
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse_checks(done.stdout)


def parse_checks(printed: bytes) -> tuple[Check, ...]:
    """Read the checks that were printed; none where one of them is malformed. Never raises."""
    try:
        return tuple(_parse_check(value) for value in json.loads(printed))
    except (ValueError, TypeError, KeyError):
        return ()


def _parse_check(value: dict[str, object]) -> Check:
    states: tuple[CheckState, ...] = get_args(CheckState)
    [state] = [known for known in states if known == value["state"]]
    texts = (str(value[name]) for name in ("detail", "next_step"))
    return Check(str(value["name"]), state, *texts)
