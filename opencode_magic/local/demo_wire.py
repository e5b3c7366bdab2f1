"""The demo model's four streaming protocols: request bodies to ``Asked``, an ``Answer`` to bytes.

Sources: OpenAI chat completions and responses, Anthropic messages, and the AI SDK's language model
interface, version 3, as OpenCode 1.18.33 sends and reads them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opencode_magic.local.demo_answer import Asked, ToolResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from opencode_magic.local.demo_answer import Answer, ToolCall

    Json = Mapping[str, object]
    Stream = Iterator[tuple[float, bytes]]
    """Pauses in seconds, and the bytes after each."""

MOST_TOKENS = 50_000


@dataclass(frozen=True, slots=True)
class Protocol:
    """How one provider's API asks and is answered."""

    name: str
    path: str
    """The end of the request's path."""
    parse: Callable[[Json], Asked]
    stream: Callable[[Answer, Asked], Stream]
    error: Callable[[int, str], Json]


def protocol_for(path: str) -> Protocol | None:
    """Choose the protocol by the end of the path, without its query."""
    bare = path.partition("?")[0].rstrip("/")
    return next((protocol for protocol in PROTOCOLS if bare.endswith(protocol.path)), None)


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _text(content: object) -> str:
    """Join the text of a content value: a string, or a list of parts that hold text."""
    if isinstance(content, str):
        return content
    texts = (_object(part).get("text") for part in _list(content))
    return "\n".join(text for text in texts if isinstance(text, str))


class _Turn:
    """Collects what was said since the user's last words, whatever the protocol."""

    def __init__(self) -> None:
        self.prompt = ""
        self.size_chars = 0
        self._calls: dict[str, tuple[str, Json]] = {}
        self._results: list[ToolResult] = []

    def user(self, text: str) -> None:
        self.size_chars += len(text)
        if text:
            self.prompt, self._results = text, []

    def said(self, text: str) -> None:
        self.size_chars += len(text)

    def call(self, call_id: object, name: object, arguments: object) -> None:
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError:
                arguments = {}
        self._calls[_string(call_id)] = (_string(name), _object(arguments))

    def result(self, call_id: object, output: str, *, is_error: bool = False) -> None:
        self.size_chars += len(output)
        name, arguments = self._calls.get(_string(call_id), ("", {}))
        self._results.append(ToolResult(name, arguments, output, is_error))

    def asked(self, body: Json, tools: frozenset[str]) -> Asked:
        model = _string(body.get("model"))
        return Asked(self.prompt, tuple(self._results), tools, model, self.size_chars)


def _parse_chat(body: Json) -> Asked:
    turn = _Turn()
    for item in _list(body.get("messages")):
        message = _object(item)
        text = _text(message.get("content"))
        match message.get("role"):
            case "user":
                turn.user(text)
            case "tool":
                turn.result(message.get("tool_call_id"), text)
            case _:
                turn.said(text)
        for entry in _list(message.get("tool_calls")):
            call = _object(entry)
            function = _object(call.get("function"))
            turn.call(call.get("id"), function.get("name"), function.get("arguments"))
    named = (_object(_object(tool).get("function")).get("name") for tool in _tools(body))
    return turn.asked(body, frozenset(map(_string, named)))


def _tools(body: Json) -> Sequence[object]:
    return _list(body.get("tools"))


def _flat_tools(body: Json) -> frozenset[str]:
    return frozenset(_string(_object(tool).get("name")) for tool in _tools(body))


def _parse_responses(body: Json) -> Asked:
    turn = _Turn()
    given = body.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else _list(given)
    for entry in items:
        item = _object(entry)
        match item.get("type"), item.get("role"):
            case "function_call", _:
                turn.call(item.get("call_id"), item.get("name"), item.get("arguments"))
            case "function_call_output", _:
                turn.result(item.get("call_id"), _text(item.get("output")))
            case _, "user":
                turn.user(_text(item.get("content")))
            case _:
                turn.said(_text(item.get("content")))
    return turn.asked(body, _flat_tools(body))


def _parse_anthropic(body: Json) -> Asked:
    turn = _Turn()
    turn.said(_text(body.get("system")))
    for entry in _list(body.get("messages")):
        message = _object(entry)
        content = message.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        texts = []
        for item in _list(blocks):
            block = _object(item)
            match block.get("type"):
                case "tool_use":
                    turn.call(block.get("id"), block.get("name"), block.get("input"))
                case "tool_result":
                    is_error = block.get("is_error") is True
                    output = _text(block.get("content"))
                    turn.result(block.get("tool_use_id"), output, is_error=is_error)
                case "text":
                    texts.append(_string(block.get("text")))
        (turn.user if message.get("role") == "user" else turn.said)("\n".join(texts))
    return turn.asked(body, _flat_tools(body))


def _parse_gateway(body: Json) -> Asked:
    turn = _Turn()
    for entry in _list(body.get("prompt")):
        message = _object(entry)
        content = message.get("content")
        for item in _list(content):
            part = _object(item)
            match part.get("type"):
                case "tool-call":
                    turn.call(part.get("toolCallId"), part.get("toolName"), part.get("input"))
                case "tool-result":
                    output = _object(part.get("output"))
                    value = output.get("value")
                    text = value if isinstance(value, str) else _text(value)
                    is_error = _string(output.get("type")).startswith("error")
                    turn.result(part.get("toolCallId"), text, is_error=is_error)
        (turn.user if message.get("role") == "user" else turn.said)(_text(content))
    return turn.asked(body, _flat_tools(body))


def _usage(answer: Answer, asked: Asked) -> tuple[int, int]:
    """Invent plausible token counts: a quarter of the characters, too few for a compaction."""
    written = sum(len(piece.text) for piece in answer.pieces) // 4
    spent = asked.size_chars // 4 if answer.usage_tokens is None else answer.usage_tokens
    limit = MOST_TOKENS if answer.usage_tokens is None else spent
    return min(max(1, spent), limit), min(max(1, written), MOST_TOKENS)


def _data(payload: Json) -> bytes:
    return b"data: " + json.dumps(payload, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"


def _named(payload: Json) -> bytes:
    return f"event: {payload['type']}\n".encode() + _data(payload)


def _call_id(asked: Asked) -> str:
    return f"call_{len(asked.results) + 1}"


def _arguments(call: ToolCall) -> str:
    return json.dumps(call.arguments)


def _stream_chat(answer: Answer, asked: Asked) -> Stream:
    head = {"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": 0}
    head |= {"model": asked.model, "system_fingerprint": "scripted"}

    def chunk(delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return _data({**head, "choices": [choice]})

    yield 0.0, chunk({"role": "assistant", "content": ""})
    for piece in answer.pieces:
        key = "content" if piece.kind == "text" else "reasoning_content"
        yield piece.pause_s, chunk({key: piece.text})
    if answer.call:
        function = {"name": answer.call.tool, "arguments": _arguments(answer.call)}
        call = {"index": 0, "id": _call_id(asked), "type": "function", "function": function}
        yield 0.0, chunk({"tool_calls": [call]})
    yield 0.0, chunk({}, "tool_calls" if answer.call else answer.finish)
    spent, written = _usage(answer, asked)
    usage = {"prompt_tokens": spent, "completion_tokens": written, "total_tokens": spent + written}
    yield 0.0, _data({**head, "choices": [], "usage": usage})
    yield 0.0, b"data: [DONE]\n\n"


def _stream_anthropic(answer: Answer, asked: Asked) -> Stream:
    spent, written = _usage(answer, asked)
    message: dict[str, object] = {"id": "msg_scripted", "type": "message", "role": "assistant"}
    message |= {"content": [], "model": asked.model, "stop_reason": None, "stop_sequence": None}
    message |= {"usage": {"input_tokens": spent, "output_tokens": 1}}
    yield 0.0, _named({"type": "message_start", "message": message})
    index = -1
    kind = ""
    for piece in answer.pieces:
        if piece.kind != kind:
            if kind:
                yield 0.0, _named({"type": "content_block_stop", "index": index})
            kind, index = piece.kind, index + 1
            empty = {"type": "text", "text": ""}
            if kind == "reasoning":
                empty = {"type": "thinking", "thinking": "", "signature": ""}
            start = {"type": "content_block_start", "index": index, "content_block": empty}
            yield 0.0, _named(start)
        delta = {"type": "text_delta", "text": piece.text}
        if kind == "reasoning":
            delta = {"type": "thinking_delta", "thinking": piece.text}
        block = {"type": "content_block_delta", "index": index, "delta": delta}
        yield piece.pause_s, _named(block)
    if kind:
        yield 0.0, _named({"type": "content_block_stop", "index": index})
    if answer.call:
        index += 1
        tool = {"type": "tool_use", "id": _call_id(asked), "name": answer.call.tool, "input": {}}
        yield 0.0, _named({"type": "content_block_start", "index": index, "content_block": tool})
        part = {"type": "input_json_delta", "partial_json": _arguments(answer.call)}
        yield 0.0, _named({"type": "content_block_delta", "index": index, "delta": part})
        yield 0.0, _named({"type": "content_block_stop", "index": index})
    stop = {"stop": "end_turn", "length": "max_tokens"}.get(answer.finish, "refusal")
    ending = {"stop_reason": "tool_use" if answer.call else stop, "stop_sequence": None}
    usage = {"output_tokens": written}
    yield 0.0, _named({"type": "message_delta", "delta": ending, "usage": usage})
    yield 0.0, _named({"type": "message_stop"})


def _stream_responses(answer: Answer, asked: Asked) -> Stream:
    spent, written = _usage(answer, asked)
    response: dict[str, object] = {"id": "resp_scripted", "object": "response", "created_at": 0}
    response |= {"model": asked.model, "status": "in_progress", "output": [], "service_tier": None}
    yield 0.0, _named({"type": "response.created", "response": response})
    index = 0
    pieces = [piece for piece in answer.pieces if piece.kind == "text"]
    if pieces:
        item = {"id": "msg_scripted", "type": "message", "role": "assistant", "content": []}
        where = {"output_index": index, "item_id": "msg_scripted", "content_index": 0}
        added = {"type": "response.output_item.added", "output_index": index, "item": item}
        yield 0.0, _named(added)
        for piece in pieces:
            delta = {"type": "response.output_text.delta", **where, "delta": piece.text}
            yield piece.pause_s, _named({**delta, "logprobs": []})
        content = {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
        done = {**item, "content": [content]}
        ended = {"type": "response.output_item.done", "output_index": index, "item": done}
        yield 0.0, _named(ended)
        index += 1
    if answer.call:
        call = {"id": "fc_scripted", "type": "function_call", "call_id": _call_id(asked)}
        call |= {"name": answer.call.tool, "arguments": ""}
        place = {"output_index": index}
        added = {"type": "response.output_item.added", **place, "item": call}
        yield 0.0, _named(added)
        arguments = {"item_id": "fc_scripted", "delta": _arguments(answer.call)}
        yield 0.0, _named({"type": "response.function_call_arguments.delta", **place, **arguments})
        full = {**call, "arguments": _arguments(answer.call), "status": "completed"}
        yield 0.0, _named({"type": "response.output_item.done", **place, "item": full})
    counted = {"input_tokens": spent, "output_tokens": written, "total_tokens": spent + written}
    details = {
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    finished = {**response, "status": "completed", "usage": {**counted, **details}}
    if answer.finish == "length":
        finished |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        yield 0.0, _named({"type": "response.incomplete", "response": finished})
    else:
        yield 0.0, _named({"type": "response.completed", "response": finished})


def _stream_gateway(answer: Answer, asked: Asked) -> Stream:
    yield 0.0, _data({"type": "stream-start", "warnings": []})
    kind = ""
    for piece in answer.pieces:
        if piece.kind != kind:
            if kind:
                yield 0.0, _data({"type": f"{kind}-end", "id": kind})
            kind = piece.kind
            yield 0.0, _data({"type": f"{kind}-start", "id": kind})
        yield piece.pause_s, _data({"type": f"{kind}-delta", "id": kind, "delta": piece.text})
    if kind:
        yield 0.0, _data({"type": f"{kind}-end", "id": kind})
    if answer.call:
        call = {"type": "tool-call", "toolCallId": _call_id(asked), "toolName": answer.call.tool}
        yield 0.0, _data({**call, "input": _arguments(answer.call)})
    spent, written = _usage(answer, asked)
    reason = "tool-calls" if answer.call else answer.finish.replace("_", "-")
    usage = {
        "inputTokens": {"total": spent, "noCache": spent, "cacheRead": 0, "cacheWrite": 0},
        "outputTokens": {"total": written, "text": written, "reasoning": 0},
    }
    finish = {"unified": reason, "raw": reason}
    yield 0.0, _data({"type": "finish", "finishReason": finish, "usage": usage})


def _openai_error(status: int, message: str) -> Json:
    kind = "invalid_request_error" if status < 500 else "server_error"  # noqa: PLR2004 - HTTP's class of server errors
    return {"error": {"message": message, "type": kind, "code": str(status), "param": None}}


def _anthropic_error(status: int, message: str) -> Json:
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


def _gateway_error(status: int, message: str) -> Json:
    kind = {401: "authentication_error", 429: "rate_limit_exceeded"}.get(
        status, "internal_server_error"
    )
    return {"error": {"message": message, "type": kind, "param": None, "code": str(status)}}


PROTOCOLS = (
    Protocol("chat", "/chat/completions", _parse_chat, _stream_chat, _openai_error),
    Protocol("responses", "/responses", _parse_responses, _stream_responses, _openai_error),
    Protocol("anthropic", "/messages", _parse_anthropic, _stream_anthropic, _anthropic_error),
    Protocol("gateway", "/ai/language-model", _parse_gateway, _stream_gateway, _gateway_error),
)
