"""Files into and out of a running sandbox, by programs that run inside it.

The sandbox itself is the confinement: a name with dots, a link to elsewhere or a race between two
programs leads nowhere that the agent could not go anyway. The host opens none of these paths.
"""

from __future__ import annotations

import os
import posixpath
import select
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from opencode_magic.errors import SandboxError
from opencode_magic.local.payloads import CWD, ApiError, bad_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opencode_magic.local.box import Box

CHUNK_BYTES = 256 * 1024
STALL_TIMEOUT_S = 60.0
"""A program that neither takes nor gives a byte for so long is killed."""
STDERR_LIMIT_BYTES = 8192
PATH_LIMIT_BYTES = 64 * 1024
"""More than a path can have, and less than one argument of a program can."""
_GZIP_MAGIC = b"\x1f\x8b"
_ENV = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
"""Nothing of the agent's: its own folders come first in the usual PATH."""
_READ_SCRIPT = """\
if [ ! -e "$1" ]; then exit 44; fi
if [ -d "$1" ]; then exit 45; fi
if [ ! -f "$1" ]; then exit 46; fi
if [ ! -r "$1" ]; then exit 47; fi
exec cat -- "$1"
"""
_READ_ERRORS = {
    44: (404, "not_found", "no such file or directory"),
    45: (400, "is_directory", "is a directory"),
    46: (400, "not_a_file", "is not a regular file"),
    47: (403, "permission_denied", "permission denied"),
}


class Program:
    """A program inside that takes bytes, or gives them, or both."""

    def __init__(self, box: Box, argv: Sequence[str]) -> None:
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
        (child_in, self._in), (self._out, child_out), (self._err, child_err) = pipes
        try:
            self._child = box.keeper.spawn(
                argv,
                env=_ENV,
                cwd="/",
                stdin=child_in,
                stdout=child_out,
                stderr=child_err,
            )
        except SandboxError as exc:
            self._close(self._in, self._out, self._err)
            if box.is_alive:
                raise ApiError(500, "command_failed", exc.message) from exc
            raise _stopped() from exc
        finally:
            self._close(child_in, child_out, child_err)
        self._box = box
        os.set_blocking(self._in, False)
        self._is_open = {self._in, self._out}
        self._complaint = b""
        self._io = threading.Lock()
        """Held while a pipe is in use: its number may be another file's once it is closed."""
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()

    def write(self, data: bytes) -> bool:
        """Give it bytes; False when it takes no more."""
        view = memoryview(data)
        with self._io:
            while view:
                if self._in not in self._is_open or not _is_ready(self._in, select.POLLOUT):
                    self.kill()
                    return False
                try:
                    view = view[os.write(self._in, view) :]
                except BlockingIOError:
                    continue
                except OSError:
                    return False
        return True

    def end_input(self) -> None:
        """Let it see the end of its input. Twice is harmless."""
        with self._io:
            self._close(*({self._in} & self._is_open))
            self._is_open.discard(self._in)

    def read(self) -> bytes:
        """Give some of its output; empty at the end."""
        with self._io:
            if self._out not in self._is_open:
                return b""
            if not _is_ready(self._out, select.POLLIN):
                self.kill()
                return b""
            return os.read(self._out, CHUNK_BYTES)

    def finish(self) -> tuple[int, str]:
        """Wait for its end; gives the exit code and the first line that it complained with.

        Raises:
            ApiError: It ended because its sandbox did.
        """
        self.end_input()
        code = self._child.wait(STALL_TIMEOUT_S)
        self._reader.join(1.0)
        lines = self._complaint.decode(errors="replace").strip().splitlines()
        self.close()
        if code and not self._box.is_alive:
            raise _stopped()
        return code, lines[0] if lines else ""

    def kill(self) -> None:
        """End it."""
        with suppress(SandboxError):
            self._child.signal(signal.SIGKILL)

    def close(self) -> None:
        """End it if it still runs, and give its pipes back. Twice is harmless."""
        if not self._child.exited.done():
            self.kill()
        with self._io:
            open_now, self._is_open = self._is_open, set()
            self._close(*open_now)

    def _read_errors(self) -> None:
        while data := os.read(self._err, STDERR_LIMIT_BYTES):
            if len(self._complaint) < STDERR_LIMIT_BYTES:
                self._complaint += data
        self._close(self._err)

    @staticmethod
    def _close(*descriptors: int) -> None:
        for descriptor in descriptors:
            os.close(descriptor)


def _stopped() -> ApiError:
    return ApiError(410, "sandbox_stopped", "Sandbox is stopped")


def resolve(path: object, cwd: object) -> str:
    """Give the absolute path inside that a body means.

    Raises:
        ApiError: It is no path.
    """
    if not isinstance(path, str) or not path or "\0" in path:
        raise bad_request("path must be text without a zero character")
    if cwd is not None and (not isinstance(cwd, str) or "\0" in cwd):
        raise bad_request("cwd must be text without a zero character")
    joined = posixpath.join(CWD, cwd or "", path)
    if len(joined.encode()) > PATH_LIMIT_BYTES:
        raise bad_request(f"path must have at most {PATH_LIMIT_BYTES} bytes")
    return joined


def open_archive(box: Box, folder: str, head: bytes) -> Program:
    """Start to unpack a gzip'd tar below a folder, as the sandbox's user; parents are made.

    Args:
        box: The running sandbox.
        folder: Where the member names start from.
        head: The first bytes of the archive, which are written as well.

    Raises:
        ApiError: It is no gzip.
    """
    if not head.startswith(_GZIP_MAGIC):
        raise ApiError(415, "unsupported_media_type", "the body must be a gzip'd tar archive")
    # The SDK gives every member the time 0, and nobody means 1970 by it.
    argv = ("tar", "--extract", "--gzip", "--preserve-permissions", "--no-same-owner", "--touch")
    program = Program(box, (*argv, "--no-overwrite-dir", "-C", folder, "--file=-"))
    program.write(head)
    return program


def end_archive(program: Program) -> None:
    """Wait until everything is unpacked.

    Raises:
        ApiError: A member could not be written; names the first reason that is known.
    """
    code, complaint = program.finish()
    if code:
        is_full = "No space left" in complaint or "quota" in complaint.lower()
        status, name = (507, "disk_full") if is_full else (400, "write_failed")
        raise ApiError(status, name, f"the files could not be written: {complaint or code}")


def open_file(box: Box, path: str) -> tuple[Program, bytes]:
    """Start to read a regular file.

    Returns:
        The program to read on from, and what came first; empty where the file is.

    Raises:
        ApiError: There is no such file, or it cannot be read.
    """
    program = Program(box, ("sh", "-c", _READ_SCRIPT, "read-file", path))
    program.end_input()
    first = program.read()
    if not first:
        code, complaint = program.finish()
        if code:
            default = (500, "read_failed", complaint or f"exit code {code}")
            status, name, reason = _READ_ERRORS.get(code, default)
            raise ApiError(status, name, f"{path}: {reason}")
    return program, first


def make_folder(box: Box, path: str, *, is_recursive: bool) -> None:
    """Make a folder; with its parents, and without complaint where it stands, if recursive.

    Raises:
        ApiError: It cannot be made.
    """
    program = Program(box, ("mkdir", *(("-p",) if is_recursive else ()), "--", path))
    code, complaint = program.finish()
    if code:
        is_missing = "No such file" in complaint
        raise ApiError(
            404 if is_missing else 400, "not_found" if is_missing else "mkdir_failed", complaint
        )


def _is_ready(descriptor: int, event: int) -> bool:
    """Wait for a pipe; `select` could not, once the server has a thousand files open."""
    waiting = select.poll()
    waiting.register(descriptor, event)
    return bool(waiting.poll(STALL_TIMEOUT_S * 1000))
