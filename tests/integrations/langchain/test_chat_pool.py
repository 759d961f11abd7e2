"""`ChatPool`: any chat models under one scheduler."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import langchain_openai
import openai
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.tools import tool
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError
from tests.integrations.langchain.conftest import MODEL

from langchain_quotafleet import ChatPool
from quotafleet import Demand, KeyPool, Limits, Organization, WaitTimeout
from quotafleet.testing import MockFault, MockProvider, MockServer, ToolCall


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
    facts = answer.response_metadata["quotafleet"]
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
    owners = {call(llm, way).response_metadata["quotafleet"]["owner"] for _ in range(8)}
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
    with pytest.raises(Refusal):  # a 401 without a code says nothing of the key
        broken.invoke("x")
    assert [key.health for key in dead.status().keys] == ["closed"]


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


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (
            {"models": {"acme": "sk-live-0123456789"}},
            r"models\['acme'\] is of type str.*Give a chat",
        ),
        ({"models": {"acme": Answering}}, "is the class Answering, not a chat model"),
        ({"pool": "sk-live-0123456789"}, "pool is of type str, not a KeyPool. Give a KeyPool"),
        ({"priority": "urgent"}, "unknown priority 'urgent'. Known: interactive"),
        ({"wait_timeout": -1}, "wait_timeout = -1.0 is not.*Give seconds"),
        ({"wait_timeout": float("inf")}, "wait_timeout = inf is not"),
        ({"deadline_after": float("nan")}, "deadline_after = nan is not"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments: dict[str, Any], match: str) -> None:
    good = {"models": {"acme": Answering(answer=said("x"))}, "pool": pool_of("acme")}
    with pytest.raises(ValidationError, match=match) as caught:
        ChatPool(**{**good, **arguments})
    assert "0123456789" not in str(caught.value)


# What a model says of itself


@pytest.mark.parametrize("way", ["stream", "astream"])
@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize(
    ("setting", "bound", "pieces"),
    [
        (False, {}, 3),  # two words, and stock's last
        (True, {}, 1),
        ("tool_calling", {}, 3),
        ("tool_calling", {"tools": [{"name": "t"}]}, 1),
    ],
)
def test_a_model_that_disables_streaming_does_not_stream(
    way: str, kind: type[Answering], setting: Any, bound: dict[str, Any], pieces: int
) -> None:
    pool = pool_of("acme")
    model: Any = kind(answer=said("yes indeed"), disable_streaming=setting)
    llm = ChatPool(models={"acme": model.bind(**bound)}, pool=pool)

    async def collect() -> list[Any]:
        return [chunk async for chunk in llm.astream("x")]

    chunks = list(llm.stream("x")) if way == "stream" else asyncio.run(collect())
    assert len(chunks) == pieces
    assert chunks[-1].chunk_position == "last"
    assert pool.status().in_flight == 0


class Counting(BaseRateLimiter):
    """Lets all through, and counts; or does what `instead` does."""

    def __init__(self, instead: Callable[[], Any] | None = None) -> None:
        self.acquired = 0
        self.instead = instead

    def acquire(self, *, blocking: bool = True) -> bool:
        assert blocking
        self.acquired += 1
        if self.instead is not None:
            self.instead()
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        return self.acquire(blocking=blocking)


@pytest.mark.parametrize("way", WAYS)
def test_a_models_rate_limiter_is_asked_before_each_attempt(way: str) -> None:
    limiters = {"acme": Counting(), "birch": Counting()}
    answers = {"acme": refusing(500), "birch": said("yes")}
    models = {
        name: Streaming(answer=answers[name], rate_limiter=limiters[name]) for name in limiters
    }
    llm = ChatPool(models=models, pool=pool_of("acme", "birch"))
    attempts = [call(llm, way).response_metadata["quotafleet"]["attempts"] for _ in range(4)]
    assert limiters["birch"].acquired == 4
    assert limiters["acme"].acquired == sum(attempts) - 4


@pytest.mark.parametrize("way", WAYS)
def test_a_call_that_ends_at_the_rate_limiter_gives_all_back(way: str) -> None:
    def gone() -> None:
        raise KeyboardInterrupt

    pool = pool_of("acme", limits=Limits(tpm=1000))
    model = Streaming(answer=said("yes"), rate_limiter=Counting(gone))
    llm = ChatPool(models={"acme": model}, pool=pool)
    with pytest.raises(KeyboardInterrupt):
        call(llm, way, "x" * 400)
    assert pool.status().in_flight == 0
    [level] = pool.status().scopes[0].levels
    assert level.available > 950  # of 1000; 104 were reserved


@pytest.mark.parametrize("way", ["stream", "astream"])
@pytest.mark.parametrize("kind", KINDS[1:])
def test_an_empty_stream_is_told_as_stock_does(way: str, kind: type[Answering]) -> None:
    pool = pool_of("acme")
    model = kind(answer=said(""))
    for llm in (model, ChatPool(models={"acme": model}, pool=pool)):
        with pytest.raises(ValueError, match="No generation chunks were returned"):
            call(llm, way)
    assert pool.status().in_flight == 0


@pytest.mark.parametrize("way", ["stream", "astream"])
@pytest.mark.parametrize("texts", [["a", "b"], []])
def test_a_stream_may_be_a_plain_iterator(way: str, texts: list[str]) -> None:
    class Plain:
        def __init__(self) -> None:
            self.left = list(texts)

        def __aiter__(self) -> "Plain":
            return self

        async def __anext__(self) -> ChatGenerationChunk:
            if not self.left:
                raise StopAsyncIteration
            return ChatGenerationChunk(message=AIMessageChunk(content=self.left.pop(0)))

    class Iterating(Answering):
        def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
            return iter(
                [ChatGenerationChunk(message=AIMessageChunk(content=text)) for text in texts]
            )

        def _astream(self, *args: Any, **kwargs: Any) -> Any:
            return Plain()

    pool = pool_of("acme")
    llm = ChatPool(models={"acme": Iterating(answer=said("x"))}, pool=pool)
    if texts:
        assert call(llm, way).content == "ab"
    else:
        with pytest.raises(ValueError, match="No generation chunks"):
            call(llm, way)
    assert pool.status().in_flight == 0


def test_tokens_are_counted_by_the_first_model() -> None:
    class Letters(Answering):
        def get_token_ids(self, text: str) -> list[int]:
            return [ord(letter) for letter in text]

        def get_num_tokens_from_messages(self, messages: Any, tools: Any = None) -> int:
            return 100 + len(tools or ())

    prompt: list[BaseMessage] = [AIMessage(content="abc")]
    bound: Any = Letters(answer=said("x")).bind(stop=["."])
    models = {"acme": bound, "birch": Answering(answer=said("x"))}
    llm = ChatPool(models=models, pool=pool_of("acme", "birch"))
    assert llm.get_token_ids("ab") == [97, 98]
    assert llm.get_num_tokens("abc") == 3
    assert llm.get_num_tokens_from_messages(prompt) == 100
    assert llm.get_num_tokens_from_messages(prompt, tools=["t"]) == 101
    own = ChatPool(models={"acme": bound}, custom_get_token_ids=lambda text: [0])
    assert own.get_num_tokens("abc") == 1
    assert own.get_num_tokens_from_messages(prompt) == 1


# A real model under it


def stock_model(server: MockServer, name: str, **arguments: Any) -> langchain_openai.ChatOpenAI:
    return langchain_openai.ChatOpenAI(
        **{
            "model": MODEL,
            "api_key": SecretStr(f"sk-mock-{name}-1"),
            "base_url": server.base_url,
            "max_retries": 0,
            "include_response_headers": True,
            "stream_usage": True,
            **arguments,
        }
    )


@pytest.fixture
def llm(server: MockServer) -> ChatPool:
    names = ("acme", "birch")
    pool = KeyPool(
        Organization(name=name, keys=(f"held-{name}",), base_url=server.base_url) for name in names
    )
    return ChatPool(models={name: stock_model(server, name) for name in names}, pool=pool)


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
    assert answer.response_metadata["quotafleet"]["owner"] in ("acme", "birch")
    provider.script(tool_calls=[ToolCall(name="Weather", arguments={"place": "Oslo"})])
    asked = llm.with_structured_output(Weather, method="function_calling")
    assert asked.invoke("Oslo?") == Weather(place="Oslo")


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_an_answer_that_came_whole_says_all_that_stock_says(
    server: MockServer, provider: MockProvider, way: str
) -> None:
    model = stock_model(server, "acme", disable_streaming="tool_calling")
    pool = KeyPool([Organization(name="acme", keys=("held",), base_url=server.base_url)])
    answers = []
    # Stock's async client lives in one loop only.
    for llm, its_way in ((model, "stream"), (ChatPool(models={"acme": model}, pool=pool), way)):
        provider.script(tool_calls=[ToolCall(name="weather", arguments={"place": "Oslo"})])
        answers.append(call(llm.bind_tools([weather]), its_way))
    stock, pooled = answers
    assert pooled.tool_calls[0]["args"] == stock.tool_calls[0]["args"] == {"place": "Oslo"}
    assert set(pooled.response_metadata) == {*stock.response_metadata, "quotafleet"}
    assert any(level.learned for scope in pool.status().scopes for level in scope.levels)


def wire(model: Any) -> list[dict[str, Any]]:
    """Return where the bodies of a stock model's requests are put down."""
    bodies: list[dict[str, Any]] = []

    def note(request: Any) -> None:
        bodies.append(json.loads(request.read()))

    model.root_client._client.event_hooks["request"].append(note)
    return bodies


METHODS: list[dict[str, Any]] = [
    {},
    {"method": "json_schema"},
    {"method": "json_mode"},
    {"method": "function_calling"},
]


@pytest.mark.parametrize("include_raw", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_structured_output_sends_what_the_models_own_does(
    server: MockServer, provider: MockProvider, method: dict[str, Any], include_raw: bool
) -> None:
    model = stock_model(server, "acme")
    bodies = wire(model)
    pool = KeyPool([Organization(name="acme", keys=("held",), base_url=server.base_url)])
    answers = []
    for llm in (model, ChatPool(models={"acme": model}, pool=pool)):
        if method == {"method": "function_calling"}:
            provider.script(tool_calls=[ToolCall(name="Weather", arguments={"place": "Oslo"})])
        else:
            provider.script('{"place": "Oslo"}')
        asked = llm.with_structured_output(Weather, include_raw=include_raw, **method)
        answer: Any = asked.invoke("The weather in Oslo, as JSON?")
        answers.append(answer["parsed"] if include_raw else answer)
    assert answers == [Weather(place="Oslo")] * 2
    assert bodies[0] == bodies[1]


def test_models_of_different_manners_all_call_a_tool(
    server: MockServer, provider: MockProvider, llm: ChatPool
) -> None:
    old = stock_model(server, "birch", model="gpt-4")  # has no JSON schemas
    mixed = ChatPool(models={**llm.models, "birch": old}, pool=llm.pool)
    with pytest.warns(UserWarning, match="json_schema"):
        asked = mixed.with_structured_output(Weather)
    for _ in range(4):
        provider.script(tool_calls=[ToolCall(name="Weather", arguments={"place": "Oslo"})])
        assert asked.invoke("Oslo?") == Weather(place="Oslo")


def test_structured_output_is_told_to_tracers_and_not_to_models(
    llm: ChatPool, provider: MockProvider
) -> None:
    provider.script('{"place": "Oslo"}')
    for model in llm.models.values():
        model.include_response_headers = False  # stock warns where it can't
    asked: Any = llm.with_structured_output(Weather, method="json_mode")
    binding = asked.first
    assert set(binding.kwargs) == {"ls_structured_output_format"}
    assert all("ls_structured_output_format" not in m.kwargs for m in binding.bound.models.values())
    assert list(asked.stream("JSON?"))[-1] == Weather(place="Oslo")


def test_what_is_bound_later_replaces_what_was_bound(llm: ChatPool) -> None:
    def other() -> None:
        """Do another thing."""

    models = {name: model.bind(temperature=0) for name, model in llm.models.items()}
    bound: Any = ChatPool(models=models, pool=llm.pool).bind_tools([weather]).bind_tools([other])
    for model in bound.models.values():
        assert model.kwargs["temperature"] == 0
        assert [one["function"]["name"] for one in model.kwargs["tools"]] == ["other"]


def test_a_refusal_over_http_fails_over(llm: ChatPool, provider: MockProvider) -> None:
    provider.inject(MockFault(action="429_rpm"))
    assert llm.invoke("x").response_metadata["quotafleet"]["attempts"] == 2
    provider.inject(
        MockFault(action="error", code="unsupported_country_region_territory", times=None)
    )
    with pytest.raises(openai.PermissionDeniedError):
        llm.invoke("x")
