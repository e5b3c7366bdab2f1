"""What the SDK and its HTTP library raise -> our errors, without tokens and without locals."""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opencode_magic.errors import CredentialsError, OpencodeMagicError, SandboxConnectionError
from opencode_magic.sandbox.credentials import RENEW_STEP

if TYPE_CHECKING:
    from collections.abc import Iterator

_GONE_STATUSES = {404, 410}
_TAKEN_CODES = {"conflict", "name_taken", "already_exists"}
_GONE_CODES = {"sandbox_stopped", "sandbox_stopping", "not_found"}


@dataclass(frozen=True, slots=True)
class Fault:
    """What went wrong in words, and the next step where there is one."""

    message: str
    next_step: str = ""
    is_gone: bool = False
    """The sandbox is not there (any more)."""
    has_answered: bool = False
    """The home answered: nothing of this call is still under way there."""
    is_refused: bool = False
    """The home refused: nothing of this call was done."""
    is_taken: bool = False
    """A sandbox of that name is there already."""
    is_credentials: bool = False


def describe(exc: BaseException) -> Fault:  # noqa: PLR0911 - one return a kind
    """Say what an exception of a call to the home means. Never holds a token."""
    import httpx2  # noqa: PLC0415 - takes 0.1 s; known by now where a call was made
    from vercel.sandbox.sync import (  # noqa: PLC0415 - as above
        SandboxApiError,
        SandboxError,
        SandboxFilesystemWriteError,
    )

    if isinstance(exc, OpencodeMagicError):
        return Fault(exc.message, exc.next_step, is_credentials=isinstance(exc, CredentialsError))
    if isinstance(exc, SandboxFilesystemWriteError) and isinstance(exc.__cause__, Exception):
        exc = exc.__cause__
    if isinstance(exc, SandboxApiError):
        return _api_fault(exc.status_code, str(exc.code or ""), _said(exc.data))
    if isinstance(exc, httpx2.TimeoutException):
        return Fault("the sandbox's home did not answer in time", "try again")
    if isinstance(exc, httpx2.HTTPError):
        return Fault(f"the sandbox's home cannot be reached: {exc}", "run %opencode_doctor")
    if isinstance(exc, SandboxError):
        return Fault(f"the sandbox's home answered oddly: {exc}")
    if isinstance(exc, OSError) and exc.errno in {errno.ENOSPC, errno.EDQUOT}:
        return Fault("the disk is full", "free some room, or set OPENCODE_MAGIC_STATE_DIR")
    return Fault(f"{type(exc).__name__}: {exc}")


@contextlib.contextmanager
def as_connection_error() -> Iterator[None]:
    """Raise what a call to the home raises as one of our errors.

    The cause is not shown, and its frames are let go: their locals hold tokens.
    """
    try:
        yield
    except OpencodeMagicError:
        raise
    except Exception as exc:  # noqa: BLE001 - the SDK's HTTP library raises its own kinds
        fault = describe(exc)
        exc.__traceback__ = None
        kind = CredentialsError if fault.is_credentials else SandboxConnectionError
        raise kind(fault.message, next_step=fault.next_step) from None


def _api_fault(status: int, code: str, said: str) -> Fault:
    said, _, said_step = said.partition(" Next: ")
    detail = f"{said.removesuffix('.') or code or 'no reason given'} (HTTP {status})"
    is_gone = status in _GONE_STATUSES or code in _GONE_CODES
    if status in {401, 403}:
        return Fault(
            f"the home refused the credentials: {detail}",
            f"{RENEW_STEP}, and check that the project may use Sandboxes",
            has_answered=True,
            is_refused=True,
            is_credentials=True,
        )
    next_steps = {
        402: "the plan's quota is used up, or the plan does not have this: see vercel.com/usage",
        429: "too many calls: wait a minute and try again",
    }
    step = next_steps.get(status, said_step)
    if status == 400 and "timeout" in said.lower():  # noqa: PLR2004 - HTTP's bad request
        step = "the plan allows less time: set OPENCODE_MAGIC_TIME_LIMIT_S lower"
    is_refused = status < 500  # noqa: PLR2004 - a server error may come after the deed
    is_taken = status in {400, 409} and ("exist" in said or code in _TAKEN_CODES)
    return Fault(
        f"the home refused: {detail}",
        step,
        is_gone=is_gone,
        has_answered=True,
        is_refused=is_refused,
        is_taken=is_taken,
    )


def _said(data: object) -> str:
    if isinstance(data, dict) and isinstance(data.get("error"), dict):
        message = data["error"].get("message")
        return message if isinstance(message, str) else ""
    return ""
