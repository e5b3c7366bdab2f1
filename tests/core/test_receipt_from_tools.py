from __future__ import annotations

from opencode_magic.core.parts import ToolPart
from opencode_magic.core.policy import REASON_NOT_LISTED, HostRules, NetworkPolicy
from opencode_magic.core.receipt import HostCount, Receipt, receipt_from_tools

POLICY = NetworkPolicy(mode="custom", hosts=(HostRules("model.example"),))


def tool(name: str, **arguments: object) -> ToolPart:
    """Give a completed call."""
    return ToolPart("prt_1", "msg_1", "call_1", name, "completed", input=arguments)


def test_hosts_in_tool_calls() -> None:
    """Each address in a call counts once, as reached or blocked by the policy as read back."""
    tools = (
        tool("webfetch", url="https://Example.com/a?b=1"),
        tool("bash", command="curl http://203.0.113.9:8080/ && curl https://model.example/v1"),
        tool("webfetch", url="https://example.com./again"),
    )

    receipt = receipt_from_tools(tools, POLICY, model_host="model.example", model_calls=3)

    assert receipt == Receipt(
        reached=(HostCount("model.example", 443, 4),),
        blocked=(
            HostCount("example.com", 443, 2, REASON_NOT_LISTED),
            HostCount("203.0.113.9", 8080, 1, REASON_NOT_LISTED),
        ),
        source="tool reports",
        is_complete=False,
    )


def test_nothing_was_called() -> None:
    """A turn without a model's answer and without calls reached nothing that is known."""
    receipt = receipt_from_tools((), POLICY, model_host="model.example", model_calls=0)

    assert receipt == Receipt((), (), "tool reports", is_complete=False)


def test_no_address_is_made_up() -> None:
    """Text that only looks like an address names no host."""
    receipt = receipt_from_tools(
        (tool("bash", command="echo http://999.1.1 http:// https://-bad-"),),
        POLICY,
        model_host="model.example",
        model_calls=0,
    )

    assert receipt.blocked == ()


def test_addresses_without_end_are_counted_up_to_a_number() -> None:
    """A receipt from tool reports is not complete anyway; it must not fill the memory."""
    text = " ".join(f"http://a{number}.example" for number in range(300_000))
    tools = [tool("bash", command=text)] * 10

    receipt = receipt_from_tools(tools, POLICY, model_host="model.example", model_calls=1)

    assert len(receipt.blocked) == 10_000
    assert not receipt.is_complete
