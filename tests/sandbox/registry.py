"""A package registry on loopback that serves one small package, and can be made to misbehave."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import tarfile
import threading
from typing import TYPE_CHECKING

from opencode_magic.core.opencode import BINARY_IN_TARBALL, VERSION, PlatformPackage

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "opencode-test-platform"


def make_tarball(
    content: bytes = b"#!/bin/sh\necho pinned\n", name: str = BINARY_IN_TARBALL
) -> bytes:
    """A package's tarball with one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, data in (
            (name, content),
            ("package/package.json", json.dumps({"name": NAME, "version": VERSION}).encode()),
        ):
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def package_of(tarball: bytes) -> PlatformPackage:
    """The package whose pinned hash is this tarball's."""
    return PlatformPackage(NAME, integrity_of(tarball))


def integrity_of(tarball: bytes) -> str:
    """The way npm writes a SHA-512."""
    return f"sha512-{base64.b64encode(hashlib.sha512(tarball).digest()).decode()}"


class Registry:
    """Serves the given tarballs, one a fetch, the last one for ever after."""

    def __init__(self, tarballs: Sequence[bytes]) -> None:
        self._tarballs = list(tarballs)
        self.fetches = 0
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                is_tarball = self.path.endswith(".tgz")
                body = registry.take() if is_tarball else registry.metadata()
                self.send_response(200)
                kind = "application/octet-stream" if is_tarball else "application/json"
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def url(self) -> str:
        """For npm's ``registry`` setting."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def take(self) -> bytes:
        """The next tarball."""
        self.fetches += 1
        return self._tarballs.pop(0) if len(self._tarballs) > 1 else self._tarballs[0]

    def metadata(self) -> bytes:
        """What npm asks first; its integrity is always that of the next tarball."""
        dist = {
            "tarball": f"{self.url}{NAME}/-/{NAME}-{VERSION}.tgz",
            "integrity": integrity_of(self._tarballs[0]),
        }
        version = {"name": NAME, "version": VERSION, "dist": dist}
        whole = {"name": NAME, "dist-tags": {"latest": VERSION}, "versions": {VERSION: version}}
        return json.dumps(whole).encode()

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
