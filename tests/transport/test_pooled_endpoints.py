"""The SDK's endpoints over a pool, against the mock provider: each works as without a pool."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from tests.transport.support import (
    ASK,
    MODEL,
    AsyncOpenAI,
    OpenAI,
    admitted,
    idle,
    mock,
)

from quotafleet import KeyPool
from quotafleet.testing import MockServer


class City(BaseModel):
    name: str
    people: int


@pytest.fixture
def fleet() -> Iterator[tuple[MockServer, KeyPool]]:
    """Two organizations with plenty, and their pool; in the end no lease is open."""
    with mock() as (server, pool):
        yield server, pool
        assert idle(pool)
        keys: Any = server.provider.state()["keys"]
        assert all(key["in_flight"] == 0 for key in keys.values())


@pytest.fixture
def client(fleet: tuple[MockServer, KeyPool]) -> OpenAI:
    return OpenAI(pool=fleet[1])


@pytest.fixture
def aclient(fleet: tuple[MockServer, KeyPool]) -> AsyncOpenAI:
    return AsyncOpenAI(pool=fleet[1])


def test_owners_take_turns(fleet: tuple[MockServer, KeyPool], client: OpenAI) -> None:
    for _ in range(6):
        client.chat.completions.create(**ASK)
    assert admitted(fleet[0]) == {"a-1": 3, "b-1": 3}
    tokens = [key.input_tokens + key.output_tokens for key in fleet[1].status().keys]
    assert all(count > 0 for count in tokens)


def test_chat_stream_with_usage(fleet: tuple[MockServer, KeyPool], client: OpenAI) -> None:
    stream = client.chat.completions.create(
        **ASK, stream=True, stream_options={"include_usage": True}
    )
    usage = [chunk.usage for chunk in stream][-1]
    assert usage is not None
    (used,) = [key for key in fleet[1].status().keys if key.granted]
    assert (used.input_tokens, used.output_tokens) == (
        usage.prompt_tokens,
        usage.completion_tokens,
    )


def test_chat_parse(client: OpenAI) -> None:
    parsed = client.chat.completions.parse(**ASK, response_format=City)
    assert isinstance(parsed.choices[0].message.parsed, City)


def test_chat_stream_helper(client: OpenAI) -> None:
    with client.chat.completions.stream(**ASK) as stream:
        kinds = {event.type for event in stream}
        assert stream.get_final_completion().choices
    assert "content.done" in kinds


async def test_chat_stream_helper_in_asyncio(aclient: AsyncOpenAI) -> None:
    async with aclient.chat.completions.stream(**ASK) as stream:
        kinds = {event.type async for event in stream}
    assert "content.done" in kinds


def test_legacy_completions(client: OpenAI) -> None:
    answer = client.completions.create(model="gpt-3.5-turbo-instruct", prompt="hello")
    assert answer.choices[0].text


def test_responses(client: OpenAI) -> None:
    assert client.responses.create(model=MODEL, input="hello").output_text


def test_responses_stream(fleet: tuple[MockServer, KeyPool], client: OpenAI) -> None:
    *_, last = client.responses.create(model=MODEL, input="hello", stream=True)
    assert last.type == "response.completed"
    usage = last.response.usage
    assert usage is not None
    (used,) = [key for key in fleet[1].status().keys if key.granted]
    assert used.output_tokens == usage.output_tokens


async def test_responses_stream_in_asyncio(aclient: AsyncOpenAI) -> None:
    async with aclient.responses.stream(model=MODEL, input="hello") as stream:
        kinds = [event.type async for event in stream]
    assert kinds[-1] == "response.completed"


def test_responses_parse(client: OpenAI) -> None:
    parsed = client.responses.parse(model=MODEL, input="hello", text_format=City)
    assert isinstance(parsed.output_parsed, City)


def test_embeddings(client: OpenAI) -> None:
    answer = client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
    assert len(answer.data) == 2
    assert len(answer.data[0].embedding) == 1536


def test_images(client: OpenAI) -> None:
    answer = client.images.generate(model="gpt-image-1", prompt="a cat", n=2)
    assert answer.data is not None
    assert base64.b64decode(answer.data[1].b64_json or "")


@pytest.mark.parametrize("as_file", [False, True])
def test_a_file_is_uploaded(client: OpenAI, as_file: bool) -> None:
    sound: Any = io.BytesIO(b"RIFF") if as_file else b"RIFF"
    answer = client.audio.transcriptions.create(model="whisper-1", file=("a.wav", sound))
    assert answer.text


async def test_a_file_is_uploaded_in_asyncio(aclient: AsyncOpenAI) -> None:
    answer = await aclient.audio.transcriptions.create(
        model="whisper-1", file=("a.wav", io.BytesIO(b"RIFF"))
    )
    assert answer.text


def test_speech_is_streamed_to_a_file(client: OpenAI) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input="hello"
    ) as response:
        assert b"".join(response.iter_bytes())


def test_models_and_files(client: OpenAI) -> None:
    assert MODEL in {model.id for model in client.models.list()}
    made = client.files.create(file=("in.jsonl", b"{}\n"), purpose="batch")
    assert made.id in {file.id for file in client.files.list()}
    assert client.files.content(made.id).content == b"{}\n"


async def test_everything_at_once_in_asyncio(aclient: AsyncOpenAI) -> None:
    chat = await aclient.chat.completions.create(**ASK)
    raw = await aclient.chat.completions.with_raw_response.create(**ASK)
    vectors = await aclient.embeddings.create(model="text-embedding-3-small", input="a")
    assert chat.choices
    assert raw.headers["x-quotafleet-owner"] in ("a", "b")
    assert vectors.data
