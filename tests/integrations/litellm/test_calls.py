"""LiteLLM's functions over a pool: failover, waiting, and no lease open at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import litellm
import pytest

from keyfleet import KeyPool, Limits, Organization
from keyfleet.testing import Fault
from litellm_keyfleet import _leases, acompletion, aembedding, completion, embedding

from .conftest import CHAT, EMBED, MESSAGES, World, collect, until, world_of


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
    return _leases.open_leases() == 0 and in_flight == 0


def answered(pool: KeyPool) -> int:
    return sum(key.answered for key in pool.status().keys)


CALLS: Any = [
    (lambda pool: completion(f"openai/{CHAT}", MESSAGES, pool=pool)),
    (lambda pool: list(completion(CHAT, MESSAGES, stream=True, pool=pool))),
    (lambda pool: embedding(EMBED, ["a"], pool=pool)),
]


async def _stream(pool: KeyPool) -> Any:
    return [c async for c in await acompletion(CHAT, MESSAGES, stream=True, pool=pool)]


ACALLS: Any = [
    (lambda pool: acompletion(f"openai/{CHAT}", MESSAGES, pool=pool)),
    _stream,
    (lambda pool: aembedding(EMBED, ["a"], pool=pool)),
]
NAMES = ["chat", "stream", "embedding"]


@pytest.mark.parametrize("call", CALLS, ids=NAMES)
def test_sync_success_and_failover(world: World, pool: KeyPool, call: Any) -> None:
    call(pool)
    world.provider.inject(Fault(action="429_rpm"))
    call(pool)
    assert answered(pool) == 2
    assert world.received == 3


@pytest.mark.parametrize("call", ACALLS, ids=NAMES)
async def test_async_success_and_failover(world: World, pool: KeyPool, call: Any) -> None:
    await call(pool)
    world.provider.inject(Fault(action="429_rpm"))
    await call(pool)
    assert answered(pool) == 2
    assert world.received == 3


@pytest.mark.parametrize("call", CALLS, ids=NAMES)
def test_the_last_error_is_litellms_own(world: World, pool: KeyPool, call: Any) -> None:
    world.provider.revoke("a-1")
    world.provider.revoke("b-1")
    with pytest.raises(litellm.AuthenticationError):
        call(pool)


async def test_num_retries_bounds_the_attempts(world: World, pool: KeyPool) -> None:
    world.provider.inject(Fault(action="500", times=None))
    with pytest.raises(litellm.InternalServerError):
        await acompletion(CHAT, MESSAGES, num_retries=0, pool=pool)
    assert world.received == 1


async def test_no_headroom_in_time_is_a_rate_limit_error() -> None:
    with world_of({"a": {"rpm": 60}}) as world:
        pool = pool_of(world, rpm=1)
        await acompletion(CHAT, MESSAGES, pool=pool)
        with pytest.raises(litellm.RateLimitError, match="keyfleet"):
            await acompletion(CHAT, MESSAGES, timeout=2, pool=pool)
        assert is_idle(pool)
        assert world.received == 1


async def test_cancelling_ends_the_lease(world: World, pool: KeyPool) -> None:
    world.provider.inject(Fault(action="timeout", seconds=2.0))
    task = asyncio.create_task(acompletion(CHAT, MESSAGES, pool=pool))
    await until(lambda: world.received == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert is_idle(pool)


async def test_closing_a_stream_ends_its_lease_at_once(pool: KeyPool) -> None:
    stream = await acompletion(CHAT, MESSAGES, stream=True, pool=pool)
    await stream.__anext__()
    assert not is_idle(pool)
    await stream.aclose()
    assert is_idle(pool)


async def test_a_dropped_stream_ends_its_lease(pool: KeyPool) -> None:
    stream = await acompletion(CHAT, MESSAGES, stream=True, pool=pool)
    await stream.__anext__()
    del stream
    collect()
    await until(lambda: is_idle(pool))


def test_a_stream_that_breaks(world: World, pool: KeyPool) -> None:
    world.provider.inject(Fault(action="stream_truncate"))
    with pytest.raises(Exception, match="APIConnectionError"):
        list(completion(CHAT, MESSAGES, stream=True, pool=pool))
    assert answered(pool) == 0


def test_a_stream_answers_as_litellms_own(pool: KeyPool) -> None:
    stream = completion(CHAT, MESSAGES, stream=True, pool=pool)
    chunks = list(stream)
    assert litellm.stream_chunk_builder(chunks).choices[0].message.content
    assert stream.custom_llm_provider == "openai"
