"""What a sandbox may use of the machine, as a caller asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from opencode_magic.local.isolation import MIB, default_memory_bytes
from opencode_magic.local.payloads import bad_request

if TYPE_CHECKING:
    from collections.abc import Mapping

MEMORY_MB_PER_VCPU = 2048
MEMORY_LEAST_MB = 256
VCPUS_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Resources:
    """Processors and memory. Processors are held to where a control group can be had."""

    vcpus: int = 2
    memory_limit_mb: int | None = None
    """What was asked for, by itself or with the processors; None where neither was."""

    @property
    def memory_mb(self) -> int:
        """How much memory goes with the processors, as Vercel counts it, unless told otherwise."""
        return self.memory_limit_mb or self.vcpus * MEMORY_MB_PER_VCPU

    @property
    def memory_bytes(self) -> int:
        """What all processes may use together: as asked, and never more than is good for the host.

        Where nothing was asked for it is the host's own limit alone.
        """
        most = default_memory_bytes()
        return most if self.memory_limit_mb is None else min(most, self.memory_limit_mb * MIB)

    @property
    def wanted_vcpus(self) -> int | None:
        """How many processors it may use, where that was asked for; None is all there are."""
        return None if self.memory_limit_mb is None else self.vcpus

    def to_json(self) -> dict[str, object]:
        """Give the disk form."""
        return {"vcpus": self.vcpus, "memory_limit_mb": self.memory_limit_mb}


def parse_resources(body: Mapping[str, object]) -> Resources:
    """Parse the ``resources`` of a body.

    Raises:
        ApiError: A field is unknown or malformed.
    """
    if unknown := body.keys() - {"vcpus", "memory"}:
        raise bad_request(f"resources must not have {min(unknown)!r}")
    vcpus = _number(body, "vcpus", range(1, VCPUS_LIMIT + 1))
    memory_mb = _number(
        body, "memory", range(MEMORY_LEAST_MB, VCPUS_LIMIT * MEMORY_MB_PER_VCPU + 1)
    )
    if vcpus is None:
        vcpus = 2 if memory_mb is None else -(-memory_mb // MEMORY_MB_PER_VCPU)
        return Resources(vcpus, memory_mb)
    return Resources(vcpus, vcpus * MEMORY_MB_PER_VCPU if memory_mb is None else memory_mb)


def _number(body: Mapping[str, object], name: str, allowed: range) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value not in allowed:
        first, last = allowed[0], allowed[-1]
        raise bad_request(f"resources.{name} must be a number from {first} to {last}")
    return value
