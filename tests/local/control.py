"""A world without a wall, run as a program in a bare namespace: whatever is asked answers.

So each attempt to get out can be seen to succeed.

Its arguments: a certificate and its key (PEM), the Python that makes the attempts, its arguments.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from opencode_magic.local.keeper_inside import add_any_ip_route

if TYPE_CHECKING:
    from collections.abc import Callable

ADDRESSES = ("203.0.113.9", "2001:db8::9", "127.0.0.1")
TCP_PORTS = (22, 25, 53, 80, 443, 853, 3128, 8443, 9999, 65535)
UDP_PORTS = (1, 53, 123, 443, 9999, 65535)
ANSWER = b"HTTP/1.1 200 OK\r\n\r\ncanary!"
FIRST = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
AWAY = b"HTTP/1.1 302 Found\r\nLocation: https://away.example/\r\n\r\n"
QUIET_S = 0.05
LIMIT_S = 10
IPV6_FREEBIND = 78


def set_up() -> None:
    """Make every address one of this namespace's own, and let its user ping."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up
    add_any_ip_route(socket.AF_INET)
    add_any_ip_route(socket.AF_INET6)
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0")


def read_all(sock: socket.socket) -> bytes:
    """Read until the end of a head, or until nothing more comes."""
    data = b""
    with contextlib.suppress(TimeoutError):
        while b"\r\n\r\n" not in data and (more := sock.recv(65536)):
            data += more
            # What has begun as a request goes on; the rest may be all that comes.
            sock.settimeout(LIMIT_S if data.startswith((b"GET ", b"CONNECT ")) else QUIET_S)
    sock.settimeout(LIMIT_S)
    return data


def talk(sock: socket.socket, port: int, context: ssl.SSLContext) -> None:
    """Answer whatever is said, in TLS where it is TLS, also behind a CONNECT."""
    sock.settimeout(LIMIT_S)
    if not isinstance(sock, ssl.SSLSocket) and sock.recv(1, socket.MSG_PEEK) == b"\x16":
        sock = context.wrap_socket(sock, server_side=True)
    data = read_all(sock)
    if port == 53:
        sock.sendall(data[:8] + b"\0\1" + data[10:])
    elif data.startswith(b"CONNECT "):
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        talk(sock, port, context)
    elif b"\r\nUpgrade: websocket\r\n" in data:
        sock.sendall(SWITCH)
        sock.sendall(ANSWER if sock.recv(64) else b"")
    elif data.startswith(b"GET /first"):
        sock.sendall(FIRST)
        if b"GET / " in data or read_all(sock):
            sock.sendall(ANSWER)
    else:
        sock.sendall(AWAY if data.startswith(b"GET /away") else ANSWER)
        sock.close()


def serve_tcp(port: int, context: ssl.SSLContext) -> None:
    """Answer on one port of every address."""
    listener = socket.socket(socket.AF_INET6)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", port))
    listener.listen(1024)

    def one(sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            talk(sock, port, context)

    def run() -> None:
        while True:
            start(one, listener.accept()[0])

    start(run)


def serve_udp(address: str, port: int) -> None:
    """Answer datagrams on one port of one address, as DNS does where it is that."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)  # no interface has the address
    sock.bind((address, port))

    def run() -> None:
        while True:
            data, sender = sock.recvfrom(65536)
            sock.sendto(data[:6] + b"\0\1" + data[8:] + b"canary!", sender)

    start(run)


def start(job: Callable[..., None], *arguments: object) -> None:
    """Run a job beside the others until the end of the program."""
    threading.Thread(target=job, args=arguments, daemon=True).start()


def main(certificate: str, *command: str) -> int:
    """Set the world up and make the attempts in it."""
    set_up()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pem = os.memfd_create("pem")
    os.write(pem, certificate.encode())
    context.load_cert_chain(f"/proc/self/fd/{pem}")
    context.set_alpn_protocols(["http/1.1"])
    for port in TCP_PORTS:
        serve_tcp(port, context)
    for address in ADDRESSES:
        for port in UDP_PORTS:
            serve_udp(address, port)
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    # At once: threads that still talk TLS while Python ends may crash it.
    os._exit(main(*sys.argv[1:]))
