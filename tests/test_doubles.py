from __future__ import annotations

import inspect

from opencode_magic.core.status import Status, reduce
from opencode_magic.sandbox.handle import Sandbox
from opencode_magic.session.seams import RunningSandbox
from tests.doubles import PROOF, StandInSandbox


def test_the_stand_in_has_what_the_real_sandbox_has() -> None:
    """Everything that a session asks of a sandbox is on both, with the same arguments."""
    for name, member in vars(RunningSandbox).items():
        if name.startswith("_") or not inspect.isfunction(member):
            continue
        wanted = set(inspect.signature(member).parameters)
        for kind in (Sandbox, StandInSandbox):
            assert wanted <= set(inspect.signature(getattr(kind, name)).parameters), (kind, name)


def test_a_proof_of_the_stand_in_is_told() -> None:
    """It emits what the real one emits."""
    status = Status(phase="locked")

    def emit(event: object) -> None:
        nonlocal status
        status = reduce(status, event)  # type: ignore[arg-type]  # what the stand-in emits

    assert StandInSandbox(emit=emit).prove() is PROOF
    assert status.proof is PROOF


def test_the_stand_in_ends_once() -> None:
    """After its end it is not alive."""
    sandbox = StandInSandbox()

    sandbox.terminate()

    assert not sandbox.is_alive()
