"""What each kind of request is charged: the measured formulas, number by number."""

from typing import Any

import pytest

from quotafleet.testing import MockModelLimits, MockRequest, ModelSpec
from quotafleet.testing.mock.cost import PROFILES, RequestSize, predicted_output

from .mock_kit import SECRET, chat, headers, made, one_org, post, provider

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("profile", "ask", "tokens"),
    [
        ("chat_2025", RequestSize(text_bytes=23, messages=1), 8),
        ("chat_2025", RequestSize(text_bytes=7243, messages=2), 1814),
        ("chat_2025", RequestSize(text_bytes=93, messages=2, max_tokens=100), 27),
        ("chat_2025", RequestSize(text_bytes=0, messages=1, images=2, n=3), 1534),
        ("chat_2024", RequestSize(text_bytes=23, messages=1), 23),
        ("chat_2024", RequestSize(text_bytes=23, messages=1, n=2, max_tokens=100), 207),
        ("docs_max", RequestSize(text_bytes=400, max_tokens=50), 100),
        ("docs_max", RequestSize(text_bytes=400, max_tokens=500, n=2), 1000),
        ("docs_max", RequestSize(), 16),
        ("completions", RequestSize(text_bytes=23, prompts=3, n=2), 11),
        ("completions", RequestSize(token_ids=7, prompts=1), 8),
        ("embeddings", RequestSize(text_bytes=3), 1),
        ("embeddings", RequestSize(text_bytes=23), 5),
        ("embeddings", RequestSize(token_ids=9), 9),
        ("tts", RequestSize(text_bytes=23), 5),
        ("responses_2026", RequestSize(text_bytes=21), 6 + 217),
        ("responses_2026", RequestSize(text_bytes=21, tool_bytes=80, tools=True), 26 + 496),
        ("azure_standard", RequestSize(text_bytes=34), 16),
        ("azure_standard", RequestSize(text_bytes=400, max_tokens=300, best_of=2), 600),
        ("azure_ptu", RequestSize(text_bytes=400, cached_tokens=30, max_tokens=50), 120),
        ("azure_ptu", RequestSize(text_bytes=400), 100 + 217),
        ("anthropic", RequestSize(text_bytes=401, max_tokens=64_000), 101),
        ("requests_only", RequestSize(text_bytes=4000), 0),
    ],
)
def test_the_estimate(profile: str, ask: RequestSize, tokens: int) -> None:
    assert PROFILES[profile].estimate(ask, "gpt-5-nano") == tokens


@pytest.mark.parametrize(
    ("model", "ask", "tokens"),
    [
        ("gpt-4o", RequestSize(), 19),
        ("gpt-4.1-mini", RequestSize(tools=True), 217),
        ("gpt-5-nano", RequestSize(), 217),
        ("gpt-5.5", RequestSize(), 163),
        ("gpt-5.5", RequestSize(tools=True), 449),
        ("gpt-5.4", RequestSize(), 163),
        ("gpt-5-nano", RequestSize(images=1), 348),
        ("gpt-5-nano", RequestSize(tools=True, forced=True), 600),
        ("some-other", RequestSize(), 217),
    ],
)
def test_the_predicted_output(model: str, ask: RequestSize, tokens: int) -> None:
    assert predicted_output(ask, model) == tokens


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"content": "x" * 23}, 6 + 1 + 1),
        ({"content": [{"type": "text", "text": "x" * 23}, IMAGE]}, 6 + 1 + 1 + 765),
        ({"content": "x", "tools": [FUNCTION] * 50}, 1 + 1 + 1),
        ({"content": "x", "max_completion_tokens": 9999}, 1 + 1 + 1),
        ({"content": "x", "response_format": {"type": "json_object"}}, 1 + 1 + 1),
        ({"content": [{"type": "input_audio", "input_audio": {"data": "A" * 99}}]}, 0 + 1 + 1),
    ],
)
def test_chat_counts_text_messages_answers_and_images(fields: dict[str, Any], tokens: int) -> None:
    assert chat(provider(), **fields).cost == tokens


@pytest.mark.parametrize(
    ("path", "body", "tokens"),
    [
        ("completions", {"prompt": ["x" * 10, "x" * 13], "n": 2}, 5 + 4),
        ("completions", {"prompt": [1, 2, 3]}, 3 + 1),
        ("completions", {"prompt": [[1, 2, 3], [4]]}, 4 + 2),
        ("embeddings", {"input": "x"}, 1),
        ("embeddings", {"input": ["x" * 10, "x" * 13]}, 5),
        ("embeddings", {"input": [1, 2, 3]}, 3),
        ("embeddings", {"input": [[1, 2], [3]]}, 3),
        ("audio/speech", {"input": "x" * 23, "voice": "alloy"}, 5),
        ("moderations", {"input": ["x" * 8, "x" * 8]}, 4),
        ("moderations", {"input": [{"type": "text", "text": "x" * 8}]}, 2),
        ("responses", {"input": "x" * 8}, 2 + 19),
        ("responses", {"input": "x" * 8, "instructions": "y" * 8}, 4 + 19),
        ("responses", {"input": [{"role": "user", "content": "x" * 8}]}, 2 + 19),
        (
            "responses",
            {"input": [{"type": "function_call_output", "call_id": "c", "output": "x" * 8}]},
            2 + 19,
        ),
    ],
)
def test_other_endpoints(path: str, body: dict[str, Any], tokens: int) -> None:
    exchange = post(provider(), {"model": "gpt-4o-mini", **body}, f"/v1/{path}")
    assert exchange.status == 200
    assert exchange.cost == tokens


def test_responses_count_tools() -> None:
    body = {"model": "gpt-5.5", "input": "x" * 8, "tools": [{"type": "function", "name": "f"}]}
    assert post(provider(), body, "/v1/responses").cost == -(-(8 + 32) // 4) + 449


def test_a_transcription_counts_requests_only() -> None:
    form = (
        b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
        b"Content-Type: audio/wav\r\n\r\n\x00\r\n\xff--\r\n--B--\r\n"
    )
    exchange = provider({"rpm": 500, "tpm": 1000}).begin(
        MockRequest(
            method="POST",
            path="/v1/audio/transcriptions",
            headers={
                "authorization": f"Bearer {SECRET}",
                "content-type": "multipart/form-data; boundary=B",
            },
            body=form,
        )
    )
    assert exchange.status == 200
    assert exchange.cost == 0
    assert exchange.call.upload is not None
    assert exchange.call.upload.data == b"\x00\r\n\xff--"
    assert "x-ratelimit-limit-requests" in headers(exchange)
    assert "x-ratelimit-limit-tokens" not in headers(exchange)


def test_a_model_may_have_another_profile() -> None:
    spec = ModelSpec(name="old", profiles={"chat": "chat_2024"}, limits=MockModelLimits(tpm=1000))
    mock = made(one_org(spec))
    assert chat(mock, "x" * 23, model="old", max_tokens=100).cost == 107
    assert post(mock, {"model": "old", "prompt": "x" * 8}, "/v1/completions").cost == 3


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(ValueError, match="no cost profile 'chat_1999' for chat"):
        ModelSpec(name="m", profiles={"chat": "chat_1999"})
