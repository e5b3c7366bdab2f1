"""The program that owns a sandbox's network namespace: routes and listeners for the host.

Started by ``keeper.py`` through bubblewrap as user 0 of a user namespace of its own, with a few
capabilities there and none on the host. Needs the standard library only.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import select
import signal
import socket
import struct
from typing import TYPE_CHECKING

from opencode_magic.local.bpf import attempts_filter
from opencode_magic.local.usage import (
    count,
    deleted_bytes,
    hidden_bytes,
    proportional_bytes,
    unseen_files,
    usage,
    waiting_bytes,
)
from opencode_magic.local.wire import MessageReader, WireError, send_message

if TYPE_CHECKING:
    from collections.abc import Sequence

PROXY_PORT = 3128
BACKLOG = 1024
IP_PKTINFO = 8
ETH_P_ALL = 3
SO_ATTACH_FILTER = 26
PACKET_HEAD_BYTES = 128

_WATCHERS = {"instances": 4, "watches": 2}
"""What part of a user's a sandbox gets."""
_TCP_BUFFER_BYTES = 1 << 20
_RTM_NEWROUTE = 24
_REQUEST_ACK_CREATE = 0x1 | 0x4 | 0x400
_TABLE_LOCAL, _PROTO_STATIC, _SCOPE_HOST, _TYPE_LOCAL = 255, 4, 254, 2
_RTA_OIF = 4
_UNSUPPORTED = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT}


def main(control_fd: int) -> int:
    """Set the network up, hand the listeners out, then serve requests until the host is gone."""
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    limit_watchers()
    limit_buffers()
    families = [socket.AF_INET]
    add_any_ip_route(socket.AF_INET)
    try:
        add_any_ip_route(socket.AF_INET6)
        families.append(socket.AF_INET6)
    except OSError as exc:
        if exc.errno not in _UNSUPPORTED:
            raise
    listeners = make_listeners(families)
    fds = [listener.fileno() for listener in listeners.values()]
    send_message(control, {"event": "ready", "listeners": list(listeners)}, fds)
    for listener in listeners.values():
        listener.close()
    return serve(control)


def limit_watchers() -> None:
    """Leave some watchers of files to the user, whose the sandbox's are too to the kernel."""
    for name, part in _WATCHERS.items():
        with contextlib.suppress(OSError, ValueError):
            with open(f"/proc/sys/fs/inotify/max_user_{name}") as host:  # noqa: PTH123 - light imports
                most = int(host.read()) // part
            with open(f"/proc/sys/user/max_inotify_{name}", "w") as ours:  # noqa: PTH123 - the same
                ours.write(str(most))


def limit_buffers() -> None:
    """Let a TCP connection inside hold little: all it holds is the machine's memory for TCP.

    Nothing inside is far away: its connections end at the firewall.
    """
    for name in ("tcp_rmem", "tcp_wmem"):
        place = f"/proc/sys/net/ipv4/{name}"
        with contextlib.suppress(OSError, ValueError):
            with open(place) as found:  # noqa: PTH123 - light imports
                least, usual, most = map(int, found.read().split())
            with open(place, "w") as file:  # noqa: PTH123 - the same
                file.write(f"{least} {usual} {min(most, _TCP_BUFFER_BYTES)}")


def add_any_ip_route(family: int) -> None:
    """Make every address of a family local to this namespace, by one netlink message."""
    scope = _SCOPE_HOST if family == socket.AF_INET else 0
    route = struct.pack(
        "=BBBBBBBBI", family, 0, 0, 0, _TABLE_LOCAL, _PROTO_STATIC, scope, _TYPE_LOCAL, 0
    )
    route += struct.pack("=HHI", 8, _RTA_OIF, socket.if_nametoindex("lo"))
    head = struct.pack("=IHHII", 16 + len(route), _RTM_NEWROUTE, _REQUEST_ACK_CREATE, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.bind((0, 0))
        netlink.send(head + route)
        code = struct.unpack_from("=i", netlink.recv(4096), 16)[0]
    if code:
        raise OSError(-code, os.strerror(-code))


def make_listeners(families: Sequence[int]) -> dict[str, socket.socket]:
    """Give every socket the firewall works on, by name."""
    listeners: dict[str, socket.socket] = {}
    for family in families:
        suffix, anywhere = ("4", "0.0.0.0") if family == socket.AF_INET else ("6", "::")
        for name, port in (("tls", 443), ("http", 80), ("dnstcp", 53)):
            listeners[name + suffix] = _listening(family, anywhere, port)
        listeners["dns" + suffix] = _datagrams(family, anywhere, 53)
    listeners["proxy"] = _listening(socket.AF_INET, "127.0.0.1", PROXY_PORT)
    listeners["packets"] = _packets()
    return listeners


def _listening(family: int, address: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((address, port))
    sock.listen(BACKLOG)
    return sock


def _datagrams(family: int, address: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    sock.bind((address, port))
    return sock


def _packets() -> socket.socket:
    # Kept narrow by a filter in the kernel: without one, every byte of every relayed connection
    # would be copied to this socket as well.
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    program = array.array("Q", attempts_filter(PACKET_HEAD_BYTES))
    address, count = program.buffer_info()
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", count, address))
    sock.bind(("lo", ETH_P_ALL))
    return sock


def serve(control: socket.socket) -> int:
    """Answer the host's requests; ends when the host or the sandbox does."""
    reader = MessageReader(control, takes_fds=True)
    watched: list[int] = [control.fileno()]
    with contextlib.suppress(WireError):
        while True:
            ready, _, _ = select.select(watched, [], [])
            if ready[-1] != control.fileno():
                return 0
            for message, fds in reader.read_ready():
                if message.get("op") == "enter":
                    watched.append(os.pidfd_open(_enter(message, fds)))
                    _reply(control, message, {"event": "entered"})
                else:
                    _answer(control, message)
                for fd in fds:
                    os.close(fd)
    return 0


def _reply(
    control: socket.socket,
    message: dict[str, object],
    reply: dict[str, object],
    fds: Sequence[int] = (),
) -> None:
    """Answer a message with its number: the host may have given up on an earlier one."""
    send_message(control, {**reply, "id": message.get("id")}, fds)


def _answer(control: socket.socket, message: dict[str, object]) -> None:
    pids = _numbers(message, "pids")
    match message.get("op"):
        case "socket":
            _give_socket(control, message)
        case "usage":
            _reply(control, message, usage())
        case "shares":
            shares = {str(pid): proportional_bytes(pid) for pid in pids}
            _reply(control, message, {"shares": shares})
        case "hidden":
            hidden = {str(pid): size for pid, size in hidden_bytes(pids).items()}
            _reply(control, message, {"hidden": hidden})
        case "unseen":
            unseen = {str(pid): count for pid, count in unseen_files(pids).items()}
            _reply(control, message, {"unseen": unseen})
        case "waiting":
            _reply(control, message, {"waiting": waiting_bytes(int(str(message.get("idle"))))})
        case "files" | "sockets" | "mappings" | "watches" as kind:
            counts = {str(pid): found for pid, found in count(kind, pids).items()}
            _reply(control, message, {kind: counts})
        case "deleted":
            _reply(control, message, {"bytes": deleted_bytes(pids)})
        case "kill":
            _kill(pids)
            _reply(control, message, {"event": "killed"})


def _numbers(message: dict[str, object], name: str) -> list[int]:
    values = message.get(name)
    return [int(value) for value in values] if isinstance(values, list) else []


def _kill(pids: list[int]) -> None:
    for pid in pids:
        if pid > 1:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _give_socket(control: socket.socket, message: dict[str, object]) -> None:
    family = socket.AF_INET6 if message.get("family") == "6" else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            _reply(control, message, {"event": "socket"}, [sock.fileno()])
    except OSError as exc:
        _reply(control, message, {"event": "failed", "errno": exc.errno})


def _enter(message: dict[str, object], fds: list[int]) -> int:
    """Start the sandbox's bubblewrap with the host's descriptors under the numbers it named."""
    argv, numbers = message["argv"], message["numbers"]
    if not isinstance(argv, list) or not isinstance(numbers, list):
        msg = "an enter request needs argv and numbers"
        raise WireError(msg)
    null = os.open("/dev/null", os.O_RDWR)
    actions = [(os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1)]
    actions += [(os.POSIX_SPAWN_DUP2, fd, number) for fd, number in zip(fds, numbers, strict=True)]
    try:
        return os.posix_spawn(argv[0], argv, {}, file_actions=actions, setsigdef=[signal.SIGPIPE])
    finally:
        os.close(null)
