"""A Router over a store that processes share: what is open there ends as it does in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import count
from typing import Any

import litellm
import pytest
from tests.stores.redis_kit import TestServer, serving

from litellm_quotafleet import _open_attempts
from quotafleet.stores.redis import RedisStore
from quotafleet.stores.redis._report import read_fleet
from quotafleet.testing import MockFault

from .conftest import MESSAGES, World, collect, read, until
from .test_router_async import CASES, answered

NAMES = count()


@pytest.fixture(scope="module")
def server() -> Iterator[TestServer]:
    with serving() as running:
        yield running


class Shared:
    """Routers of a fleet, and what the server says of it."""

    def __init__(self, world: World, url: str) -> None:
        self.world = world
        self.url = url
        self.namespace = f"litellm-{next(NAMES)}"
        self.stores: list[RedisStore] = []

    def router(self, model: str = "gpt-4o-mini", **options: Any) -> Any:
        self.stores.append(RedisStore(self.url, namespace=self.namespace))
        router = self.world.router(self.world.model_list(model=model, **options))
        self.world.routing(router, store=self.stores[-1])
        return router

    def is_idle(self) -> bool:
        fleet = read_fleet(self.url, self.namespace)
        return _open_attempts.open_leases() == 0 and not any(
            owner.in_flight or owner.waiting_processes for owner in fleet.owners
        )

    def in_flight(self) -> int:
        return sum(owner.in_flight for owner in read_fleet(self.url, self.namespace).owners)


@pytest.fixture
async def shared(world: World, server: TestServer) -> AsyncIterator[Shared]:
    made = Shared(world, server.url)
    yield made
    collect()
    await until(made.is_idle)
    for store in made.stores:
        await store.aclose()


@pytest.mark.parametrize(("call", "model"), CASES)
async def test_success_and_failover(shared: Shared, call: Any, model: str) -> None:
    router = shared.router(model)
    await call(router)
    shared.world.provider.inject(MockFault(action="429_rpm"))
    await call(router)
    assert shared.world.received == 3
    await until(lambda: answered(shared.world.installed[0]) == 2)


async def test_an_error(shared: Shared) -> None:
    router = shared.router()
    shared.world.provider.inject(MockFault(action="500", times=None))
    with pytest.raises(litellm.InternalServerError):
        await router.acompletion("fast", MESSAGES)


async def test_a_cancelled_call(shared: Shared) -> None:
    router = shared.router()
    shared.world.provider.inject(MockFault(action="timeout", seconds=2.0))
    task = asyncio.create_task(router.acompletion("fast", MESSAGES))
    await until(lambda: shared.world.received == 1)
    assert shared.in_flight() == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_closed_and_dropped_streams(shared: Shared) -> None:
    router = shared.router()
    stream = await router.acompletion("fast", MESSAGES, stream=True)
    await stream.__anext__()
    await stream.aclose()
    await until(shared.is_idle)
    stream = await router.acompletion("fast", MESSAGES, stream=True)
    await stream.__anext__()
    del stream
    await asyncio.sleep(0)
    collect()


def test_synchronous_calls(shared: Shared) -> None:
    router = shared.router()
    router.completion("fast", MESSAGES)
    assert list(router.completion("fast", MESSAGES, stream=True))
    shared.world.provider.inject(MockFault(action="500", times=None))
    with pytest.raises(litellm.InternalServerError):
        router.completion("fast", MESSAGES)


async def test_a_cache_hit(shared: Shared) -> None:
    litellm.cache = litellm.Cache()
    router = shared.router()
    for _ in range(3):
        await router.acompletion("fast", MESSAGES, caching=True)
        await asyncio.sleep(0.1)
    assert shared.world.received == 1


async def test_routers_share_what_is_left(shared: Shared) -> None:
    one, other = shared.router(rpm=3), shared.router(rpm=3)
    for router in (one, other, one, other, one, other):
        await router.acompletion("fast", MESSAGES)
    for router in (one, other):
        with pytest.raises(litellm.RateLimitError, match="quotafleet"):
            await router.acompletion("fast", MESSAGES, timeout=5)
    assert shared.world.received == 6


async def test_a_changed_list_keeps_the_store(shared: Shared) -> None:
    router = shared.router(rpm=2)
    await router.acompletion("fast", MESSAGES)
    router.delete_deployment(id="fast-1")
    stream = await router.acompletion("fast", MESSAGES, stream=True)
    assert await read(stream)

    async def more_than_is_left() -> None:
        for _ in range(2):
            await router.acompletion("fast", MESSAGES, timeout=5)

    with pytest.raises(litellm.RateLimitError, match="quotafleet"):
        await more_than_is_left()
