"""Chat Completions and legacy Completions: bodies and streams."""

from __future__ import annotations

from collections.abc import Iterator

from .._json import JsonObject, dump, obj, text
from ..exchange import Exchange, Payload, StreamEvent
from ..scripts import MockAnswer
from .ids import created, draw_id
from .wire import DONE, JSON, sse, stream_failure


def write_chat(exchange: Exchange) -> Payload:
    """Write a `chat.completion`."""
    choices = [
        {
            "index": index,
            "message": _message(exchange, index, answer),
            "logprobs": None,
            "finish_reason": _finish(answer),
        }
        for index, answer in enumerate(exchange.answers)
    ]
    body = {
        **_head(exchange, "chat.completion"),
        "choices": choices,
        "usage": chat_usage(exchange),
    }
    return Payload(media_type=JSON, data=dump(body))


class ChatStream:
    """Writes `chat.completion.chunk`s, and the usage chunk where it was asked for."""

    def events(self, exchange: Exchange) -> Iterator[StreamEvent]:
        """Write the whole stream."""
        head = _head(exchange, "chat.completion.chunk")
        counted = _wants_usage(exchange)
        if counted:
            head["usage"] = None
        for index, answer in enumerate(exchange.answers):
            for delta, tokens in _deltas(exchange, index, answer):
                yield _chunk(head, index, delta, None, tokens)
            yield _chunk(head, index, {}, _finish(answer), 0)
        if counted:
            yield sse({**head, "choices": [], "usage": chat_usage(exchange)})
        yield DONE

    def failure(self, exchange: Exchange, code: str, sequence: int) -> Iterator[StreamEvent]:
        """Write the error that ends a stream after `sequence` events."""
        return stream_failure(code)


def write_completion(exchange: Exchange) -> Payload:
    """Write a `text_completion`."""
    body = {
        **_head(exchange, "text_completion"),
        "choices": [
            _text_choice(index, answer.text, _finish(answer))
            for index, answer in enumerate(exchange.answers)
        ],
        "usage": _plain_usage(exchange),
    }
    return Payload(media_type=JSON, data=dump(body))


class CompletionStream:
    """Writes legacy completions piece by piece."""

    def events(self, exchange: Exchange) -> Iterator[StreamEvent]:
        """Write the whole stream."""
        head = _head(exchange, "text_completion")
        for index, answer in enumerate(exchange.answers):
            for piece, tokens in shares(answer.pieces, answer.tokens):
                yield sse({**head, "choices": [_text_choice(index, piece, None)]}, tokens)
            yield sse({**head, "choices": [_text_choice(index, "", _finish(answer))]})
        if _wants_usage(exchange):
            yield sse({**head, "choices": [], "usage": _plain_usage(exchange)})
        yield DONE

    def failure(self, exchange: Exchange, code: str, sequence: int) -> Iterator[StreamEvent]:
        """Write the error that ends a stream after `sequence` events."""
        return stream_failure(code)


def shares(pieces: list[str], tokens: int) -> Iterator[tuple[str, int]]:
    """Deal the tokens of an answer out over its pieces, at least one to each while they last."""
    told = 0
    for number, piece in enumerate(pieces, start=1):
        upto = max(1, tokens) * number // len(pieces)
        yield piece, upto - told
        told = upto


def chat_usage(exchange: Exchange) -> JsonObject:
    """Count as the API bills: three tokens a message and three for the answer's start."""
    ask = exchange.call.ask
    return {
        **_usage(ask.input_tokens + 3 + 4 * ask.messages, _answered(exchange)),
        "prompt_tokens_details": {"cached_tokens": ask.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _plain_usage(exchange: Exchange) -> JsonObject:
    return _usage(exchange.call.ask.input_tokens, _answered(exchange))


def _usage(prompt: int, completion: int) -> JsonObject:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def _answered(exchange: Exchange) -> int:
    return sum(answer.tokens for answer in exchange.answers)


def _head(exchange: Exchange, kind: str) -> JsonObject:
    prefix = "cmpl-" if kind == "text_completion" else "chatcmpl-"
    head: JsonObject = {
        "id": draw_id(exchange, prefix),
        "object": kind,
        "created": created(exchange),
        "model": exchange.call.model,
    }
    if kind != "text_completion":
        head |= {"service_tier": "default", "system_fingerprint": "fp_mock"}
    return head


def _message(exchange: Exchange, index: int, answer: MockAnswer) -> JsonObject:
    calls = _tool_calls(exchange, index, answer)
    message: JsonObject = {
        "role": "assistant",
        "content": answer.text or (None if calls else ""),
        "refusal": None,
        "annotations": [],
    }
    return {**message, "tool_calls": calls} if calls else message


def _tool_calls(exchange: Exchange, index: int, answer: MockAnswer) -> list[JsonObject]:
    return [
        {
            "id": draw_id(exchange, "call_", f"{index}.{number}"),
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments_json},
        }
        for number, call in enumerate(answer.tool_calls)
    ]


def _deltas(exchange: Exchange, index: int, answer: MockAnswer) -> Iterator[tuple[JsonObject, int]]:
    """Give what each chunk adds to the message: role, text, then each call and its arguments."""
    calls = _tool_calls(exchange, index, answer)
    content = None if calls and not answer.text else ""
    yield {"role": "assistant", "content": content, "refusal": None}, 0
    text_tokens = 0 if calls else answer.tokens
    for piece, tokens in shares(answer.pieces, text_tokens):
        yield {"content": piece}, tokens
    for number, call in enumerate(calls):
        function = obj(call["function"])
        opened = {**call, "index": number, "function": {**function, "arguments": ""}}
        yield {"tool_calls": [opened]}, 0
        added = {"index": number, "function": {"arguments": text(function.get("arguments"))}}
        yield {"tool_calls": [added]}, answer.tokens // len(calls)


def _chunk(
    head: JsonObject, index: int, delta: JsonObject, finish: str | None, tokens: int
) -> StreamEvent:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return sse({**head, "choices": [choice]}, tokens)


def _text_choice(index: int, said: str, finish: str | None) -> JsonObject:
    return {"index": index, "text": said, "logprobs": None, "finish_reason": finish}


def _finish(answer: MockAnswer) -> str:
    if answer.tool_calls:
        return "tool_calls"
    return "length" if answer.capped else "stop"


def _wants_usage(exchange: Exchange) -> bool:
    options = obj((exchange.call.body or {}).get("stream_options"))
    return options.get("include_usage") is True
