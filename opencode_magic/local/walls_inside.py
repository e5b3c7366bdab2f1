"""The program that makes the attempts of ``walls_network``, inside, with the standard library only.

A separate text: it is given to the sandbox's own Python, which has none of our packages.
"""

PROGRAM = r"""
import errno, json, os, socket, ssl, struct, sys, time
task = json.loads(sys.argv[1])
CANARY, PLAIN, PORT = task["canary"], task["plain"], task["port"]
V4, V6, LIMIT_S = "203.0.113.9", "2001:db8::9", 15
PLACE = V4
H4, H6 = V4, "[" + V6 + "]"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
           "Sec-WebSocket-Key: Y2FuYXJ5Y2FuYXJ5Y2FuYQ==")
QUIC = b"\xc3\0\0\0\1\x08canary??\0\0\x44\xd0".ljust(1200, b"\0")
FRAME = b"\x81\x87\0\0\0\0canary?"
FIRST_PORT, BLOCK, CROWD_BLOCK = 20000, 6, 2100
ports, free_ports = [], iter(())

def bound(address, kind):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, kind)
    sock.settimeout(LIMIT_S)
    # No port is used twice: it is what tells an attempt's record from all others.
    ports.append(next(free_ports))
    sock.bind(("", ports[-1]))
    return sock

def connected(address, port):
    sock = bound(address, socket.SOCK_STREAM)
    sock.connect((address, port))
    return sock

def answer(sock, data):
    sock.sendall(data)
    said = b""
    while b"canary!" not in said:
        more = sock.recv(65536)
        if not more:
            break
        said += more
    return said

def get(host, *more, path="/"):
    lines = ["GET " + path + " HTTP/1.1", "Host: " + host, *more, "", ""]
    return "\r\n".join(lines).encode()

def huge(host):
    return b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\nHost: " + host.encode() + b"\r\n\r\n"

def tcp(address, port, data, pieces=1):
    sock = connected(address, port)
    step = -(-len(data) // pieces)
    for start in range(0, len(data) - step, step):
        sock.sendall(data[start:start + step])
        time.sleep(0.03)
    return answer(sock, data[-(len(data) % step or step):])

def fast_open(address, port):
    sock = bound(address, socket.SOCK_STREAM)
    sock.setblocking(True)
    sock.sendto(b"canary?", socket.MSG_FASTOPEN, (address, port))
    sock.settimeout(LIMIT_S)
    return answer(sock, b"")

def udp(address, port, data):
    sock = bound(address, socket.SOCK_DGRAM)
    sock.settimeout(2)
    sock.connect((address, port))
    sock.send(data)
    return sock.recv(65536)

def trusting():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context

def secured(sock, name, alpn=()):
    context = trusting()
    if alpn:
        context.set_alpn_protocols(alpn)
    return context.wrap_socket(sock, server_hostname=name)

def secure(address, name, data, alpn=(), chosen=""):
    sock = secured(connected(address, 443), name, alpn)
    if chosen and sock.selected_alpn_protocol() != chosen:
        raise RuntimeError("another protocol: " + repr(sock.selected_alpn_protocol()))
    return answer(sock, data)

def second(address, name, host, is_at_once=False):
    sock = secured(connected(address, 443), name)
    data, said = get(name, path="/first"), b""
    if is_at_once:
        return answer(sock, data + get(host))
    sock.sendall(data)
    while b"first" not in said:
        said += sock.recv(65536) or b"first"
    return answer(sock, get(host))

def websocket(address, name, host=""):
    sock = secured(connected(address, 443), name) if name else connected(address, 80)
    sock.sendall(get(host or name, *UPGRADE))
    head = sock.recv(65536)
    return answer(sock, FRAME) if b" 101 " in head[:20] else head

def hello(name, is_old=False):
    into, out, context = ssl.MemoryBIO(), ssl.MemoryBIO(), trusting()
    if is_old:
        # Its certificate comes in plain text.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.wrap_bio(into, out, server_hostname="placeholder.example").do_handshake()
    except ssl.SSLWantReadError:
        pass
    # The name is put in afterwards: Python's ssl sends no address as a name.
    data, old, new = out.read(), b"placeholder.example", name.encode()
    at, grown = data.index(old), len(new) - len(old)
    for back, size in ((2, 2), (5, 2), (7, 2)):
        start = at - back
        was = int.from_bytes(data[start:start + size], "big")
        data = data[:start] + (was + grown).to_bytes(size, "big") + data[start + size:]
    return resized(data.replace(old, new), grown)

def resized(data, grown):
    at = 9 + 34
    at += 1 + data[at]
    at += 2 + int.from_bytes(data[at:at + 2], "big")
    at += 1 + data[at]
    for start, size in ((3, 2), (6, 3), (at, 2)):
        was = int.from_bytes(data[start:start + size], "big")
        data = data[:start] + (was + grown).to_bytes(size, "big") + data[start + size:]
    return data

def encrypted(data):
    body = bytes([0, 0, 1, 0, 1, 7, 0, 32]) + b"c" * 32 + struct.pack("!H", 64) + b"e" * 64
    more = struct.pack("!HH", 0xfe0d, len(body)) + body
    return resized(data + more, len(more))

def halved(data):
    parts = data[5:45], data[45:]
    return b"".join(data[:3] + struct.pack("!H", len(part)) + part for part in parts)

def shown(address, data):
    sock = connected(address, 443)
    sock.sendall(data)
    said = b""
    while b"canary!" not in said and b"\x0e\0\0\0" not in said:
        more = sock.recv(65536)
        if not more:
            break
        said += more
    sock.close()
    # Whose certificate it is tells who stands at the other end.
    return b"canary!" if b"canary!" in said else b"a certificate of the wall's own"

def knock(address, data, pieces=1, is_end=False, port=443):
    sock = connected(address, port)
    step = -(-len(data) // pieces)
    for start in range(0, len(data), step):
        if start:
            time.sleep(0.3)
        sock.sendall(data[start:start + step])
    if is_end:
        sock.shutdown(socket.SHUT_WR)
    said = sock.recv(65536)
    # Whoever answers with a handshake would have let us in.
    return b"canary!" if said[:1] == b"\x16" else said

def crowd(count):
    data, socks, said = hello("crowd.example"), [], b""
    for _ in range(count):
        socks.append(connected(V4, 443))
    for sock in socks:
        try:
            sock.sendall(data)
        except OSError:
            pass
    for sock in socks:
        try:
            if sock.recv(1) == b"\x16":
                said = b"canary!"
        except OSError:
            pass
    return said

def past_half_open(count):
    held = [connected(V4, 443) for _ in range(count)]
    for sock in held:
        try:
            sock.send(b"\x16")
        except OSError:
            pass  # the firewall keeps no more than it can hold
    return secure(V4, CANARY, get(CANARY))

def redirected(address):
    sock, said = secured(connected(address, 443), CANARY), b""
    sock.sendall(get(CANARY, path="/away"))
    while b"\r\n\r\n" not in said:
        said += sock.recv(65536) or b"\r\n\r\n"
    if b"Location: https://away.example/" not in said:
        raise RuntimeError("no redirect: " + repr(said[:60]))
    ports.clear()
    return secure(address, "away.example", get("away.example"))

def proxied(authority, name="", data=b"canary?\r\n\r\n", to=("127.0.0.1", 3128), within=""):
    sock = connected(*to)
    if within:
        sock = secured(sock, within)
    sock.sendall(("CONNECT " + authority + " HTTP/1.1\r\nHost: " + authority + "\r\n\r\n").encode())
    head = sock.recv(65536)
    if b" 200 " not in head[:20]:
        return head
    return answer(secured(sock, name) if name else sock, data)

def look_up(server, name, kind=1, is_tcp=False):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    data = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, kind, 1)
    if is_tcp:
        sock = connected(server, 53)
        sock.sendall(struct.pack("!H", len(data)) + data)
        said = sock.recv(4096)[2:]
    else:
        said = udp(server, 53, data)
    return b"canary!" if int.from_bytes(said[6:8], "big") else b"no such name"

def ping(family, kind, protocol):
    sock = socket.socket(family, kind, protocol)
    sock.settimeout(2)
    echo = struct.pack("!BBHHH", 8 if protocol == 1 else 128, 0, 0, 0, 0)
    if protocol == 1:
        echo = struct.pack("!BBHHH", 8, 0, 0xf7ff, 0, 0)
    sock.sendto(echo, (V4 if family == socket.AF_INET else V6, 0))
    sock.recv(4096)
    return b"canary!"

def attempt(expression):
    try:
        said = eval(expression)
        found = [0 if b"canary!" in said else errno.EACCES, said[:60].decode("latin-1")]
    except TimeoutError:
        found = [errno.ETIMEDOUT, ""]
    except OSError as exc:
        found = [exc.errno or errno.ECONNRESET, ""]
        if isinstance(exc, ssl.SSLError):
            found = [errno.ECONNRESET, str(exc.reason)]
    except BaseException as exc:
        found = [99, repr(exc)]
    return [found[0], ports, found[1].partition("\r\n")[0]]

def start(expression, first_port, count):
    global free_ports
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        free_ports = iter(range(first_port, first_port + count))
        os.write(writer, json.dumps(attempt(expression)).encode())
        os._exit(0)
    os.close(writer)
    return child, reader

def end(child, reader):
    with os.fdopen(reader, "rb") as said:
        data = said.read()
    os.waitpid(child, 0)
    return json.loads(data) if data else [99, [], "it ended without a word"]

def turn(text):
    # What waits until its time is up begins first, beside all others. What comes in pieces is
    # over before many connections at once push out whoever waits.
    if "is_end" in text or "pieces=" in text:
        return 0
    return 2 if "crowd" in text or "half_open" in text else 1

running, met, first_port = {}, {}, FIRST_PORT
for name, text in sorted(task["attempts"].items(), key=lambda item: turn(item[1])):
    if turn(text) == 2:
        in_pieces = [one for one in running if "pieces=" in task["attempts"][one]]
        met.update({one: end(*running.pop(one)) for one in in_pieces})
    count = CROWD_BLOCK if turn(text) == 2 else BLOCK
    running[name] = start(text, first_port, count)
    first_port += count
    if turn(text):
        met[name] = end(*running.pop(name))
met.update({name: end(*parts) for name, parts in running.items()})
print(json.dumps({name: met[name] for name in task["attempts"]}))
"""
"""Tries what its first argument says, as JSON; prints outcome, source ports and words of each."""
