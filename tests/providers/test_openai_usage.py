from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotafleet.providers import OpenAI
from quotafleet.usage import Usage

CHAT = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18,
        "prompt_tokens_details": {"cached_tokens": 3}}  # fmt: skip
RESPONSES = {"input_tokens": 11, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 7}


def usage(tail: bytes) -> Usage | None:
    return OpenAI().usage("chat", tail)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("told", [CHAT, RESPONSES])
def test_usage_at_the_end_of_a_body(told: dict[str, object], indent: int | None) -> None:
    body = {"id": "x", "output": ["y"] * 50, "usage": told, "user": None}
    data = json.dumps(body, indent=indent).encode()
    for cut in (0, 10, 100):
        assert usage(data[cut:]) == Usage(input_tokens=11, output_tokens=7)


def test_usage_of_embeddings_has_no_output() -> None:
    tail = b'0.1]}],"usage":{"prompt_tokens":5,"total_tokens":5}}'
    assert usage(tail) == Usage(input_tokens=5)


def test_usage_in_a_stream_is_the_last_that_is_told() -> None:
    chunks = [
        {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}},
        {"choices": [], "usage": CHAT},
        {"choices": [], "usage": None},
    ]
    tail = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    assert usage(tail + b"data: [DONE]\n\n") == Usage(input_tokens=11, output_tokens=7)


def test_a_schema_that_has_a_property_of_that_name_is_no_usage() -> None:
    tail = b'"usage":{"input_tokens":3,"output_tokens":4},"tools":[{"usage":{"type":"string"}}]}'
    assert usage(tail) == Usage(input_tokens=3, output_tokens=4)


def test_text_of_the_model_is_no_usage() -> None:
    said = json.dumps({"content": '"usage": {"prompt_tokens": 999}'}).encode()
    assert usage(said) is None


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b'"usage":null}',
        b'"usage":',
        b'"usage"',
        b'"usage":{"prompt_tokens":-1}}',
        b'"usage":{"prompt_tokens":NaN}}',
        b'"usage":{"prompt_tokens":true}}',
        b'"usage":{"prompt_tokens":1',
        b'"usage":{"type":"duration","seconds":9}}',
        b'"usage":' + b'{"a":' * 3000,
        b'"usage":{"a":' + b"[" * 5000,
    ],
)
def test_what_is_not_there_is_not_known(tail: bytes) -> None:
    assert usage(tail) is None


@given(st.binary(), st.binary())
def test_no_tail_raises(before: bytes, after: bytes) -> None:
    usage(before + b'"usage":' + after)
    usage(before + b'"usage": {"prompt_tokens": ' + after)


def test_many_nulls_are_read_in_linear_time() -> None:
    assert usage(b'"usage":null,' * 100_000) is None
