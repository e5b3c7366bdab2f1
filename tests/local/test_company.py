from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from vercel.sandbox import sync as sdk

from opencode_magic.core import surroundings as surroundings_of
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


@pytest.fixture
def other(outside: Outside) -> Iterator[CompanyProxy]:
    """Another proxy than the one that the server was started with."""
    made = CompanyProxy(outside.serve_http("plain.invalid").server_port)
    yield made
    made.close()


def create(
    client: sdk.SyncSandboxClient, surroundings: object, **options: object
) -> sdk.SyncSandbox:
    """Create a sandbox of a kernel that goes out this way."""
    return client.create_sandbox(
        network_policy=sdk.NetworkPolicy.custom(allow={"plain.invalid": ()}),
        **{surroundings_of.PARAMETER: surroundings},  # type: ignore[arg-type] # passed on
        **options,  # type: ignore[arg-type] # the SDK's own names
    )


def fetch(box: sdk.SyncSandbox) -> str:
    found = box.run_process("python3", ["-c", FETCH, "plain.invalid"], capture_output=True)
    return str(found.stdout)


def test_each_sandbox_goes_out_by_its_own_proxy(
    server: LocalServer, proxy: CompanyProxy, other: CompanyProxy, outside: Outside
) -> None:
    """A later launch has its kernel's proxy, also where earlier sandboxes run on by another."""
    client = server.client()
    first = client.create_sandbox(
        persistent=False,
        network_policy=sdk.NetworkPolicy.custom(allow={"plain.invalid": ()}),
    )
    mine = {
        "HTTPS_PROXY": f"http://me:PLANTED@127.0.0.1:{other.port}",
        "SSL_CERT_FILE": str(outside.ca_file),
    }
    second = create(client, mine, persistent=False)
    third = create(client, {**mine, "NO_PROXY": "plain.invalid"}, persistent=False)
    said = [fetch(box) for box in (second, third, first)]
    counts = (len(proxy.heads), len(other.heads))
    listed = server.ask("GET", "/local/info").json()["sandboxes"]
    assert isinstance(listed, list)
    shown = server.ask("GET", "/local/info").body.decode() + server.log + repr(second)
    disk = b"".join(
        path.read_bytes()
        for folder in (server.state_dir / "sandboxes", server.runtime_dir)
        for path in folder.iterdir()
        if path.is_file()
    )
    for box in (first, second, third):
        box.destroy()
    client.close()

    assert said == ["plain.invalid 200\n", "plain.invalid failed\n", "plain.invalid 200\n"]
    assert counts == (1, 1)
    assert [item["way_out"] for item in listed] == [
        f"127.0.0.1:{port}" for port in (proxy.port, other.port, other.port)
    ]
    assert b"Proxy-Authorization: Basic bWU6UExBTlRFRA==" in other.heads[0]
    assert "PLANTED" not in shown
    assert b"PLANTED" not in disk


def test_a_sandbox_keeps_its_way_out_when_it_is_resumed_and_forked(
    server: LocalServer, proxy: CompanyProxy, other: CompanyProxy, outside: Outside
) -> None:
    """Its second life, and what is forked from it, go out as it did."""
    client = server.client()
    mine = {
        "HTTPS_PROXY": f"http://127.0.0.1:{other.port}",
        "SSL_CERT_FILE": str(outside.ca_file),
    }
    box = create(client, mine, name="lasting", persistent=True)
    box.stop()
    fork = client.fork_sandbox(source_sandbox="lasting", name="fork")
    said = [fetch(each) for each in (box, fork)]
    fork.destroy()
    box.destroy(delete_orphan_snapshots=True)
    client.close()

    assert said == ["plain.invalid 200\n"] * 2
    assert (len(proxy.heads), len(other.heads)) == (0, 2)


def test_authorities_are_each_sandboxs_own(
    fresh_server: LocalServer, other: CompanyProxy, outside: Outside, tmp_path: Path
) -> None:
    """A certificate authority counts where its kernel names it, also for hosts that are read."""
    fresh_server.terminate()
    fresh_server.arguments = ("--strict",)
    fresh_server.start()
    client = fresh_server.client()
    named = {
        "HTTPS_PROXY": f"http://127.0.0.1:{other.port}",
        "SSL_CERT_FILE": str(outside.ca_file),
    }
    unnamed = {"HTTPS_PROXY": f"http://127.0.0.1:{other.port}"}
    boxes = [create(client, how, persistent=False) for how in (named, unnamed)]
    said = [fetch(box) for box in boxes]
    for box in boxes:
        box.destroy()
    client.close()

    assert said == ["plain.invalid 200\n", "plain.invalid failed\n"]


@pytest.mark.parametrize(
    ("surroundings", "said"),
    [
        ({"HTTPS_PROXY": "socks5://me:SECRET@proxy.example"}, "http:// URL, not socks5://"),
        ({"HTTPS_PROXY": "https://me:SECRET@proxy.example"}, "http:// URL, not https://"),
        ({"SSL_CERT_FILE": "/nowhere/SOME.pem"}, "cannot be used: No such file or directory"),
        ({"HTTPS_PROXY": 7}, "must be an object of texts"),
        ({"PATH": "/bin"}, "should NOT have additional property 'PATH'"),
        ("SECRET", "must be an object of texts"),
    ],
)
def test_surroundings_that_cannot_be_used_are_refused(
    server: LocalServer, surroundings: object, said: str
) -> None:
    """The create call is refused in one line without a password, and nothing is left of it."""
    client = server.client()
    with pytest.raises(sdk.SandboxApiError) as caught:
        create(client, surroundings, name="refused", persistent=False)
    left = [item.name for item in client.query_sandboxes()]
    client.close()

    assert (caught.value.status_code, caught.value.code) == (400, "bad_request")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "SECRET" not in str(caught.value) + server.log
    assert left == []
