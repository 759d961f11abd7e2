"""LiteLLM's functions over a pool: failover, waiting, and no lease open at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import litellm
import pytest

from litellm_quotafleet import (
    _open_attempts,
    acompletion,
    aembedding,
    aimage_generation,
    anthropic,
    anthropic_messages,
    aresponses,
    atext_completion,
    completion,
    embedding,
    image_generation,
    responses,
    text_completion,
)
from quotafleet import KeyPool, Limits, Organization
from quotafleet.testing import MockFault

from .conftest import CHAT, EMBED, MESSAGES, World, collect, read, until, world_of

TEXT = "gpt-3.5-turbo-instruct"
IMAGE = "openai/gpt-image-1"


def pool_of(world: World, **limits: float) -> KeyPool:
    return KeyPool(
        Organization(
            name=key.name,
            keys=(key.secret,),
            base_url=world.server.base_url,
            limits=Limits(**limits),
        )
        for key in world.provider.fleet.keys
    )


@pytest.fixture
def pool(world: World) -> Iterator[KeyPool]:
    pool = pool_of(world)
    yield pool
    assert is_idle(pool)


def is_idle(pool: KeyPool) -> bool:
    in_flight = sum(scope.in_flight for scope in pool.status().scopes)
    return _open_attempts.open_leases() == 0 and in_flight == 0


def answered(pool: KeyPool) -> int:
    return sum(key.answered for key in pool.status().keys)


def chat(pool: KeyPool, **more: Any) -> Any:
    return completion(f"openai/{CHAT}", MESSAGES, pool=pool, **more)


def chat_stream(pool: KeyPool, **more: Any) -> Any:
    return list(completion(CHAT, MESSAGES, stream=True, pool=pool, **more))


def text(pool: KeyPool, **more: Any) -> Any:
    return text_completion("Once upon", TEXT, pool=pool, **more)


def text_stream(pool: KeyPool, **more: Any) -> Any:
    return list(text_completion("Once upon", TEXT, stream=True, pool=pool, **more))


def vectors(pool: KeyPool, **more: Any) -> Any:
    return embedding(EMBED, ["a"], pool=pool, **more)


def answer(pool: KeyPool, **more: Any) -> Any:
    return responses("Hello", CHAT, pool=pool, **more)


def answer_stream(pool: KeyPool, **more: Any) -> Any:
    return list(responses("Hello", CHAT, stream=True, pool=pool, **more))


def message(pool: KeyPool, **more: Any) -> Any:
    return anthropic.messages.create(16, MESSAGES, f"openai/{CHAT}", pool=pool, **more)


def image(pool: KeyPool, **more: Any) -> Any:
    return image_generation("a cat", IMAGE, pool=pool, **more)


async def achat(pool: KeyPool, **more: Any) -> Any:
    return await acompletion(f"openai/{CHAT}", MESSAGES, pool=pool, **more)


async def achat_stream(pool: KeyPool, **more: Any) -> Any:
    return await read(await acompletion(CHAT, MESSAGES, stream=True, pool=pool, **more))


async def atext(pool: KeyPool, **more: Any) -> Any:
    return await atext_completion("Once upon", TEXT, pool=pool, **more)


async def atext_stream(pool: KeyPool, **more: Any) -> Any:
    return await read(await atext_completion("Once upon", TEXT, stream=True, pool=pool, **more))


async def avectors(pool: KeyPool, **more: Any) -> Any:
    return await aembedding(EMBED, ["a"], pool=pool, **more)


async def aanswer(pool: KeyPool, **more: Any) -> Any:
    return await aresponses("Hello", CHAT, pool=pool, **more)


async def aanswer_stream(pool: KeyPool, **more: Any) -> Any:
    return await read(await aresponses("Hello", CHAT, stream=True, pool=pool, **more))


async def amessage(pool: KeyPool, **more: Any) -> Any:
    return await anthropic_messages(16, MESSAGES, f"openai/{CHAT}", pool=pool, **more)


async def amessage_stream(pool: KeyPool, **more: Any) -> Any:
    model = f"openai/{CHAT}"
    return await read(await anthropic_messages(16, MESSAGES, model, stream=True, pool=pool, **more))


async def aimage(pool: KeyPool, **more: Any) -> Any:
    return await aimage_generation("a cat", IMAGE, pool=pool, **more)


def named(*calls: Any) -> list[Any]:
    return [pytest.param(call, id=call.__name__) for call in calls]


STREAMS = named(chat_stream, text_stream, answer_stream)
ASTREAMS = named(achat_stream, atext_stream, aanswer_stream, amessage_stream)
CALLS = named(chat, text, vectors, answer, message, chat_stream, answer_stream)
ACALLS = named(achat, atext, avectors, aanswer, amessage)
ACALLS += named(achat_stream, aanswer_stream, amessage_stream)
#: LiteLLM leaves the SDK's own two retries on for images, and sends a stream of text completions
#: only when it is read: a refusal of either comes to the caller.
ODD = named(image, text_stream)
AODD = named(aimage, atext_stream)


@pytest.mark.parametrize("call", CALLS)
def test_sync_success_and_failover(world: World, pool: KeyPool, call: Any) -> None:
    call(pool)
    world.provider.inject(MockFault(action="429_rpm"))
    call(pool)
    assert answered(pool) == 2
    assert world.received == 3


@pytest.mark.parametrize("call", ACALLS)
async def test_async_success_and_failover(world: World, pool: KeyPool, call: Any) -> None:
    await call(pool)
    world.provider.inject(MockFault(action="429_rpm"))
    await call(pool)
    assert answered(pool) == 2
    assert world.received == 3


@pytest.mark.parametrize("call", CALLS + ODD)
def test_the_last_error_is_litellms_own(world: World, pool: KeyPool, call: Any) -> None:
    world.provider.revoke("a-1")
    world.provider.revoke("b-1")
    with pytest.raises(litellm.AuthenticationError):
        call(pool)


@pytest.mark.parametrize("call", ACALLS + AODD)
async def test_the_last_error_of_an_asynchronous_call_is_litellms_own(
    world: World, pool: KeyPool, call: Any
) -> None:
    world.provider.revoke("a-1")
    world.provider.revoke("b-1")
    with pytest.raises(litellm.AuthenticationError):
        await call(pool)


@pytest.mark.parametrize("call", CALLS)
def test_nobody_tries_again_in_secret(world: World, pool: KeyPool, call: Any) -> None:
    world.provider.inject(MockFault(action="500", times=None))
    with pytest.raises(Exception, match="error"):
        call(pool, num_retries=0)
    assert world.received == 1


@pytest.mark.parametrize("call", ACALLS)
async def test_nobody_tries_an_asynchronous_call_again_in_secret(
    world: World, pool: KeyPool, call: Any
) -> None:
    world.provider.inject(MockFault(action="500", times=None))
    with pytest.raises(Exception, match="error"):
        await call(pool, num_retries=0)
    assert world.received == 1


async def test_num_retries_bounds_the_attempts(world: World, pool: KeyPool) -> None:
    world.provider.inject(MockFault(action="500", times=None))
    with pytest.raises(litellm.InternalServerError):
        await acompletion(CHAT, MESSAGES, num_retries=0, pool=pool)
    assert world.received == 1


async def test_no_headroom_in_time_is_a_rate_limit_error() -> None:
    with world_of({"a": {"rpm": 60}}) as world:
        pool = pool_of(world, rpm=1)
        await acompletion(CHAT, MESSAGES, pool=pool)
        with pytest.raises(litellm.RateLimitError, match="quotafleet"):
            await acompletion(CHAT, MESSAGES, timeout=2, pool=pool)
        assert is_idle(pool)
        assert world.received == 1


@pytest.mark.parametrize("call", CALLS)
def test_a_timeout_ends_the_lease(world: World, pool: KeyPool, call: Any) -> None:
    world.provider.inject(MockFault(action="timeout", seconds=2.0))
    with pytest.raises(litellm.Timeout):
        call(pool, num_retries=0, timeout=0.3)


@pytest.mark.parametrize("call", ACALLS)
async def test_a_timeout_of_an_asynchronous_call_ends_the_lease(
    world: World, pool: KeyPool, call: Any
) -> None:
    world.provider.inject(MockFault(action="timeout", seconds=2.0))
    with pytest.raises(litellm.Timeout):
        await call(pool, num_retries=0, timeout=0.3)


@pytest.mark.parametrize("call", ACALLS + AODD)
async def test_cancelling_ends_the_lease(world: World, pool: KeyPool, call: Any) -> None:
    world.provider.inject(MockFault(action="timeout", seconds=2.0))
    task = asyncio.create_task(call(pool))
    await until(lambda: world.received == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert is_idle(pool)


@pytest.mark.parametrize("call", ODD)
def test_success_is_settled_once(world: World, pool: KeyPool, call: Any) -> None:
    call(pool)
    assert answered(pool) == world.received == 1


async def opened(pool: KeyPool, call: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the stream that a call reads."""

    async def unread(stream: Any) -> Any:
        return stream

    monkeypatch.setitem(call.__globals__, "read", unread)
    return await call(pool)


@pytest.mark.parametrize("call", ASTREAMS)
async def test_closing_a_stream_ends_its_lease_at_once(
    pool: KeyPool, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = await opened(pool, call, monkeypatch)
    await stream.__anext__()
    assert not is_idle(pool)
    await stream.aclose()
    assert is_idle(pool)


@pytest.mark.parametrize("call", ASTREAMS)
async def test_a_dropped_stream_ends_its_lease(
    pool: KeyPool, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = await opened(pool, call, monkeypatch)
    await stream.__anext__()
    del stream
    collect()
    await until(lambda: is_idle(pool))


@pytest.mark.parametrize("call", STREAMS)
def test_closing_a_synchronous_stream_ends_its_lease(
    pool: KeyPool, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(call.__globals__, "list", lambda stream: stream)
    stream = call(pool)
    next(stream)
    assert not is_idle(pool)
    stream.close()
    assert is_idle(pool)
    assert answered(pool) == 0


async def test_a_synchronous_calls_asynchronous_stream_ends_its_lease(pool: KeyPool) -> None:
    stream = anthropic.messages.create(16, MESSAGES, f"openai/{CHAT}", stream=True, pool=pool)
    assert not is_idle(pool)
    assert await read(stream)
    assert is_idle(pool)
    assert answered(pool) == 1


@pytest.mark.parametrize("call", ACALLS + AODD)
async def test_usage_is_counted(pool: KeyPool, call: Any) -> None:
    more = (
        {"stream_options": {"include_usage": True}} if call in (achat_stream, atext_stream) else {}
    )
    await call(pool, **more)
    assert sum(key.input_tokens for key in pool.status().keys) > 0


@pytest.mark.parametrize("call", named(chat, text, answer))
def test_what_comes_from_the_cache_costs_nothing(world: World, pool: KeyPool, call: Any) -> None:
    litellm.cache = litellm.Cache()
    for _ in range(3):
        call(pool, caching=True)
    assert world.received == 1
    assert answered(pool) == 1


@pytest.mark.parametrize("call", named(achat, atext, aanswer, avectors))
async def test_what_comes_from_the_cache_costs_nothing_asynchronously(
    world: World, pool: KeyPool, call: Any
) -> None:
    litellm.cache = litellm.Cache()
    for _ in range(3):
        await call(pool, caching=True)
        await asyncio.sleep(0.05)  # it is written behind the caller's back
    assert world.received == 1
    assert answered(pool) == 1


def test_a_stream_that_breaks(world: World, pool: KeyPool) -> None:
    world.provider.inject(MockFault(action="stream_truncate"))
    with pytest.raises(Exception, match="APIConnectionError"):
        list(completion(CHAT, MESSAGES, stream=True, pool=pool))
    assert answered(pool) == 0


def test_a_stream_answers_as_litellms_own(pool: KeyPool) -> None:
    stream = completion(CHAT, MESSAGES, stream=True, pool=pool)
    chunks = list(stream)
    assert litellm.stream_chunk_builder(chunks).choices[0].message.content
    assert stream.custom_llm_provider == "openai"
