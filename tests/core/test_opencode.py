from __future__ import annotations

import base64

import pytest

from opencode_magic.core.opencode import PACKAGES, package_for, package_name
from opencode_magic.errors import BinaryError


@pytest.mark.parametrize(
    ("machine", "is_musl", "has_avx2", "name"),
    [
        ("x86_64", False, True, "opencode-linux-x64"),
        ("x86_64", False, False, "opencode-linux-x64-baseline"),
        ("AMD64", True, True, "opencode-linux-x64-musl"),
        ("x86_64", True, False, "opencode-linux-x64-baseline-musl"),
        ("aarch64", False, False, "opencode-linux-arm64"),
        ("riscv64", False, True, "opencode-linux-riscv64"),
    ],
)
def test_package_is_named_for_its_platform(
    machine: str,
    is_musl: bool,  # noqa: FBT001 - a table's column
    has_avx2: bool,  # noqa: FBT001 - a table's column
    name: str,
) -> None:
    """Machine, C library and AVX2 decide which package holds the binary."""
    assert package_name(machine, is_musl=is_musl, has_avx2=has_avx2) == name


@pytest.mark.parametrize("package", PACKAGES.values(), ids=list(PACKAGES))
def test_every_known_hash_is_a_sha512(package: object) -> None:
    """Each integrity value is a whole base64 SHA-512."""
    integrity = str(getattr(package, "integrity", ""))
    algorithm, _, digest = integrity.partition("-")

    assert (algorithm, len(base64.b64decode(digest, validate=True))) == ("sha512", 64)


def test_platform_without_a_known_hash_is_refused() -> None:
    """Where no hash is known the platform is refused by its package's name."""
    with pytest.raises(BinaryError, match="opencode-linux-arm64"):
        package_for("aarch64")


def test_usual_platform_is_known() -> None:
    """A Linux machine with AVX2 and glibc has a package."""
    assert package_for("x86_64") == PACKAGES["opencode-linux-x64"]
