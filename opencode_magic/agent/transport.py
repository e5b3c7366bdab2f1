"""HTTP to a server that may be hostile: a call ends in its time, and nothing is remembered.

httpx limits the time of each read, and a server that sends one byte a second stays below that for
ever: in the head, between chunks, or by 100 Continue without end. So each read of a call gets what
is left of the call's own time.
"""

from __future__ import annotations

import socket
import time
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import httpcore
import httpx

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator

_FAILURES = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
    httpcore.ProxyError,
)
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


@contextmanager
def within(timeout_s: float | None) -> Iterator[None]:
    """Let everything that this thread sends and reads in the block end in so many seconds.

    An outer block's earlier end counts too. None is no limit of its own.
    """
    outer = _deadline.get()
    ours = None if timeout_s is None else time.monotonic() + timeout_s
    token = _deadline.set(min((end for end in (outer, ours) if end is not None), default=None))
    try:
        yield
    finally:
        _deadline.reset(token)


class BoundedTransport(httpx.BaseTransport):
    """Sends requests by HTTP/1.1, each within its ``within``. Drops cookies, follows no proxy.

    Args:
        keep: How many idle connections are kept.
        is_tls: Whether certificates must be checked, which takes some time to prepare.
    """

    def __init__(self, *, keep: int, is_tls: bool) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(trust_env=False) if is_tls else None,
            max_connections=None,
            max_keepalive_connections=keep,
            keepalive_expiry=5.0,
            network_backend=_Backend(),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; the answer's body is still to be read."""
        assert isinstance(request.stream, httpx.SyncByteStream), "the client is a synchronous one"
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        with _as_httpx():
            answer = self._pool.handle_request(
                httpcore.Request(
                    method=request.method,
                    url=url,
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        assert not isinstance(answer.stream, bytes), "a pool's answer is still to be read"
        return httpx.Response(
            status_code=answer.status,
            headers=[pair for pair in answer.headers if pair[0].lower() != b"set-cookie"],
            stream=_Body(answer),
            extensions=answer.extensions,
        )

    def close(self) -> None:
        """Close all connections; threads that wait on one wake up."""
        with _as_httpx():
            self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx():
            yield from self._answer.iter_stream()

    def close(self) -> None:
        with _as_httpx():
            self._answer.close()


@contextmanager
def _as_httpx() -> Iterator[None]:
    """Raise httpcore's errors as httpx's of the same name."""
    try:
        yield
    except _FAILURES as error:
        raise _named_alike(error) from error


def _named_alike(error: Exception) -> httpx.TransportError:
    for kind in type(error).__mro__:
        found = getattr(httpx, kind.__name__, None)
        if isinstance(found, type) and issubclass(found, httpx.TransportError):
            return found(str(error))
    return httpx.TransportError(str(error))


class _Backend(httpcore.NetworkBackend):
    def __init__(self) -> None:
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        timeout = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(
            self._sockets.connect_tcp(host, port, timeout, local_address, socket_options)
        )


class _Stream(httpcore.NetworkStream):
    """A connection whose reads and writes end with the call that they are for."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        # A thread that waits in a read does not notice that its descriptor was closed.
        with suppress(OSError):
            self.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        timeout = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - httpcore's own signature
        return self._stream.get_extra_info(info)


def _left(timeout_s: float | None, error: type[httpcore.TimeoutException]) -> float | None:
    """Give how long the next step may take.

    Raises:
        TimeoutException: Of this kind: the call's time is up.
    """
    deadline = _deadline.get()
    if deadline is None:
        return timeout_s
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise error("the call took too long")
    return left_s if timeout_s is None else min(timeout_s, left_s)
