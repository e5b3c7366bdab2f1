from __future__ import annotations

import json
from typing import TYPE_CHECKING

from vercel.sandbox import sync as sdk

from tests.local.firewall.outside import Outside
from tests.local.servers import LocalServer

if TYPE_CHECKING:
    from pathlib import Path

HOST = "plain.example.com"
ASK = """
import http.client, json, ssl
def ask(host):
    client = http.client.HTTPSConnection("plain.example.com", timeout=10)
    client.request("GET", "/", headers={"host": host})
    issuer = dict(pair for [pair] in client.sock.getpeercert()["issuer"])["commonName"]
    return [client.getresponse().status, issuer]
print(json.dumps([ask("plain.example.com"), ask("neighbour.example.com")]))
"""


def asked(outside: Outside, *arguments: str) -> object:
    """Ask a plain allowed host from inside, by its own name and by a neighbour's."""
    ((host, (address, port)),) = outside.upstreams.items()
    server = LocalServer.make(
        (
            "--upstream",
            f"{host}={address}:{port}",
            "--upstream-ca",
            str(outside.ca_file),
            *arguments,
        )
    )
    try:
        server.start()
        client = server.client()
        policy = sdk.NetworkPolicy.custom(allow={HOST: ()})
        box = client.create_sandbox(persistent=False, network_policy=policy)
        done = box.run_process("python3", ["-c", ASK], capture_output=True)
        box.destroy()
        client.close()
    finally:
        server.close()
    return json.loads(done.stdout or "null")


def test_strict_refuses_fronting_and_the_usual_way_does_not(tmp_path: Path) -> None:
    """A plain allowed host is passed through unread, unless the server was started strict."""
    outside = Outside(tmp_path)
    outside.serve_http(HOST)
    try:
        usual, strict = asked(outside), asked(outside, "--strict")
    finally:
        outside.close()

    assert usual == [[200, "outside"], [200, "outside"]]
    assert strict == [[200, "opencode-magic sandbox"], [421, "opencode-magic sandbox"]]
