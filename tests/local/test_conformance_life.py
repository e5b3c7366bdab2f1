"""The promises of the Sandbox API about a sandbox's policy and life, through the SDK."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from vercel.sandbox import sync as sdk

from tests.local.servers import wait_for


def brokered(secret: str) -> sdk.NetworkPolicy:
    rule = sdk.NetworkPolicyRule(
        match=sdk.NetworkPolicyRequestMatcher(path=sdk.NetworkPolicyMatcher.starts_with("/v1")),
        transform=[sdk.NetworkPolicyTransform(headers={"authorization": f"Bearer {secret}"})],
    )
    return sdk.NetworkPolicy.custom(allow={"api.example.com": [rule], "*.example.org": ()})


def session_of(box: sdk.SyncSandbox) -> sdk.SyncSandboxRuntimeSession:
    session = box.current_session
    assert session is not None
    return session


def test_policy_is_read_back_without_values(box: sdk.SyncSandbox) -> None:
    """The policy in force shows header names, and never a value."""
    box.update(network_policy=brokered("planted-value"))
    readback = box.network_policy

    assert readback is not None
    assert (readback.mode, readback.allowed_domains) == (
        "custom",
        ("api.example.com", "*.example.org"),
    )
    assert readback.injection_rules[0].header_names == ("authorization",)
    assert "planted-value" not in repr(readback)


def test_extend_adds_time(box: sdk.SyncSandbox) -> None:
    """An extension is added to the session's limit."""
    session = session_of(box)
    before = session.execution_time_limit
    box.extend_execution_time_limit(timedelta(minutes=3))
    session.refresh()

    assert before is not None
    assert session.execution_time_limit == before + timedelta(minutes=3)


def test_named_lookup_finds_it(client: sdk.SyncSandboxClient, box: sdk.SyncSandbox) -> None:
    """Another client finds a sandbox by its name."""
    found = client.get_sandbox(name="shared")

    assert (found.current_session_id, found.routes[0].url) == (
        box.current_session_id,
        box.routes[0].url,
    )


def test_unknown_name_is_404(client: sdk.SyncSandboxClient) -> None:
    """A sandbox that does not exist is not found."""
    with pytest.raises(sdk.SandboxApiError) as caught:
        client.get_sandbox(name="nobody")

    assert (caught.value.status_code, caught.value.code) == (404, "not_found")


def test_stop_ends_it_and_later_calls_get_410(client: sdk.SyncSandboxClient) -> None:
    """A stopped sandbox that is not persistent stays stopped."""
    box = client.create_sandbox(name="stopped", persistent=False)
    session = session_of(box)
    box.stop()
    with pytest.raises(sdk.SandboxApiError) as caught:
        session.run_process("true")
    with pytest.raises(sdk.SandboxApiError) as resumed:
        box.run_process("true")
    status = client.get_sandbox(name="stopped").status
    box.destroy()

    assert (caught.value.status_code, caught.value.code) == (410, "sandbox_stopped")
    assert (resumed.value.status_code, resumed.value.code) == (410, "snapshot_not_found")
    assert status == sdk.SandboxStatus.STOPPED


def test_stop_ends_a_stream_that_is_open(client: sdk.SyncSandboxClient) -> None:
    """Who waits for a command is told when its sandbox ends."""
    box = client.create_sandbox(name="streaming", persistent=False)
    codes: list[int | None] = []
    waiter = threading.Thread(
        target=lambda: codes.append(box.run_process("sleep", ["60"]).returncode)
    )
    waiter.start()
    wait_for(lambda: bool(list(box.query_processes())), 5)
    session_of(box).stop()
    waiter.join(10)
    box.destroy()

    assert codes == [137]


def test_persistent_sandbox_resumes_with_its_files(client: sdk.SyncSandboxClient) -> None:
    """A persistent sandbox starts again by itself, with what it had."""
    box = client.create_sandbox(name="lasting", persistent=True)
    first = box.current_session_id
    box.fs.write_text("keep.txt", "kept")
    box.stop()
    text = box.fs.read_text("keep.txt")
    box.destroy()

    assert (text, box.current_session_id != first) == ("kept", True)


def test_destroy_removes_it(client: sdk.SyncSandboxClient) -> None:
    """A destroyed sandbox is gone from every list."""
    with client.create_sandbox(name="brief", persistent=False) as box:
        box.run_process("true")
    with pytest.raises(sdk.SandboxApiError) as caught:
        client.get_sandbox(name="brief")
    query = sdk.SandboxQueryByName(name_prefix="brief")

    assert caught.value.status_code == 404
    assert list(client.query_sandboxes(query=query)) == []


def test_snapshot_restores_files_under_the_new_policy(client: sdk.SyncSandboxClient) -> None:
    """A sandbox from a snapshot has the files, and the policy that it is created with."""
    box = client.create_sandbox(name="source", persistent=False)
    box.fs.write_text("work.txt", "work")
    snapshot = box.snapshot(expiration=timedelta(days=7))
    copy = client.create_sandbox(
        name="copy",
        persistent=False,
        source=sdk.SnapshotSource(snapshot_id=snapshot.id),
        network_policy=sdk.NetworkPolicy.deny_all(),
    )
    text, policy = copy.fs.read_text("work.txt"), copy.network_policy
    copy.destroy()
    box.destroy(delete_orphan_snapshots=True)

    assert (text, policy.mode if policy else "") == ("work", "deny-all")
    assert list(client.query_snapshots()) == []


def test_pages_of_a_list(client: sdk.SyncSandboxClient) -> None:
    """A long list comes in pages, each sandbox once."""
    names = [f"page-{number}" for number in range(3)]
    boxes = [client.create_sandbox(name=name, persistent=False) for name in names]
    query = sdk.SandboxQueryByName(name_prefix="page-", sort_order="asc")
    found = [item.name for item in client.query_sandboxes(query=query, page_size=2)]
    for box in boxes:
        box.destroy()

    assert found == names


def test_tags_filter_a_list(client: sdk.SyncSandboxClient, box: sdk.SyncSandbox) -> None:
    """A sandbox is found by its tag, and not by another."""

    def named(value: str) -> list[str]:
        query = sdk.SandboxQueryByCreatedAt(tag=sdk.TagFilter(key="app", value=value))
        return [item.name for item in client.query_sandboxes(query=query)]

    assert (named("tests"), named("other")) == ([box.name], [])


def test_expiry_ends_it(client: sdk.SyncSandboxClient) -> None:
    """A sandbox ends when its time is up."""
    box = client.create_sandbox(
        name="short", persistent=False, execution_time_limit=timedelta(milliseconds=400)
    )
    wait_for(lambda: client.get_sandbox(name="short").status == sdk.SandboxStatus.STOPPED, 5)
    status = client.get_sandbox(name="short").status
    box.destroy()

    assert status == sdk.SandboxStatus.STOPPED


def rule_of(**more: object) -> sdk.NetworkPolicyRule:
    return sdk.NetworkPolicyRule(**more)  # type: ignore[arg-type] # one of three actions


def sets(**headers: str) -> list[sdk.NetworkPolicyTransform]:
    return [sdk.NetworkPolicyTransform(headers=headers)]


def test_each_kind_of_policy_is_read_back(box: sdk.SyncSandbox) -> None:
    """Modes, hosts, subnets and all three actions come back as what they are, on both handles."""
    full = sdk.NetworkPolicy.custom(
        allow={
            "plain.example.com": (),
            "*.example.org": [rule_of(transform=sets(Authorization="Bearer planted"))],
            "made.example.net": [rule_of(response=sdk.NetworkPolicyResponse(403))],
            "sent.example.net": [rule_of(forward_url="https://proxy.example.com/in")],
        },
        subnets=sdk.NetworkPolicySubnets(allow=["192.0.2.0/24"], deny=["2001:db8::/32"]),
    )
    found = []
    for policy in (
        sdk.NetworkPolicy.allow_all(),
        sdk.NetworkPolicy.custom(allow={}),
        sdk.NetworkPolicy.custom(allow=dict.fromkeys(["a.example.com", "b.example.com"], ())),
        full,
    ):
        box.update(network_policy=policy)
        assert session_of(box).network_policy == box.network_policy
        found.append(box.network_policy)
    box.update(network_policy=sdk.NetworkPolicy.deny_all())
    last = found[-1]
    assert last is not None

    assert [item and (item.mode, item.allowed_domains) for item in found[:3]] == [
        ("allow-all", ()),
        ("deny-all", ()),
        ("custom", ("a.example.com", "b.example.com")),
    ]
    assert last.subnets == sdk.NetworkPolicySubnets(
        allow=("192.0.2.0/24",), deny=("2001:db8::/32",)
    )
    assert [(item.domain, item.header_names) for item in last.injection_rules] == [
        ("*.example.org", ("authorization",))
    ]
    assert [(item.domain, item.status_code) for item in last.response_rules] == [
        ("made.example.net", 403)
    ]
    assert [(item.domain, item.forward_url) for item in last.forward_rules] == [
        ("sent.example.net", "https://proxy.example.com/in")
    ]
    assert "planted" not in repr(last)


@pytest.mark.parametrize(
    ("host", "rules", "said"),
    [
        ("http://example.com", (), "is not a host name"),
        ("*", (), "is not a host name"),
        ("api.example.com", [rule_of(transform=sets(**{"a b": "planted"}))], "not a header name"),
        ("api.example.com", [rule_of(transform=sets(a="plan\nted"))], "one line of text"),
        ("api.example.com", [rule_of(forward_url="ftp://example.com")], "not an http address"),
        ("api.example.com", [rule_of(forward_url="http://127.0.0.1")], "loopback"),
        (
            "api.example.com",
            [
                rule_of(
                    match=sdk.NetworkPolicyRequestMatcher(
                        path=sdk.NetworkPolicyMatcher.regex("(planted")
                    ),
                    transform=sets(a="planted"),
                )
            ],
            "not a regular expression",
        ),
    ],
)
def test_bad_policy_is_told_and_changes_nothing(
    box: sdk.SyncSandbox, host: str, rules: list[sdk.NetworkPolicyRule], said: str
) -> None:
    """A policy that cannot be is refused with its place, without a value, and the old one holds."""
    box.update(network_policy=sdk.NetworkPolicy.deny_all())
    with pytest.raises(sdk.SandboxApiError, match=said) as caught:
        box.update(network_policy=sdk.NetworkPolicy.custom(allow={host: rules}))
    session = session_of(box)
    session.refresh()
    policy = session.network_policy

    assert (caught.value.status_code, caught.value.code) == (400, "bad_request")
    assert "planted" not in str(caught.value)
    assert policy is not None
    assert policy.mode == "deny-all"
