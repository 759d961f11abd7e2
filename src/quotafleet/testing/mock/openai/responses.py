"""The Responses API: the response object, and the events that build it up."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from .._json import JsonObject, dump
from ..exchange import Exchange, Payload, StreamEvent
from ..scripts import MockAnswer
from .chat import shares
from .ids import created, draw_id
from .wire import JSON, late_problem, sse


def write_response(exchange: Exchange) -> Payload:
    """Write a completed response."""
    return Payload(media_type=JSON, data=dump(_complete(exchange)))


class ResponseStream:
    """Writes the events of a response; each carries its number in the stream."""

    def events(self, exchange: Exchange) -> Iterator[StreamEvent]:
        """Write the whole stream."""
        numbers = count()

        def event(kind: str, tokens: int = 0, **fields: object) -> StreamEvent:
            body: JsonObject = {"type": kind, "sequence_number": next(numbers), **fields}
            return sse(body, tokens, event=kind)

        begun = _response(exchange, "in_progress", output=[], usage=None)
        yield event("response.created", response=begun)
        yield event("response.in_progress", response=begun)
        for index, item in enumerate(_items(exchange)):
            for kind, tokens, fields in _item_events(exchange.answers[0], index, item):
                yield event(kind, tokens, **fields)
        done = _complete(exchange)
        yield event(f"response.{done['status']}", response=done)

    def failure(self, exchange: Exchange, code: str, sequence: int) -> Iterator[StreamEvent]:
        """Write the error after `sequence` events, and the response that failed."""
        problem = late_problem(code)
        error = {"code": problem.code or code, "message": problem.message}
        yield sse(
            {"type": "error", "sequence_number": sequence, **error, "param": None}, event="error"
        )
        failed = _response(exchange, "failed", output=[], usage=None) | {"error": error}
        body: JsonObject = {"type": "response.failed", "response": failed}
        yield sse(body | {"sequence_number": sequence + 1}, event="response.failed")


_Step = tuple[str, int, JsonObject]


def _item_events(answer: MockAnswer, index: int, item: JsonObject) -> Iterator[_Step]:
    opened: JsonObject = {**item, "status": "in_progress"}
    if item["type"] == "message":
        opened["content"] = []
    else:
        opened["arguments"] = ""
    yield "response.output_item.added", 0, {"output_index": index, "item": opened}
    if item["type"] == "message":
        yield from _text_events(answer, index, item)
    else:
        yield from _call_events(answer, index, item)
    yield "response.output_item.done", 0, {"output_index": index, "item": item}


def _text_events(answer: MockAnswer, index: int, item: JsonObject) -> Iterator[_Step]:
    place: JsonObject = {"item_id": item["id"], "output_index": index, "content_index": 0}
    yield "response.content_part.added", 0, {**place, "part": _part("")}
    text_tokens = 0 if answer.tool_calls else answer.tokens
    for piece, tokens in shares(answer.pieces, text_tokens):
        yield "response.output_text.delta", tokens, {**place, "delta": piece, "logprobs": []}
    yield "response.output_text.done", 0, {**place, "text": answer.text, "logprobs": []}
    yield "response.content_part.done", 0, {**place, "part": _part(answer.text)}


def _call_events(answer: MockAnswer, index: int, item: JsonObject) -> Iterator[_Step]:
    place: JsonObject = {"item_id": item["id"], "output_index": index}
    arguments = item["arguments"]
    tokens = answer.tokens // len(answer.tool_calls)
    yield "response.function_call_arguments.delta", tokens, {**place, "delta": arguments}
    said = {**place, "name": item["name"], "arguments": arguments}
    yield "response.function_call_arguments.done", 0, said


def _items(exchange: Exchange) -> list[JsonObject]:
    """Return the output: a message where there is text, and a call for each tool called."""
    answer = exchange.answers[0]
    output: list[JsonObject] = []
    if answer.text or not answer.tool_calls:
        output.append(
            {
                "type": "message",
                "id": draw_id(exchange, "msg_"),
                "status": "incomplete" if answer.capped else "completed",
                "role": "assistant",
                "content": [_part(answer.text)],
            }
        )
    for number, call in enumerate(answer.tool_calls):
        output.append(
            {
                "type": "function_call",
                "id": draw_id(exchange, "fc_", number),
                "call_id": draw_id(exchange, "call_", number),
                "name": call.name,
                "arguments": call.arguments_json,
                "status": "completed",
            }
        )
    return output


def _part(said: str) -> JsonObject:
    return {"type": "output_text", "text": said, "annotations": [], "logprobs": []}


def _complete(exchange: Exchange) -> JsonObject:
    capped = exchange.answers[0].capped
    status = "incomplete" if capped else "completed"
    response = _response(exchange, status, output=_items(exchange), usage=_usage(exchange))
    if capped:
        response["incomplete_details"] = {"reason": "max_output_tokens"}
    return response


def _usage(exchange: Exchange) -> JsonObject:
    ask, output = exchange.call.ask, exchange.answers[0].tokens
    return {
        "input_tokens": ask.input_tokens,
        "input_tokens_details": {"cached_tokens": ask.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": ask.input_tokens + output,
    }


def _response(
    exchange: Exchange, status: str, *, output: list[JsonObject], usage: JsonObject | None
) -> JsonObject:
    """Write the response object; what the request gave is repeated, as the API does."""
    asked = exchange.call.body or {}
    return {
        "id": draw_id(exchange, "resp_"),
        "object": "response",
        "created_at": created(exchange),
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": asked.get("instructions"),
        "max_output_tokens": asked.get("max_output_tokens"),
        "model": exchange.call.model,
        "output": output,
        "parallel_tool_calls": asked.get("parallel_tool_calls", True),
        "previous_response_id": asked.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": asked.get("store", True),
        "temperature": asked.get("temperature", 1.0),
        "text": asked.get("text", {"format": {"type": "text"}}),
        "tool_choice": asked.get("tool_choice", "auto"),
        "tools": asked.get("tools", []),
        "top_p": asked.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": usage,
        "metadata": asked.get("metadata", {}),
    }
