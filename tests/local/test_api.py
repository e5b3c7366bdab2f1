"""The wire itself: payloads, errors, and the local home's own routes, without the SDK between."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.local.servers import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.local.servers import LocalServer

SESSIONS = "/v2/sandboxes/sessions"
MAPPED = {"allow": {"demo-model.internal": [{"forwardURL": "http://127.0.0.1:9"}]}}


@pytest.fixture(scope="module")
def session_id(server: LocalServer) -> Iterator[str]:
    """The session of a running sandbox that may reach nothing."""
    body = {
        "name": "wire", "projectId": "local", "persistent": False, "ports": [4096],
        "networkPolicy": {"mode": "deny-all"}, "tags": {"a": "b"},
    }  # fmt: skip
    created = server.ask("POST", "/v3/sandboxes", body).json()
    yield text(created, "session", "id")
    server.ask("DELETE", "/v2/sandboxes/wire?discard=true")


def text(value: object, *keys: str) -> str:
    for key in keys:
        assert isinstance(value, dict)
        value = value[key]
    assert isinstance(value, str)
    return value


def run(server: LocalServer, session_id: str, *argv: str) -> list[dict[str, object]]:
    body = {"command": argv[0], "args": list(argv[1:])}
    answer = server.ask("POST", f"{SESSIONS}/{session_id}/cmd?wait=true&logs=true", body)
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.body.splitlines()]


def test_payloads_have_every_field(server: LocalServer, session_id: str) -> None:
    """Sandbox, session and route have what both SDKs require."""
    body = server.ask("GET", "/v2/sandboxes/wire").json()
    sandbox, session, routes = body["sandbox"], body["session"], body["routes"]

    assert isinstance(sandbox, dict)
    assert isinstance(session, dict)
    assert isinstance(routes, list)
    assert sandbox.keys() >= {
        "name", "currentSessionId", "image", "status", "persistent", "projectId", "cwd", "region",
        "memory", "vcpus", "timeout", "networkPolicy", "statusUpdatedAt", "createdAt", "updatedAt",
        "tags",
    }  # fmt: skip
    assert session.keys() >= {
        "id", "sourceSandboxName", "projectId", "status", "cwd", "region", "memory", "vcpus",
        "timeout", "networkPolicy", "requestedAt", "startedAt", "createdAt", "updatedAt",
    }  # fmt: skip
    assert [route.keys() for route in routes] == [{"url", "port", "subdomain"}]
    assert (sandbox["status"], sandbox["memory"], session["id"]) == ("running", 4096, session_id)


def test_run_stream_has_its_three_kinds_of_lines(server: LocalServer, session_id: str) -> None:
    """A streamed run starts and ends with the command, and has output between."""
    lines = run(server, session_id, "sh", "-c", "echo out; exit 4")

    assert [sorted(line) for line in lines] == [["command"], ["data", "stream"], ["command"]]
    assert [line["command"]["exitCode"] for line in (lines[0], lines[-1])] == [None, 4]  # type: ignore[index]


def test_output_that_is_no_utf8_is_marked(server: LocalServer, session_id: str) -> None:
    """Bytes that are no text become replacement characters, as on the cloud."""
    lines = run(server, session_id, "printf", r"a\377b")

    assert lines[1] == {"stream": "stdout", "data": "a\ufffdb"}


def test_a_character_cut_in_two_arrives_whole(server: LocalServer, session_id: str) -> None:
    """A character whose bytes come apart is still one character."""
    lines = run(server, session_id, "sh", "-c", r"printf '\303'; sleep 0.2; printf '\274'")

    assert "".join(str(line.get("data", "")) for line in lines) == "ü"


def test_repeated_input_is_taken_once(server: LocalServer, session_id: str) -> None:
    """A chunk that is sent again, because its answer was lost, is not written twice."""
    body = {"command": "cat", "args": [], "attachStdin": True}
    created = server.ask("POST", f"{SESSIONS}/{session_id}/cmd", body).json()
    path = f"{SESSIONS}/{session_id}/cmd/{text(created, 'command', 'id')}"
    chunk = {"data": "cGluZwo=", "offset": 0}
    written = [server.ask("POST", f"{path}/stdin", item).json()["bytesWritten"] for item in (
        {}, chunk, chunk, {"data": "YnllCg==", "offset": 5}, {"offset": 9, "close": True},
    )]  # fmt: skip
    server.ask("GET", f"{path}?wait=true")
    late = server.ask("POST", f"{path}/stdin", {"data": "YnllCg==", "offset": 9})
    logs = server.ask("GET", f"{path}/logs").body

    assert written == [0, 5, 5, 9, 9]
    assert "".join(json.loads(line)["data"] for line in logs.splitlines()) == "ping\nbye\n"
    assert (late.status, late.code) == (400, "command_stdin_unavailable")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"name": "../up"}, "bad_request"),
        ({"name": "x", "runtime": "node24"}, "bad_request"),
        ({"name": "x", "timeout": -1}, "bad_request"),
        ({"name": "x", "timeout": True}, "bad_request"),
        ({"name": "x", "ports": [23456]}, "reserved_port"),
        ({"name": "x", "ports": [0]}, "bad_request"),
        ({"name": "x", "ports": [8080, 8080]}, "bad_request"),
        *(({"name": "x", "ports": [port]}, "reserved_port") for port in (53, 80, 443, 3128)),
        ({"name": "x", "networkPolicy": {"allow": {"not a host": []}}}, "bad_request"),
        ({"name": "x", "networkPolicy": {"mode": "maybe"}}, "bad_request"),
        ({"name": "x", "env": {"A=B": "c"}}, "bad_request"),
        ({"name": "x", "env": {"A": 1}}, "bad_request"),
        ({"name": "x", "tags": {str(number): "" for number in range(6)}}, "bad_request"),
        ({"name": "x", "resources": {"vcpus": 0}}, "bad_request"),
        ({"name": "x", "resources": {"vcpus": True}}, "bad_request"),
        ({"name": "x", "resources": {"memory": 1}}, "bad_request"),
        ({"name": "x", "resources": {"disk": 1}}, "bad_request"),
        ({"name": "x", "image": "debian"}, "bad_request"),
        ({"name": "x", "source": {"type": "magic"}}, "bad_request"),
        ({"name": "x", "mounts": {"/m": {}}}, "not_implemented"),
        ({"name": "x", "source": {"type": "snapshot", "snapshotId": "no"}}, "snapshot_not_found"),
        ({"name": "wire"}, "conflict"),
    ],
)
def test_bad_create_bodies(
    server: LocalServer, session_id: str, body: dict[str, object], code: str
) -> None:
    """A create body that does not fit is refused with its code, and nothing is made."""
    answer = server.ask("POST", "/v3/sandboxes", {"projectId": "local", **body})
    names = server.ask("GET", "/v2/sandboxes?project=local").json()["sandboxes"]

    assert answer.code == code
    assert isinstance(names, list)
    assert [item["name"] for item in names] == ["wire"]


@pytest.mark.parametrize("body", [b"{", b"[]", b"[" * 100_000, b"\xff", b'"x"'])
def test_bodies_that_are_no_objects(server: LocalServer, body: bytes) -> None:
    """A body that is no JSON object is a bad request, whatever it is."""
    answer = server.ask("POST", "/v3/sandboxes", body)

    assert (answer.status, answer.code) == (400, "bad_request")


def test_bad_policy_names_the_place_and_no_value(server: LocalServer, session_id: str) -> None:
    """A refused policy says where it is wrong, and never repeats a header's value."""
    rule = {"transform": [{"headers": {"bad name": "planted-value"}}]}
    body = {"allow": {"api.example.com": [rule]}}
    answer = server.ask("POST", f"{SESSIONS}/{session_id}/network-policy", body)

    assert (answer.status, b"api.example.com" in answer.body) == (400, True)
    assert b"planted-value" not in answer.body


@pytest.mark.parametrize(
    ("host", "url", "status"),
    [
        ("demo-model.internal", "http://127.0.0.1:9", 200),
        ("ollama.internal", "http://localhost:11434", 200),
        ("demo-model.example.com", "http://127.0.0.1:9", 400),
        ("demo-model.internal", "http://192.168.1.2:9", 400),
        ("demo-model.internal", "http://169.254.169.254", 400),
        ("demo-model.internal", "file:///etc/passwd", 400),
        ("demo-model.internal", "http://[::1", 400),
    ],
)
def test_mappings_lead_to_loopback_only(
    server: LocalServer, session_id: str, host: str, url: str, status: int
) -> None:
    """A host under .internal may lead to this machine's loopback, and to nothing else private."""
    body = {"allow": {host: [{"forwardURL": url}]}}
    answer = server.ask("POST", f"{SESSIONS}/{session_id}/network-policy", body)
    server.ask("POST", f"{SESSIONS}/{session_id}/network-policy", {"mode": "deny-all"})

    assert answer.status == status


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/sandboxes/drives"),
        ("POST", "/v2/sandboxes/drives/mine"),
    ],
)
def test_what_is_missing_says_so(server: LocalServer, method: str, path: str) -> None:
    """A part of the API that is not here answers with a clear code."""
    answer = server.ask(method, path, {} if method == "POST" else None)

    assert (answer.status, answer.code) == (501, "not_implemented")


def test_interactive_and_sudo_are_not_here(server: LocalServer, session_id: str) -> None:
    """A terminal and root are refused, not imitated."""
    interactive = server.ask("POST", f"{SESSIONS}/{session_id}/interactive", {})
    root = server.ask("POST", f"{SESSIONS}/{session_id}/cmd", {"command": "id", "sudo": True})

    assert [interactive.code, root.code] == ["not_implemented"] * 2


@pytest.mark.parametrize("query", ["limit=51", "limit=0", "limit=x", "cursor=!", "sortBy=shape"])
def test_bad_list_queries(server: LocalServer, query: str) -> None:
    """A list that is asked for wrongly is refused."""
    assert server.ask("GET", f"/v2/sandboxes?project=local&{query}").status == 400


def test_unknown_routes_and_ids(server: LocalServer, session_id: str) -> None:
    """What does not exist is 404, and a wrong method 405."""
    asked = [
        server.ask("GET", "/nowhere"),
        server.ask("GET", f"{SESSIONS}/sbx_none"),
        server.ask("GET", f"{SESSIONS}/{session_id}/cmd/cmd_none"),
        server.ask("GET", "/v2/sandboxes/snapshots/snap_none"),
        server.ask("PUT", "/v2/sandboxes/wire"),
    ]

    assert [(item.status, item.code) for item in asked] == [
        (404, "not_found"),
        (404, "not_found"),
        (404, "not_found"),
        (404, "snapshot_not_found"),
        (405, "method_not_allowed"),
    ]


def test_update_changes_ports_at_once(server: LocalServer, session_id: str) -> None:
    """New ports of a running sandbox are published, old ones are not any more."""
    body = server.ask("PATCH", "/v2/sandboxes/wire", {"ports": [8080], "tags": {"c": "d"}}).json()
    routes, sandbox = body["routes"], body["sandbox"]

    assert isinstance(routes, list)
    assert isinstance(sandbox, dict)
    assert ([route["port"] for route in routes], sandbox["tags"]) == ([8080], {"c": "d"})


def test_info_shows_sandboxes_and_mappings(server: LocalServer, session_id: str) -> None:
    """The server says what runs on it, where it may lead, and no token."""
    server.ask("POST", f"{SESSIONS}/{session_id}/network-policy", MAPPED)
    answer = server.ask("GET", "/local/info")
    server.ask("POST", f"{SESSIONS}/{session_id}/network-policy", {"mode": "deny-all"})
    info = answer.json()
    sandboxes = info["sandboxes"]

    assert isinstance(sandboxes, list)
    assert info["mappings"] == ["demo-model.internal=http://127.0.0.1:9"]
    assert [item["session_id"] for item in sandboxes] == [session_id]
    assert server.token.encode() not in answer.body


def test_blocked_attempts_are_in_the_egress_record(server: LocalServer, session_id: str) -> None:
    """What a program tried is on record, with a number that one can go on from."""
    probe = "exec 3<>/dev/tcp/192.0.2.1/443"
    run(server, session_id, "bash", "-c", probe)
    path = f"/local/sessions/{session_id}/egress"
    records: list[dict[str, object]] = []

    def has_it() -> bool:
        body = server.ask("GET", f"{path}?after=0&follow=false").body
        records[:] = [json.loads(line) for line in body.splitlines()]
        return any(record["host"] == "192.0.2.1" for record in records)

    wait_for(has_it, 5, step_s=0.1)
    found = [record for record in records if record["host"] == "192.0.2.1"]
    later = server.ask("GET", f"{path}?after={records[-1]['seq']}&follow=false").body

    assert [(record["port"], record["verdict"]) for record in found] == [(443, "blocked")]
    assert later == b""


def test_egress_is_followed_as_it_comes(server: LocalServer, session_id: str) -> None:
    """A follower gets a record soon after the attempt."""
    with closing(server.connection()) as connection:
        headers = {"authorization": f"Bearer {server.token}"}
        path = f"/api/local/sessions/{session_id}/egress?after=0&follow=true"
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        trying = threading.Thread(
            target=run, args=(server, session_id, "bash", "-c", "exec 3<>/dev/tcp/192.0.2.7/443")
        )
        trying.start()
        hosts = []
        while "192.0.2.7" not in hosts:
            hosts.append(json.loads(response.readline())["host"])
        trying.join()

    assert hosts[-1] == "192.0.2.7"


def test_cut_needs_a_host(server: LocalServer, session_id: str) -> None:
    """A cut names a host; the number of connections that it cut comes back."""
    path = f"/local/sessions/{session_id}/cut"
    answers = [server.ask("POST", path, {"host": host}) for host in ("example.com", "1.2.3.4", 5)]

    assert [answer.status for answer in answers] == [200, 400, 400]
    assert answers[0].json() == {"cut": 0}


def test_half_a_request_stops_nobody(server: LocalServer) -> None:
    """A client that sends half a request and waits holds up no other."""
    with closing(socket.socket(socket.AF_UNIX)) as half:
        half.connect(str(server.state["socket"]))
        half.sendall(b"POST /api/v3/sandboxes HTTP/1.1\r\nhost: local\r\ncontent-length: 99\r\n")

        assert server.ask("GET", "/local/info").status == 200


def test_wrong_input_bodies_write_nothing(server: LocalServer, session_id: str) -> None:
    """Input that is malformed, or from before its own start, is refused and not half taken."""
    body = {"command": "cat", "args": [], "attachStdin": True}
    created = server.ask("POST", f"{SESSIONS}/{session_id}/cmd", body).json()
    path = f"{SESSIONS}/{session_id}/cmd/{text(created, 'command', 'id')}"
    answers = [server.ask("POST", f"{path}/stdin", wrong) for wrong in (
        {"data": 1}, {"data": "!!"}, {"data": ["YQ=="]}, {"data": "YQ==", "offset": -1},
        {"data": "YQ==", "offset": 1}, {"offset": "0"}, {"offset": True}, {"close": "yes"},
    )]  # fmt: skip
    taken = server.ask("POST", f"{path}/stdin", {}).json()["bytesWritten"]
    server.ask("POST", f"{path}/kill", {"signal": 9})

    assert [(answer.status, answer.code) for answer in answers] == [(400, "bad_request")] * 8
    assert taken == 0


@pytest.mark.parametrize("field", ["env", "tags"])
def test_empty_list_is_no_object(server: LocalServer, field: str) -> None:
    """What is empty is still told apart by its kind."""
    answer = server.ask("POST", "/v3/sandboxes", {"name": "never", field: []})

    assert (answer.status, answer.code) == (400, "bad_request")


@pytest.mark.parametrize(("query", "flags"), [("?wait=true", {}), ("", {"wait": True})])
def test_wait_without_output_has_two_records(
    server: LocalServer, session_id: str, query: str, flags: dict[str, bool]
) -> None:
    """The wish to wait may stand in the query or the body; both ends of the run are told."""
    body = {"command": "sh", "args": ["-c", "echo unheard; exit 3"], **flags}
    answer = server.ask("POST", f"{SESSIONS}/{session_id}/cmd{query}", body)
    records = [json.loads(line) for line in answer.body.splitlines()]

    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [record["command"]["exitCode"] for record in records] == [None, 3]


def test_output_may_be_wished_for_in_the_body(server: LocalServer, session_id: str) -> None:
    """A body that asks for output has it, without a query."""
    body = {"command": "echo", "args": ["heard"], "wait": True, "logs": True}
    answer = server.ask("POST", f"{SESSIONS}/{session_id}/cmd", body)
    records = [json.loads(line) for line in answer.body.splitlines()]

    assert [list(record) for record in records] == [["command"], ["stream", "data"], ["command"]]
