"""`ChatOpenAI` over a pool does all that stock's does, and tells which key did it."""

import asyncio
import gc
import json
from collections.abc import Iterator
from typing import Any

import langchain_openai
import openai
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import (
    get_usage_metadata_callback,
)
from langchain_core.globals import set_llm_cache
from langchain_core.load import dumpd, dumps
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.tools import tool
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import BaseModel
from tests.integrations.langchain.conftest import MODEL, NAMES, PoolOf
from tests.transport.odd_server import DONE, OddServer, Seen, Send, delta, events, odd_server

from langchain_quotafleet import ChatOpenAI
from quotafleet import KeyPool, Limits, Organization, WaitTimeout
from quotafleet.testing import MockFault, MockProvider, MockServer, ToolCall

SECRET = "sk-mock-"


@pytest.fixture
def llm(pool: KeyPool) -> ChatOpenAI:
    return ChatOpenAI(model=MODEL, pool=pool)


class Weather(BaseModel):
    """The weather at a place."""

    place: str
    degrees: int


@tool
def weather(place: str) -> str:
    """Tell the weather."""
    return f"fine in {place}"


# What LangChain does


def test_invoke_answers_with_a_key_of_the_pool(llm: ChatOpenAI, provider: MockProvider) -> None:
    provider.script("yes")
    answer = llm.invoke("Is it?")
    assert answer.content == "yes"
    assert answer.usage_metadata is not None
    facts = answer.response_metadata["quotafleet"]
    assert facts == {
        "key_id": f"{facts['owner']}#1",
        "owner": facts["owner"],
        "attempts": 1,
        "waited_for": pytest.approx(0, abs=0.2),
    }
    assert facts["owner"] in NAMES


async def test_ainvoke_does_as_invoke(llm: ChatOpenAI, provider: MockProvider) -> None:
    provider.script("yes")
    answer = await llm.ainvoke("Is it?")
    assert answer.content == "yes"
    assert answer.response_metadata["quotafleet"]["owner"] in NAMES


def test_a_stream_tells_usage_and_key_once(llm: ChatOpenAI, provider: MockProvider) -> None:
    provider.script("one two three")
    chunks = list(llm.stream("Count."))
    assert len(chunks) > 3
    assert [("quotafleet" in chunk.response_metadata) for chunk in chunks].count(True) == 1
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.content == "one two three"
    assert whole.usage_metadata is not None
    assert whole.response_metadata["quotafleet"]["attempts"] == 1


async def test_an_async_stream_does_as_a_stream(llm: ChatOpenAI, provider: MockProvider) -> None:
    provider.script("one two three")
    chunks = [chunk async for chunk in llm.astream("Count.")]
    assert "".join(str(chunk.content) for chunk in chunks) == "one two three"
    assert chunks[0].response_metadata["quotafleet"]["owner"] in NAMES
    assert any(chunk.usage_metadata for chunk in chunks)


def test_stream_usage_stays_on_by_default_as_stock_has_it(llm: ChatOpenAI) -> None:
    assert llm.stream_usage is langchain_openai.ChatOpenAI(model=MODEL, api_key="x").stream_usage


def test_a_stream_asks_only_such_endpoints_for_usage_that_know_how_to_tell_it() -> None:
    keys = ("sk-other-0123456789",)
    other = Organization(name="o", keys=keys, provider="generic", base_url="http://127.0.0.1:9/v1")
    pool = KeyPool([other, Organization(name="acme", keys=("sk-mock-0123456789",))])
    assert not ChatOpenAI(model=MODEL, pool=pool).stream_usage
    assert ChatOpenAI(model=MODEL, pool=pool, stream_usage=True).stream_usage


def test_a_chain_and_its_batch(llm: ChatOpenAI, pool: KeyPool, provider: MockProvider) -> None:
    provider.script("yes", times=None)
    chain = ChatPromptTemplate.from_template("Is {thing} so?") | llm | StrOutputParser()
    assert chain.batch([{"thing": n} for n in range(30)]) == ["yes"] * 30
    assert provider.completed == 30
    assert pool.status().in_flight == 0
    assert all(key.answered for key in pool.status().keys)


async def test_abatch_keeps_the_order(llm: ChatOpenAI, provider: MockProvider) -> None:
    answers = await llm.abatch([f"say {n}" for n in range(50)])
    again = await llm.abatch([f"say {n}" for n in range(50)])
    assert [one.content for one in answers] == [one.content for one in again]
    assert provider.completed == 100


def test_tools(llm: ChatOpenAI, provider: MockProvider) -> None:
    provider.script(tool_calls=[ToolCall(name="weather", arguments={"place": "Oslo"})], times=2)
    bound = llm.bind_tools([weather])
    answer = bound.invoke("How is it in Oslo?")
    assert answer.tool_calls[0]["args"] == {"place": "Oslo"}
    assert answer.response_metadata["quotafleet"]["owner"] in NAMES
    whole: Any = None
    for chunk in bound.stream("How is it in Oslo?"):
        whole = chunk if whole is None else whole + chunk
    assert whole.tool_calls[0]["args"] == {"place": "Oslo"}
    assert whole.response_metadata["quotafleet"]["owner"] in NAMES


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
async def test_structured_output(llm: ChatOpenAI, provider: MockProvider, method: Any) -> None:
    structured = llm.with_structured_output(Weather, method=method, include_raw=True)
    answers: list[Any] = [structured.invoke("Oslo?"), await structured.ainvoke("Oslo?")]
    for answer in answers:
        assert isinstance(answer["parsed"], Weather)
        assert answer["raw"].response_metadata["quotafleet"]["owner"] in NAMES


async def test_streamed_structured_output_tells_the_key_too(llm: ChatOpenAI) -> None:
    structured = llm.with_structured_output(Weather, method="json_schema", include_raw=True)
    raw = [part["raw"] for part in structured.stream("Oslo?") if "raw" in part]  # dicts
    assert any("quotafleet" in message.response_metadata for message in raw)
    parts: list[Any] = [part async for part in structured.astream("Oslo?")]
    assert any(isinstance(part.get("parsed"), Weather) for part in parts)


async def test_the_responses_api(pool: KeyPool, provider: MockProvider) -> None:
    provider.script("yes", times=4)
    llm = ChatOpenAI(model=MODEL, pool=pool, use_responses_api=True)
    for answer in (llm.invoke("Is it?"), await llm.ainvoke("Is it?")):
        assert answer.text == "yes"
        assert answer.response_metadata["quotafleet"]["owner"] in NAMES
    chunks = list(llm.stream("Is it?"))
    chunks += [chunk async for chunk in llm.astream("Is it?")]
    assert "".join(chunk.text for chunk in chunks) == "yesyes"
    assert sum("quotafleet" in chunk.response_metadata for chunk in chunks) == 2


# What it is


def test_it_is_what_it_replaces(llm: ChatOpenAI) -> None:
    assert isinstance(llm, langchain_openai.ChatOpenAI)
    assert isinstance(llm, BaseChatOpenAI)
    assert type(llm).__name__ == "ChatOpenAI"
    assert llm._llm_type == "openai-chat"
    assert llm._get_ls_params()["ls_provider"] == "openai"
    assert llm.lc_id() == ["langchain", "chat_models", "openai", "ChatOpenAI"]


def test_it_is_written_down_as_stock_is(pool: KeyPool, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ChatOpenAI(model=MODEL, pool=pool, priority="batch", wait_timeout=5, temperature=0.5)
    stock = langchain_openai.ChatOpenAI(model=MODEL, api_key="sk-x", temperature=0.5)
    assert dumpd(ours) == dumpd(stock)
    assert ours._get_llm_string() == stock._get_llm_string()


def test_no_secret_is_shown(llm: ChatOpenAI, server: MockServer) -> None:
    single = ChatOpenAI(model=MODEL, api_key="sk-mock-acme-1", base_url=server.base_url)
    for model in (llm, single):
        assert SECRET not in dumps(model)
        assert SECRET not in repr(model)
        assert SECRET not in str(model.model_dump())


def test_a_cache_hit_costs_no_quota(llm: ChatOpenAI, provider: MockProvider) -> None:
    set_llm_cache(InMemoryCache())
    try:
        first, second = llm.invoke("Is it?"), llm.invoke("Is it?")
    finally:
        set_llm_cache(None)
    assert first.content == second.content
    assert provider.received == 1


def test_a_users_own_rate_limiter_is_asked(pool: KeyPool) -> None:
    asked = []

    class Counting(InMemoryRateLimiter):
        def acquire(self, *, blocking: bool = True) -> bool:
            asked.append(blocking)
            return True

    limiter = Counting(requests_per_second=1000)
    ChatOpenAI(model=MODEL, pool=pool, rate_limiter=limiter).invoke("Is it?")
    assert asked == [True]


def test_copies_share_the_pool(llm: ChatOpenAI, pool: KeyPool) -> None:
    warm = llm.model_copy(update={"temperature": 1.0, "priority": "batch"})
    assert warm.pool is pool
    assert warm.root_client is llm.root_client
    assert warm.invoke("Is it?").response_metadata["quotafleet"]


def test_models_of_one_pool_share_connections(llm: ChatOpenAI, pool: KeyPool) -> None:
    other = ChatOpenAI(model=MODEL, pool=pool)
    assert llm.root_client._client is other.root_client._client
    assert llm.root_async_client._client is other.root_async_client._client


def test_usage_callbacks_count(llm: ChatOpenAI) -> None:
    with get_usage_metadata_callback() as counted:
        llm.invoke("Is it?")
    assert next(iter(counted.usage_metadata.values()))["total_tokens"] > 0


# What goes wrong


def test_a_refused_owner_is_left_for_another(llm: ChatOpenAI, provider: MockProvider) -> None:
    provider.inject(MockFault(action="429_rpm"))
    facts = llm.invoke("Is it?").response_metadata["quotafleet"]
    assert facts["attempts"] == 2
    assert provider.received == 2


def test_no_key_in_time_is_langchains_rate_limit_error(pool_of: PoolOf) -> None:
    pool = pool_of("acme", limits=Limits(rpm=1))
    llm = ChatOpenAI(model=MODEL, pool=pool, wait_timeout=0)
    llm.invoke("Is it?")
    with pytest.raises(openai.RateLimitError, match="acme has") as refused:
        llm.invoke("Is it?")
    causes = []
    error: BaseException | None = refused.value
    while error is not None:
        causes.append(error)
        error = error.__cause__
    assert isinstance(causes[-1], WaitTimeout)
    assert causes[-1].retry_after is not None


def test_max_retries_bounds_attempts(pool: KeyPool, provider: MockProvider) -> None:
    provider.inject(MockFault(action="500", times=None))
    with pytest.raises(openai.InternalServerError):
        ChatOpenAI(model=MODEL, pool=pool, max_retries=1).invoke("Is it?")
    assert provider.received == 2
    with pytest.raises(openai.InternalServerError):
        ChatOpenAI(model=MODEL, pool=pool, max_retries=0).invoke("Is it?")
    assert provider.received == 3


def test_with_retry_does_not_multiply_what_the_pool_gave_up(
    pool: KeyPool, provider: MockProvider
) -> None:
    provider.inject(MockFault(action="500", times=None))
    llm = ChatOpenAI(model=MODEL, pool=pool, max_retries=1)
    retried = llm.with_retry(stop_after_attempt=2, wait_exponential_jitter=False)
    with pytest.raises(openai.InternalServerError):
        retried.invoke("Is it?")
    assert provider.received == 4  # 2 x 2, where stock's SDK would add its own to each


@pytest.mark.parametrize("is_async", [False, True])
def test_a_closed_pool_says_so(llm: ChatOpenAI, pool: KeyPool, is_async: bool) -> None:
    from quotafleet import PoolClosed

    pool.close()
    with pytest.raises(PoolClosed):
        asyncio.run(llm.ainvoke("Is it?")) if is_async else llm.invoke("Is it?")


def test_a_model_that_no_key_may_use(server: MockServer) -> None:
    from quotafleet import Organization

    acme = Organization(
        name="acme", keys=("sk-mock-acme-1",), base_url=server.base_url, only_models=("gpt-5*",)
    )
    llm = ChatOpenAI(model=MODEL, pool=KeyPool([acme]))
    with pytest.raises(openai.BadRequestError, match="no key may use the model"):
        llm.invoke("Is it?")


# What is said of a call


def test_priority_and_bounds_are_said_in_headers(odd: OddServer, odd_pool: KeyPool) -> None:
    llm = ChatOpenAI(model=MODEL, pool=odd_pool, priority="batch", wait_timeout=3)
    payload = llm._get_request_payload([("user", "x")], extra_headers={"x-mine": "1"})
    assert payload["extra_headers"] == {
        "x-quotafleet-priority": "batch",
        "x-quotafleet-timeout": "3.0",
        "x-mine": "1",
    }
    llm.bind(extra_headers={"x-mine": "1", "x-quotafleet-priority": "interactive"}).invoke("Is it?")
    assert odd.seen[-1].headers["x-mine"] == "1"
    assert not any(name.startswith("x-quotafleet") for name in odd.seen[-1].headers)


def test_a_priority_that_is_none_is_refused(llm: ChatOpenAI) -> None:
    hasty = llm.model_copy(update={"priority": "urgent"})
    with pytest.raises(openai.BadRequestError, match="priority"):
        hasty.invoke("Is it?")


# Streams and connections


@pytest.fixture
def odd() -> Iterator[OddServer]:
    with odd_server() as server:
        yield server


@pytest.fixture
def odd_pool(odd: OddServer) -> KeyPool:
    from quotafleet import Organization

    return KeyPool(
        Organization(name=name, keys=(f"sk-{name}-0123456789",), base_url=odd.base_url)
        for name in NAMES
    )


async def _fifty(seen: Seen, send: Send) -> None:
    await events(send, *[delta("x") for _ in range(50)], DONE)


def test_twenty_streams_use_one_connection(odd: OddServer, odd_pool: KeyPool) -> None:
    odd.answer = _fifty
    llm = ChatOpenAI(model=MODEL, pool=odd_pool)
    for _ in range(20):
        assert len(list(llm.stream("Count."))) >= 50
    assert odd.connections == 1

    async def count() -> None:
        for _ in range(20):
            assert len([chunk async for chunk in llm.astream("Count.")]) >= 50

    asyncio.run(count())
    assert odd.connections == 2
    assert odd_pool.status().in_flight == 0


def test_five_event_loops_one_after_another(llm: ChatOpenAI) -> None:
    for _ in range(5):
        assert asyncio.run(llm.ainvoke("Is it?")).content


async def test_dropped_and_cancelled_streams_leave_no_lease(
    odd: OddServer, odd_pool: KeyPool
) -> None:
    async def endless(seen: Seen, send: Send) -> None:
        await events(send, delta("x"), delta("x"), last=False)
        await asyncio.sleep(5)

    odd.answer = endless
    llm = ChatOpenAI(model=MODEL, pool=odd_pool)
    for _chunk in llm.stream("Count."):
        break
    async for _chunk in llm.astream("Count."):
        break
    begun = asyncio.Event()

    async def forever() -> None:
        async for _ in llm.astream("Count."):
            begun.set()

    task = asyncio.create_task(forever())
    await begun.wait()
    await asyncio.sleep(0.05)  # until it waits for a chunk; before, Python 3.11 loses the cancel
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await _until_free(odd_pool)


async def test_a_broken_stream_raises_and_leaves_no_lease(
    odd: OddServer, odd_pool: KeyPool
) -> None:
    async def broken(seen: Seen, send: Send) -> None:
        error = {"error": {"message": "boom", "type": "server_error", "code": "server_error"}}
        await events(send, delta("x"), b"data: " + json.dumps(error).encode() + b"\n\n")

    odd.answer = broken
    llm = ChatOpenAI(model=MODEL, pool=odd_pool)
    with pytest.raises(openai.APIError, match="boom"):
        list(llm.stream("Count."))
    with pytest.raises(openai.APIError, match="boom"):
        [chunk async for chunk in llm.astream("Count.")]
    await _until_free(odd_pool)


async def _until_free(pool: KeyPool) -> None:
    async with asyncio.timeout(10):
        while pool.status().in_flight:
            gc.collect()
            await asyncio.sleep(0.01)


def test_a_revoked_key_is_not_used_again(llm: ChatOpenAI, provider: MockProvider) -> None:
    provider.revoke("acme-1")
    owners = {llm.invoke(f"{n}?").response_metadata["quotafleet"]["owner"] for n in range(30)}
    assert owners == {"birch", "cedar"}


def test_an_earlier_response_is_continued_by_its_owner(
    pool: KeyPool, provider: MockProvider
) -> None:
    llm = ChatOpenAI(model=MODEL, pool=pool, use_responses_api=True)
    for _ in range(6):
        first = llm.invoke("Is it?")
        owner = first.response_metadata["quotafleet"]["owner"]
        for _ in range(3):
            again = llm.invoke("And?", previous_response_id=first.response_metadata["id"])
            assert again.response_metadata["quotafleet"]["owner"] == owner
