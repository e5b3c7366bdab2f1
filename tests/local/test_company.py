from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from vercel.sandbox import sync as sdk

from opencode_magic.errors import SettingsError
from opencode_magic.local.company import find_way_out, load_authorities
from opencode_magic.local.firewall.resolve import REASON_NOT_GLOBAL
from tests.local.firewall.outside import Outside
from tests.local.firewall.test_way_out import CompanyProxy
from tests.local.servers import LocalServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FETCH = """
import sys, urllib.request
urllib.request.install_opener(urllib.request.build_opener(urllib.request.ProxyHandler({})))
for host in sys.argv[1:]:
    try:
        print(host, urllib.request.urlopen(f"https://{host}/", timeout=10).status)
    except OSError as exc:
        print(host, "failed")
"""


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    made = Outside(tmp_path)
    yield made
    made.close()


@pytest.fixture
def proxy(outside: Outside) -> Iterator[CompanyProxy]:
    made = CompanyProxy(outside.serve_http("plain.invalid").server_port)
    yield made
    made.close()


@pytest.fixture
def server(outside: Outside, proxy: CompanyProxy) -> Iterator[LocalServer]:
    """A server of a user behind a company's proxy and authority."""
    made = LocalServer.make()
    made.environment = {
        "HTTPS_PROXY": f"http://me:SECRET@127.0.0.1:{proxy.port}",
        "NO_PROXY": "direct.invalid",
        "SSL_CERT_FILE": str(outside.ca_file),
    }
    try:
        made.start()
        yield made
    finally:
        made.close()


def test_a_sandbox_goes_out_as_its_user_does(server: LocalServer, proxy: CompanyProxy) -> None:
    """Allowed hosts pass the user's proxy and authority; a blocked one never reaches the proxy."""
    client = server.client()
    box = client.create_sandbox(
        persistent=False,
        network_policy=sdk.NetworkPolicy.custom(
            allow={"plain.invalid": (), "direct.invalid": (), "localhost": ()}
        ),
    )
    hosts = ["plain.invalid", "blocked.invalid", "direct.invalid", "localhost"]
    process = box.run_process("python3", ["-c", FETCH, *hosts], capture_output=True)
    assert box.current_session is not None
    path = f"/local/sessions/{box.current_session.id}/egress"
    records = server.ask("GET", path).body.splitlines()
    box.destroy()
    client.close()

    assert process.stdout == (
        "plain.invalid 200\nblocked.invalid failed\ndirect.invalid failed\nlocalhost failed\n"
    )
    assert [head.split(b"\r\n")[0] for head in proxy.heads] == [
        b"CONNECT plain.invalid:443 HTTP/1.1"
    ]
    [local] = [json.loads(line) for line in records if b'"localhost"' in line]
    assert (local["verdict"], local["reason"]) == ("blocked", REASON_NOT_GLOBAL)
    assert server.ask("GET", "/local/info").json()["way_out"] == f"127.0.0.1:{proxy.port}"
    assert "SECRET" not in server.log + server.ask("GET", "/local/info").body.decode()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("HTTPS_PROXY", "socks5://me:SECRET@proxy.example", "must be an http:// URL, not socks5"),
        ("HTTPS_PROXY", "http://me:SECRET", "must be an http:// URL with a host and a port"),
        ("SSL_CERT_FILE", "/nowhere/SOME.pem", "cannot be used: No such file or directory"),
    ],
)
def test_what_cannot_be_used_is_one_line_at_the_start(variable: str, value: str, said: str) -> None:
    """The server does not start, and says why in one line without a password."""
    server = LocalServer.make()
    server.environment = {variable: value}
    process = server.spawn()
    code = process.wait(20)
    log = server.log
    server.close()

    assert code == 1
    assert re.fullmatch(rf"[^\n]*{variable}[^\n]*{re.escape(said)}[^\n]*\n", log)
    assert "SECRET" not in log


def test_no_company_is_no_error(tmp_path: Path) -> None:
    """Nothing set is nothing to check; an empty file holds no certificate."""
    assert find_way_out({}) is None
    assert load_authorities({}, None) == b""
    empty = tmp_path / "empty.pem"
    empty.touch()
    with pytest.raises(SettingsError, match=r"--upstream-ca names .* it holds no certificate"):
        load_authorities({}, empty)


def test_authorities_are_joined(outside: Outside) -> None:
    """Each file's certificates are taken."""
    path = outside.ca_file

    assert load_authorities({"SSL_CERT_FILE": str(path)}, path) == path.read_bytes() * 2
