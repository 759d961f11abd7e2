"""The mock over HTTP, seen through the OpenAI SDK: what it parses, raises and gets cut off from."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseCompletedEvent, ResponseTextDeltaEvent

from quotafleet._clock import SystemClock
from quotafleet.testing import (
    FakeClock,
    MockFault,
    MockFleet,
    MockProvider,
    MockServer,
    MockSettings,
    RequestMatch,
    ToolCall,
    serve,
)

from .mock_kit import SECRET

MESSAGES: Any = [{"role": "user", "content": "hello"}]
MODEL = "gpt-4o-mini"


@pytest.fixture
def server() -> Iterator[MockServer]:
    """A server on a clock that stands still, though its answers would take hours."""
    fleet = MockFleet.simple({"acme": {"rpm": 500, "tpm": 200_000}, "tiny": {"rpm": 1}})
    settings = MockSettings(ttft_s=3600, tokens_per_s=0.001)
    with serve(MockProvider(fleet, clock=FakeClock(), settings=settings)) as running:
        yield running


def client(server: MockServer, secret: str = SECRET, **options: Any) -> openai.OpenAI:
    options.setdefault("max_retries", 0)
    return openai.OpenAI(base_url=server.base_url, api_key=secret, **options)


def test_chat(server: MockServer) -> None:
    with client(server) as sdk:
        raw = sdk.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
        answer = raw.parse()
    assert raw.headers["x-ratelimit-limit-requests"] == "500"
    assert raw.headers["x-ratelimit-reset-requests"] == "120ms"
    assert raw.headers["openai-organization"] == "org-acme"
    assert raw.headers["x-request-id"].startswith("req_")
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None


@pytest.mark.parametrize("wanted", [True, False])
def test_the_edges_cookies_are_set_once_and_brought_back(wanted: bool) -> None:
    fleet = MockFleet.simple({"acme": {}})
    provider = MockProvider(fleet, clock=FakeClock(), settings=MockSettings(edge_cookies=wanted))
    with serve(provider) as server, client(server, fleet.secrets()[0]) as sdk:
        create = sdk.chat.completions.with_raw_response.create
        first, second = (create(model=MODEL, messages=MESSAGES) for _ in range(2))
    names = [cookie.partition("=")[0] for cookie in first.headers.get_list("set-cookie")]
    assert names == (["__cf_bm", "_cfuvid"] if wanted else [])
    assert "set-cookie" not in second.headers
    assert ("__cf_bm=" in second.http_request.headers.get("cookie", "")) is wanted


@pytest.mark.parametrize("counted", [True, False])
def test_chat_stream(server: MockServer, counted: bool) -> None:
    server.provider.script("one two three")
    with client(server) as sdk:
        options: Any = {"stream_options": {"include_usage": True}} if counted else {}
        stream = sdk.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True, **options)
        chunks = list(stream)
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == "one two three"
    assert chunks[-2 if counted else -1].choices[0].finish_reason == "stop"
    assert (chunks[-1].usage is not None) is counted
    assert server.provider.completed == 1


def test_a_tool_call_in_a_stream(server: MockServer) -> None:
    server.provider.script(tool_calls=[ToolCall(name="add", arguments={"a": 1})])
    with client(server) as sdk:
        stream = sdk.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        calls = [c for chunk in stream for c in chunk.choices[0].delta.tool_calls or []]
    assert calls[0].id
    assert calls[0].function is not None
    assert calls[0].function.name == "add"
    arguments = "".join(c.function.arguments or "" for c in calls if c.function)
    assert json.loads(arguments) == {"a": 1}


def test_completions(server: MockServer) -> None:
    server.provider.script("one two three", times=2)
    with client(server) as sdk:
        whole = sdk.completions.create(model="gpt-3.5-turbo-instruct", prompt="hi")
        stream = sdk.completions.create(model="gpt-3.5-turbo-instruct", prompt="hi", stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text


def test_responses(server: MockServer) -> None:
    server.provider.script("one two three")
    with client(server) as sdk:
        raw = sdk.responses.with_raw_response.create(model="gpt-5-nano", input="hi")
    answer = raw.parse()
    assert answer.output_text == "one two three"
    assert answer.status == "completed"
    assert answer.usage is not None
    assert answer.usage.input_tokens_details.cached_tokens == 0
    used = answer.usage.total_tokens
    assert raw.headers["x-ratelimit-remaining-tokens"] == str(200_000 - used)


def test_responses_stream(server: MockServer) -> None:
    server.provider.script("one two three")
    with client(server) as sdk:
        events = list(sdk.responses.create(model="gpt-5-nano", input="hi", stream=True))
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if isinstance(event, ResponseTextDeltaEvent)]
    assert "".join(deltas) == "one two three"
    assert isinstance(events[-1], ResponseCompletedEvent)
    assert events[-1].response.output_text == "one two three"
    assert events[-1].response.usage is not None


def test_responses_stream_of_a_forced_tool(server: MockServer) -> None:
    tool: Any = {
        "type": "function",
        "name": "add",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}},
            "required": ["a"],
        },
    }
    with client(server) as sdk:
        asked: Any = {"tools": [tool], "tool_choice": "required", "stream": True}
        events = list(sdk.responses.create(model="gpt-5-nano", input="hi", **asked))
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert json.loads(done[0].arguments) == {"a": 0}
    assert events[-1].response.output[0].type == "function_call"


def test_structured_output_is_parsed(server: MockServer) -> None:
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int | None
        tags: list[str]

    with client(server) as sdk:
        chat = sdk.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=Person)
        response = sdk.responses.parse(model="gpt-5-nano", input="hi", text_format=Person)
    assert chat.choices[0].message.parsed == Person(name="mock", age=0, tags=[])
    assert response.output_parsed == Person(name="mock", age=0, tags=[])


def test_embeddings(server: MockServer) -> None:
    with client(server) as sdk:  # it asks for base64
        packed = sdk.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
        plain = sdk.embeddings.create(
            model="text-embedding-3-small", input=["a"], encoding_format="float"
        )
    assert len(packed.data) == 2
    assert len(packed.data[0].embedding) == 1536
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)


def test_images_speech_transcription_and_moderation(server: MockServer) -> None:
    server.provider.script("what was said", times=None)
    with client(server) as sdk:
        images = sdk.images.generate(model="gpt-image-1", prompt="a cat", n=2)
        speech = sdk.audio.speech.create(model="tts-1", voice="alloy", input="hello")
        heard = sdk.audio.transcriptions.create(model="whisper-1", file=("a.mp3", b"\xff\xfb\r\n"))
        plain = sdk.audio.transcriptions.create(
            model="gpt-4o-transcribe", file=("a.mp3", b"\xff"), response_format="text"
        )
        verbose = sdk.audio.transcriptions.create(
            model="whisper-1", file=("a.mp3", b"\xff"), response_format="verbose_json"
        )
        moderated = sdk.moderations.create(model="omni-moderation-latest", input=["a", "b"])
    assert images.data is not None
    assert images.data[1].b64_json
    assert speech.content.startswith(b"\xff\xfb")
    assert heard.text == "what was said"
    assert str(plain).strip() == "what was said"
    assert verbose.duration == 1.0
    assert [one.flagged for one in moderated.results] == [False, False]


def test_files_and_models(server: MockServer) -> None:
    data = b'{"a": 1}\r\n--odd\r\n\x00'
    with client(server) as sdk:
        made = sdk.files.create(file=("in.jsonl", data), purpose="batch")
        assert sdk.files.retrieve(made.id).bytes == len(data)
        assert sdk.files.content(made.id).content == data
        assert [one.filename for one in sdk.files.list()] == ["in.jsonl"]
        assert sdk.files.delete(made.id).deleted
        with pytest.raises(openai.NotFoundError, match="No such File object"):
            sdk.files.retrieve(made.id)
        assert MODEL in {model.id for model in sdk.models.list()}
        assert sdk.models.retrieve(MODEL).id == MODEL


def test_errors_as_the_sdk_raises_them(server: MockServer) -> None:
    wrong = pytest.raises(openai.AuthenticationError, match="Incorrect API key provided")
    with client(server, "sk-wrong-key-000000") as sdk, wrong:
        sdk.chat.completions.create(model=MODEL, messages=MESSAGES)
    with client(server) as sdk:
        with pytest.raises(openai.NotFoundError, match="`gpt-9` does not exist"):
            sdk.chat.completions.create(model="gpt-9", messages=MESSAGES)
        with pytest.raises(openai.NotFoundError, match="Invalid URL"):
            sdk.get("/nothing", cast_to=object)
    with client(server, "sk-mock-tiny-1") as sdk:
        sdk.chat.completions.create(model=MODEL, messages=MESSAGES)
        with pytest.raises(openai.RateLimitError) as caught:
            sdk.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.type == "requests"
    assert "Limit 1, Used 1, Requested 1. Please try again in 1m0s." in str(caught.value)
    assert caught.value.response.headers["retry-after"] == "60"


def test_a_connection_that_is_reset(server: MockServer) -> None:
    server.provider.inject(MockFault(action="reset_conn"))
    with client(server) as sdk:
        with pytest.raises(openai.APIConnectionError):
            sdk.chat.completions.create(model=MODEL, messages=MESSAGES)
        assert sdk.chat.completions.create(model=MODEL, messages=MESSAGES).choices


def test_a_silence_that_the_client_does_not_wait_for(server: MockServer) -> None:
    server.provider.inject(MockFault(action="timeout", seconds=60))
    with client(server, timeout=0.3) as sdk:
        with pytest.raises(openai.APITimeoutError):
            sdk.chat.completions.create(model=MODEL, messages=MESSAGES)
        assert sdk.chat.completions.create(model=MODEL, messages=MESSAGES).choices
    wait_until(lambda: server.provider.aborted == 1)


def test_a_silence_that_ends(server: MockServer) -> None:
    server.provider.inject(MockFault(action="timeout", seconds=0.05))
    with client(server) as sdk, pytest.raises(openai.APIConnectionError):
        sdk.chat.completions.create(model=MODEL, messages=MESSAGES)


def test_a_stream_that_just_ends(server: MockServer) -> None:
    server.provider.script("one two three four")
    server.provider.inject(MockFault(action="stream_truncate", after_chunks=2))
    said: list[str | None] = []

    def listen(stream: Any) -> None:
        for chunk in stream:
            said.append(chunk.choices[0].delta.content)

    with client(server) as sdk:
        stream = sdk.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        with pytest.raises(Exception, match=r"incomplete|Connection error"):
            listen(stream)
    assert said == ["", "one ", "two "]
    wait_until(lambda: server.provider.aborted == 1)


def test_an_answer_that_just_ends(server: MockServer) -> None:
    server.provider.inject(MockFault(action="stream_truncate"))
    with client(server) as sdk, pytest.raises(openai.APIConnectionError):
        sdk.chat.completions.create(model=MODEL, messages=MESSAGES)


def test_an_error_in_a_stream(server: MockServer) -> None:
    server.provider.inject(MockFault(action="stream_error", code="server_is_overloaded"))
    with client(server) as sdk:
        stream = sdk.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="overloaded") as caught:
            list(stream)
    assert caught.value.code == "server_is_overloaded"


def test_an_error_in_a_stream_of_responses(server: MockServer) -> None:
    server.provider.inject(MockFault(action="stream_error", code="rate_limit_exceeded"))
    with client(server) as sdk:
        events: list[Any] = list(sdk.responses.create(model="gpt-5-nano", input="x", stream=True))
    assert [event.type for event in events[-2:]] == ["error", "response.failed"]
    assert events[-2].code == "rate_limit_exceeded"
    assert events[-1].response.error.code == "rate_limit_exceeded"
    assert events[-1].sequence_number == len(events) - 1


def test_headers_that_are_nonsense(server: MockServer) -> None:
    server.provider.inject(MockFault(action="malformed_headers", match=RequestMatch(key="acme-1")))
    with client(server) as sdk:
        raw = sdk.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
    assert raw.headers["x-ratelimit-reset-requests"] == "soon"


def test_who_leaves_a_stream_pays_for_what_was_produced() -> None:
    settings = MockSettings(tokens_per_s=100)
    mock = MockProvider(
        MockFleet.simple({"acme": {"tpm": 200_000}}), clock=SystemClock(), settings=settings
    )
    mock.script(output_tokens=2_000)  # 20 seconds
    with serve(mock) as server, client(server) as sdk:
        stream = sdk.responses.create(model="gpt-5-nano", input="x", stream=True)
        for event in stream:
            if isinstance(event, ResponseTextDeltaEvent):
                break
        stream.close()
        wait_until(lambda: mock.aborted == 1)
    state: Any = mock.state()
    assert state["keys"]["acme-1"]["in_flight"] == 0
    spent = float(state["orgs"]["org-acme"]["month_spend_usd"])
    assert 0 < spent < 300 * 0.60 / 1_000_000  # a few of the 2,000 tokens, not all


def test_who_leaves_before_the_answer_is_noticed() -> None:
    settings = MockSettings(tokens_per_s=100)
    mock = MockProvider(MockFleet.simple({"acme": {}}), clock=SystemClock(), settings=settings)
    mock.script(output_tokens=2_000)
    with serve(mock) as server, client(server, timeout=0.3) as sdk:
        with pytest.raises(openai.APITimeoutError):
            sdk.chat.completions.create(model=MODEL, messages=MESSAGES)
        wait_until(lambda: mock.aborted == 1)
    state: Any = mock.state()
    spent = float(state["orgs"]["org-acme"]["month_spend_usd"])
    assert 10 * 0.60 / 1_000_000 < spent < 1_000 * 0.60 / 1_000_000  # some of the 2,000 tokens


def test_latency_passes_in_real_time() -> None:
    settings = MockSettings(ttft_s=0.1, tokens_per_s=100)
    mock = MockProvider(MockFleet.simple({"acme": {}}), clock=SystemClock(), settings=settings)
    mock.script(output_tokens=10, times=None)
    with serve(mock) as server, client(server) as sdk:
        for streamed in (False, True):
            began = time.monotonic()
            answer = sdk.chat.completions.create(model=MODEL, messages=MESSAGES, stream=streamed)
            if not isinstance(answer, openai.Stream):
                assert answer.usage is not None
            else:
                assert list(answer)
            assert 0.2 <= time.monotonic() - began + 0.01 < 20


async def test_many_at_once(server: MockServer) -> None:
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key=SECRET, max_retries=0) as sdk:
        answers = await asyncio.gather(
            *(sdk.chat.completions.create(model=MODEL, messages=MESSAGES) for _ in range(60))
        )
    assert len({answer.id for answer in answers}) == 60
    assert server.provider.admitted == server.provider.completed == 60


def wait_until(true: Any) -> None:
    """Wait for what another thread is about to do, a moment at a time."""
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)
