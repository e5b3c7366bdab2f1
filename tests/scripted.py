"""Starts the scripted model for tests, and writes its directives."""

from __future__ import annotations

import base64
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opencode_magic.local.demo_model import DemoModel

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def scripted_model(*, key: str = "") -> Iterator[DemoModel]:
    """Give a scripted model that runs on a loopback port until the block ends.

    Args:
        key: Where set, requests without this key are answered 401.
    """
    with DemoModel(key=key) as model:
        yield model


def script(*directives: str) -> str:
    """Give a prompt of directives: ``script("bash ls", "say Done.")``."""
    return "\n".join(f"!scripted {directive}" for directive in directives)


def markdown(text: str) -> str:
    """Give the directive that makes the model say exactly this text."""
    return f"markdown {base64.b64encode(text.encode()).decode()}"
