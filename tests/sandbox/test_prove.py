from __future__ import annotations

from opencode_magic.core.policy_wire import parse_policy
from opencode_magic.sandbox.prove import ProofTarget, choose_target


def test_usual_target_is_asked_for() -> None:
    """Where nothing but the model is allowed the usual host must be refused."""
    policy = parse_policy({"allow": {"model.example": []}})

    assert choose_target(policy, ProofTarget()).name == "example.com"


def test_allowed_target_makes_room() -> None:
    """A host that the user allowed shows nothing of the wall."""
    policy = parse_policy({"allow": {"example.com": [], "example.org": []}})

    assert choose_target(policy, ProofTarget()).name == "example.net"


def test_open_wall_keeps_its_target() -> None:
    """Where everything is allowed the proof asks all the same, and fails."""
    assert choose_target(parse_policy({"mode": "allow-all"}), ProofTarget()).name == "example.com"


def test_named_target_stays() -> None:
    """A target that was named is asked for, whatever the policy says."""
    target = ProofTarget("canary.example", ("127.0.0.1", 1))

    assert choose_target(parse_policy({"allow": {"canary.example": []}}), target) == target
