"""Answers repeat from the seed, obey what the request forces, and say what a script says."""

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quotafleet.testing import MockCall, MockSettings, RequestMatch, ScriptedAnswer, ToolCall
from quotafleet.testing.mock.schema import smallest
from quotafleet.testing.mock.scripts import read_scripts

from .mock_kit import SECRET, chat, error, headers, made, one_org, post, provider, told

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer", "minimum": 3}, "b": {"type": "number"}},
            "required": ["a"],
        },
    },
}
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def text(exchange: Any) -> str:
    said: str = told(exchange)["choices"][0]["message"]["content"]
    return said


def test_equal_requests_have_equal_answers_in_any_order() -> None:
    first, again = provider(), provider()
    one, two = text(chat(first, "one")), text(chat(first, "two"))
    assert (text(chat(again, "two")), text(chat(again, "one"))) == (two, one)
    assert {text(chat(provider(seed=seed), "one")) for seed in range(20)} != {one}


def test_max_tokens_caps_the_answer() -> None:
    body = told(chat(provider(), max_tokens=3))
    assert body["usage"]["completion_tokens"] == 3
    assert body["choices"][0]["finish_reason"] == "length"
    assert len(body["choices"][0]["message"]["content"].split()) == 3


def test_n_answers() -> None:
    body = told(chat(provider(), n=3))
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert body["usage"]["completion_tokens"] > 3


def test_usage_counts_the_frame_of_each_message() -> None:
    usage = told(chat(provider(), "x" * 40))["usage"]
    assert usage["prompt_tokens"] == 10 + 4 + 3
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize(
    ("choice", "name", "arguments"),
    [
        ("required", "add", {"a": 3}),
        ({"type": "function", "function": {"name": "look"}}, "look", {}),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required"}}, "add", {"a": 3}),
    ],
)
def test_a_forced_tool_is_called(choice: object, name: str, arguments: object) -> None:
    body = told(chat(provider(), tools=[ADD, LOOK], tool_choice=choice))
    (call,) = body["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == name
    assert json.loads(call["function"]["arguments"]) == arguments
    assert body["choices"][0]["finish_reason"] == "tool_calls"
    assert body["choices"][0]["message"]["content"] is None


@pytest.mark.parametrize("choice", ["auto", "none", None])
def test_a_tool_that_may_be_called_is_not(choice: object) -> None:
    body = told(chat(provider(), tools=[ADD], tool_choice=choice))
    assert "tool_calls" not in body["choices"][0]["message"]


def test_responses_call_forced_tools_too() -> None:
    tool = {"type": "function", **ADD["function"]}  # type: ignore[dict-item]
    body = {"model": "gpt-5-nano", "input": "x", "tools": [tool], "tool_choice": "required"}
    (item,) = told(post(provider(), body, "/v1/responses"))["output"]
    assert item["type"] == "function_call"
    assert json.loads(item["arguments"]) == {"a": 3}


def test_structured_output_is_valid_json() -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "kind": {"enum": ["x", "y"]}},
        "required": ["name", "kind"],
    }
    asked = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    expected = {"name": "mock", "kind": "x"}
    assert json.loads(text(chat(provider(), response_format=asked))) == expected
    body = {"model": "gpt-5-nano", "input": "x"}
    body_text: dict[str, Any] = {"format": {"type": "json_schema", "name": "n", "schema": schema}}
    (item,) = told(post(provider(), {**body, "text": body_text}, "/v1/responses"))["output"]
    assert json.loads(item["content"][0]["text"]) == expected
    assert json.loads(text(chat(provider(), response_format={"type": "json_object"})))


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "integer"}, 0),
        ({"type": "integer", "exclusiveMinimum": 4}, 5),
        ({"type": "integer", "maximum": -2}, -2),
        ({"type": "number", "exclusiveMaximum": 0}, -0.5),
        ({"type": "string", "minLength": 6}, "mockxx"),
        ({"type": "string", "maxLength": 2}, "mo"),
        ({"type": "string", "format": "date"}, "2026-01-01"),
        ({"type": ["null", "string"]}, "mock"),
        ({"type": "null"}, None),
        ({"const": 7}, 7),
        ({"enum": ["a", "b"]}, "a"),
        ({"default": [1]}, [1]),
        ({"anyOf": [{"type": "null"}, {"type": "boolean"}]}, False),
        ({"type": "array", "items": {"type": "integer"}}, []),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [0, 0]),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"type": "integer"}}}, 0),
        (
            {
                "allOf": [
                    {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
                    {"$ref": "#/$defs/B"},
                ],
                "$defs": {"B": {"properties": {"b": {"const": 1}}, "required": ["b"]}},
            },
            {"a": 0, "b": 1},
        ),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, {}),
        ({}, {}),
        (None, {}),
    ],
)
def test_the_smallest_value(schema: object, value: object) -> None:
    assert smallest(schema) == value


def test_a_schema_without_end_ends() -> None:
    schema = {
        "$ref": "#/$defs/Node",
        "$defs": {
            "Node": {
                "type": "object",
                "properties": {"next": {"$ref": "#/$defs/Node"}},
                "required": ["next"],
            }
        },
    }
    assert json.dumps(smallest(schema))


def test_a_script_is_said_once_to_whom_it_concerns() -> None:
    mock = provider()
    mock.script("for gpt-4o", match=RequestMatch(model="gpt-4o"))
    mock.script("hello there", times=2)
    said = [text(chat(mock)) for _ in range(3)]
    assert said[:2] == ["hello there"] * 2 != said[1:]
    assert text(chat(mock, model="gpt-4o")) == "for gpt-4o"


def test_a_script_may_call_tools_or_fix_only_the_length() -> None:
    mock = provider()
    mock.script(tool_calls=[ToolCall(name="add", arguments={"a": 1})])
    mock.script(output_tokens=567)
    (call,) = told(chat(mock))["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"a": 1}
    exchange = chat(mock)
    assert exchange.output_tokens == 567 == told(exchange)["usage"]["completion_tokens"]


def test_a_script_holds_for_calls_without_a_body() -> None:
    mock = provider()
    mock.script(output_tokens=33)
    call = MockCall(secret=SECRET, model="gpt-4o-mini")
    assert mock.admit(call).output_tokens == 33
    assert mock.admit(call).output_tokens <= 24


def test_scripts_are_read_from_json() -> None:
    scripts = read_scripts([{"text": "hi"}, {"tool_calls": [{"name": "f", "arguments": {"a": 1}}]}])
    assert scripts[0] == ScriptedAnswer(text="hi")
    assert scripts[1].tool_calls[0].arguments_json == '{"a":1}'
    with pytest.raises(ValueError, match=r"0\.txt"):
        read_scripts({"txt": "hi"})


@settings(max_examples=25)
@given(st.text(max_size=60).filter(bool), st.integers(0, 9))
def test_a_stream_says_what_the_whole_answer_says(said: str, extra: int) -> None:
    mock = provider()
    mock.script(said, output_tokens=len(said) + extra, times=2)
    whole = chat(mock)
    streamed = chat(mock, stream=True)
    parts, tokens = [], 0
    events = list(streamed.events())
    assert events[-1].data == b"data: [DONE]\n\n"
    for event in events:
        tokens += event.tokens
        data = event.data.removeprefix(b"data: ").strip()
        if data != b"[DONE]":
            parts.append(json.loads(data)["choices"][0]["delta"].get("content") or "")
    assert "".join(parts) == said == text(whole)
    assert tokens == streamed.output_tokens == len(said) + extra


def test_embeddings_are_unit_vectors_of_the_text() -> None:
    body = {"model": "text-embedding-3-small", "input": ["one", "two", "one"], "dimensions": 64}
    data = told(post(provider(), body, "/v1/embeddings"))["data"]
    one, two, again = (entry["embedding"] for entry in data)
    assert one == again != two
    assert sum(x * x for x in one) == pytest.approx(1.0)
    packed = told(post(provider(), {**body, "encoding_format": "base64"}, "/v1/embeddings"))["data"]
    floats = struct.unpack("<64f", base64.b64decode(packed[0]["embedding"]))
    assert floats == pytest.approx(one, abs=1e-6)


@pytest.mark.parametrize(
    ("given_input", "count"), [("one", 1), (["a", "b"], 2), ([1, 2], 1), ([[1], [2], [3]], 3)]
)
def test_one_embedding_per_input(given_input: object, count: int) -> None:
    body = {"model": "text-embedding-3-large", "input": given_input}
    data = told(post(provider(), body, "/v1/embeddings"))["data"]
    assert len(data) == count
    assert len(data[0]["embedding"]) == 3072


@pytest.mark.parametrize(
    ("kind", "start"), [("mp3", b"\xff\xfb"), ("wav", b"RIFF"), ("pcm", b"\x00\x00")]
)
def test_speech_is_silence_in_the_format_asked_for(kind: str, start: bytes) -> None:
    body = {"model": "tts-1", "input": "hello there", "voice": "alloy", "response_format": kind}
    payload = post(provider(), body, "/v1/audio/speech").body()
    assert payload.data.startswith(start)
    assert payload.media_type.startswith("audio/")


def test_pictures() -> None:
    body = {"model": "gpt-image-1", "prompt": "a cat", "n": 2}
    data = told(post(provider(), body, "/v1/images/generations"))["data"]
    assert all(base64.b64decode(one["b64_json"]).startswith(b"\x89PNG") for one in data)
    body = {"model": "dall-e-3", "prompt": "a cat"}
    (one,) = told(post(provider(), body, "/v1/images/generations"))["data"]
    assert one["url"].startswith("https://example.com/")


def test_pictures_come_without_rate_limit_headers() -> None:
    body = {"model": "gpt-image-1", "prompt": "a cat"}
    exchange = post(provider({"rpm": 9, "tpm": 9, "ipm": 9}), body, "/v1/images/generations")
    assert exchange.status == 200
    assert not [name for name in headers(exchange) if "ratelimit" in name]


def test_models_are_those_the_project_may_use() -> None:
    listed = told(post(provider(), None, "/v1/models", method="GET"))["data"]
    assert "gpt-4o-mini" in {model["id"] for model in listed}
    one = told(post(provider(), None, "/v1/models/gpt-4o", method="GET"))
    assert one["id"] == "gpt-4o"
    assert error(post(provider(), None, "/v1/models/gpt-9", method="GET"))["code"] == (
        "model_not_found"
    )
    assert post(made(one_org()), None, "/v1/models", method="GET").headers()
    assert "x-ratelimit-limit-requests" not in headers(
        post(provider(), None, "/v1/models", method="GET")
    )


def test_created_follows_the_clock() -> None:
    mock = provider(settings=MockSettings(epoch_s=1_000_000))
    mock.clock.advance(5)  # type: ignore[attr-defined]
    assert told(chat(mock))["created"] == 1_000_005
