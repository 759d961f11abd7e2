"""`ChatPool`: any chat models under one scheduler."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import langchain_openai
import openai
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError
from tests.integrations.langchain.conftest import MODEL

from keyfleet import Demand, KeyPool, Limits, NoUsableKey, Organization, WaitTimeout
from keyfleet.testing import Fault, MockProvider, Server, ToolCall
from langchain_keyfleet import ChatPool


class Answering(BaseChatModel):
    """A model of no provider in particular, which does what `answer` does."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    answer: Callable[[], AIMessage]
    name: str = "m"

    @property
    def _llm_type(self) -> str:
        return "answering"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.answer())])


class Streaming(Answering):
    def _stream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        message = self.answer()
        for word in str(message.content).split():
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
        if message.usage_metadata:
            last = AIMessageChunk(content="", usage_metadata=message.usage_metadata)
            yield ChatGenerationChunk(message=last)


class AsyncStreaming(Streaming):
    async def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._stream(messages):
            yield chunk


def said(text: str, tokens: int | None = None) -> Callable[[], AIMessage]:
    usage: Any = tokens and {
        "input_tokens": tokens,
        "output_tokens": tokens,
        "total_tokens": 2 * tokens,
    }
    return lambda: AIMessage(content=text, usage_metadata=usage or None)


class Refusal(Exception):
    """As SDKs make them of an answer."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(str(status))
        self.status_code = status
        self.body = body


def refusing(status: int, message: str = "no") -> Callable[[], AIMessage]:
    def answer() -> AIMessage:
        raise Refusal(status, {"error": {"message": message, "type": "x"}})

    return answer


def pool_of(*names: str, limits: Limits | None = None) -> KeyPool:
    return KeyPool(
        Organization(
            name=name,
            keys=(f"held-{name}",),
            provider="generic",
            base_url="http://127.0.0.1:1/v1",
            limits=limits or Limits(),
        )
        for name in names
    )


WAYS = ["invoke", "ainvoke", "stream", "astream"]
KINDS = [Answering, Streaming, AsyncStreaming]


def call(llm: Any, way: str, prompt: str = "Is it?") -> Any:
    """Return a model's whole answer, however it is asked."""
    if way == "invoke":
        return llm.invoke(prompt)
    if way == "ainvoke":
        return asyncio.run(llm.ainvoke(prompt))
    if way == "stream":
        chunks = list(llm.stream(prompt))
    else:

        async def collect() -> list[Any]:
            return [chunk async for chunk in llm.astream(prompt)]

        chunks = asyncio.run(collect())
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return whole


def used(pool: KeyPool) -> list[tuple[int, int]]:
    return [(key.input_tokens, key.output_tokens) for key in pool.status().keys]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_way_and_kind_settles_by_usage(way: str, kind: type[Answering]) -> None:
    pool = pool_of("acme")
    llm = ChatPool(models={"acme": kind(answer=said("yes", 40))}, pool=pool)
    answer = call(llm, way)
    assert answer.content == "yes"
    facts = answer.response_metadata["keyfleet"]
    assert facts.pop("waited_for") == pytest.approx(0, abs=0.2)
    assert facts == {"key_id": "acme#1", "owner": "acme", "attempts": 1}
    assert answer.usage_metadata["total_tokens"] == 80
    assert used(pool) == [(40, 40)]
    assert pool.status().in_flight == 0


@pytest.mark.parametrize("way", WAYS)
def test_without_usage_the_estimate_stands(way: str) -> None:
    pool = pool_of("acme", limits=Limits(tpm=1000))
    llm = ChatPool(models={"acme": Streaming(answer=said("yes"))}, pool=pool)
    call(llm, way, "x" * 400)
    [level] = pool.status().scopes[0].levels
    assert 880 < level.available < 900  # 104 tokens, and what refilled or is kept back


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", [429, 401, 500])
def test_a_refusal_goes_to_another_owner(way: str, status: int) -> None:
    pool = pool_of("acme", "birch")
    models = {
        "acme": AsyncStreaming(answer=refusing(status)),
        "birch": AsyncStreaming(answer=said("yes")),
    }
    llm = ChatPool(models=models, pool=pool)
    owners = {call(llm, way).response_metadata["keyfleet"]["owner"] for _ in range(8)}
    assert owners == {"birch"}
    assert pool.status().in_flight == 0


@pytest.mark.parametrize("way", WAYS)
def test_what_no_other_attempt_mends_is_raised_as_it_is(way: str) -> None:
    def answer() -> AIMessage:
        raise KeyError("mine")

    pool = pool_of("acme", "birch")
    models = {name: Streaming(answer=answer) for name in ("acme", "birch")}
    with pytest.raises(KeyError, match="mine"):
        call(ChatPool(models=models, pool=pool), way)
    bad = {name: Streaming(answer=refusing(400)) for name in ("acme", "birch")}
    with pytest.raises(Refusal, match="400"):
        call(ChatPool(models=bad, pool=pool), way)
    assert pool.status().in_flight == 0


@pytest.mark.parametrize("way", WAYS)
def test_a_stream_that_breaks_or_is_dropped_leaves_no_lease(way: str) -> None:
    class Breaking(Streaming):
        def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
            yield ChatGenerationChunk(message=AIMessageChunk(content="y"))
            raise ConnectionError("gone")

    pool = pool_of("acme")
    llm = ChatPool(models={"acme": Breaking(answer=said("yes"))}, pool=pool)
    if "stream" in way:
        with pytest.raises(ConnectionError):
            call(llm, way)
    for _ in llm.stream("x"):
        break

    async def drop() -> None:
        chunks = llm.astream("x")
        await anext(chunks)
        await chunks.aclose()  # type: ignore[attr-defined] # it is a generator

    asyncio.run(drop())
    assert pool.status().in_flight == 0


def test_the_pool_refuses_with_its_own_words() -> None:
    pool = pool_of("acme", limits=Limits(rpm=1))
    llm = ChatPool(models={"acme": Answering(answer=said("yes"))}, pool=pool, wait_timeout=0)
    llm.invoke("x")
    with pytest.raises(WaitTimeout, match="acme has"):
        llm.invoke("x")
    dead = pool_of("acme")
    broken = ChatPool(models={"acme": Answering(answer=refusing(401))}, pool=dead)
    with pytest.raises(Refusal):
        broken.invoke("x")
    with pytest.raises(NoUsableKey):
        broken.invoke("x")


def test_an_estimate_and_a_deadline_are_heeded() -> None:
    pool = pool_of("acme", limits=Limits(tpm=1000))
    llm = ChatPool(
        models={"acme": Answering(answer=said("yes"))},
        pool=pool,
        estimate=lambda messages: Demand(model="m", input_tokens=900),
        deadline_after=1.0,
    )
    llm.invoke("x")
    with pytest.raises(WaitTimeout):
        llm.invoke("x")


def test_without_a_pool_each_model_is_an_owner() -> None:
    llm = ChatPool(models={name: Answering(answer=said(name)) for name in ("acme", "birch")})
    assert {llm.invoke(f"{n}").content for n in range(30)} == {"acme", "birch"}


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ([], "models is empty"),
        (["acme"], "'birch#1' has no model"),
        (["acme", "birch", "cedar"], "no key or owner 'cedar'"),
    ],
)
def test_models_and_keys_must_match(names: list[str], match: str) -> None:
    models = {name: Answering(answer=said("x")) for name in names}
    with pytest.raises(ValidationError, match=match):
        ChatPool(models=models, pool=pool_of("acme", "birch"))


# A real model under it


@pytest.fixture
def llm(server: Server) -> ChatPool:
    names = ("acme", "birch")
    pool = KeyPool(
        Organization(name=name, keys=(f"held-{name}",), base_url=server.base_url) for name in names
    )
    models = {
        name: langchain_openai.ChatOpenAI(
            model=MODEL,
            api_key=SecretStr(f"sk-mock-{name}-1"),
            base_url=server.base_url,
            max_retries=0,
            include_response_headers=True,
            stream_usage=True,
        )
        for name in names
    }
    return ChatPool(models=models, pool=pool)


@tool
def weather(place: str) -> str:
    """Tell the weather."""
    return f"fine in {place}"


class Weather(BaseModel):
    """The weather."""

    place: str


@pytest.mark.parametrize("way", WAYS)
def test_stock_models_under_it(llm: ChatPool, provider: MockProvider, way: str) -> None:
    provider.script("yes")
    answer = call(llm, way)
    assert answer.content == "yes"
    assert answer.usage_metadata["total_tokens"] > 0
    assert sum(sum(one) for one in used(llm.pool)) == answer.usage_metadata["total_tokens"]
    # Learned from the headers that the model keeps.
    assert any(level.learned for scope in llm.pool.status().scopes for level in scope.levels)


@pytest.mark.parametrize("way", WAYS)
def test_tools_and_structured_output(llm: ChatPool, provider: MockProvider, way: str) -> None:
    provider.script(tool_calls=[ToolCall(name="weather", arguments={"place": "Oslo"})])
    answer = call(llm.bind_tools([weather]), way)
    assert answer.tool_calls[0]["args"] == {"place": "Oslo"}
    assert answer.response_metadata["keyfleet"]["owner"] in ("acme", "birch")
    provider.script(tool_calls=[ToolCall(name="Weather", arguments={"place": "Oslo"})])
    assert llm.with_structured_output(Weather).invoke("Oslo?") == Weather(place="Oslo")


def test_a_refusal_over_http_fails_over(llm: ChatPool, provider: MockProvider) -> None:
    provider.inject(Fault(action="429_rpm"))
    assert llm.invoke("x").response_metadata["keyfleet"]["attempts"] == 2
    provider.inject(Fault(action="error", code="unsupported_country_region_territory", times=None))
    with pytest.raises(openai.PermissionDeniedError):
        llm.invoke("x")
