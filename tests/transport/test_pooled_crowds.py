"""Many threads and tasks over one pool: nothing leaks, nobody is over-admitted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.transport.support import ASK, AsyncOpenAI, OpenAI, admitted, idle, mock, until

from quotafleet import KeyPool
from quotafleet.testing import MockFault, MockServer

ORGS = {"a": {"rpm": 6_000, "tpm": 10_000_000}, "b": {"rpm": 12_000, "tpm": 10_000_000}}


@pytest.fixture
def fleet() -> Iterator[tuple[MockServer, KeyPool]]:
    with mock(ORGS, ttft_s=0.02) as (server, pool):
        yield server, pool


def check(server: MockServer, pool: KeyPool, calls: int) -> None:
    until(lambda: idle(pool))
    state: Any = server.provider.state()
    assert sum(admitted(server).values()) == calls
    assert state["refused"] == 0
    until(lambda: all(k["in_flight"] == 0 for k in server.provider.state()["keys"].values()))  # type: ignore[attr-defined]
    assert pool.status().waiting == 0


def test_200_threads(fleet: tuple[MockServer, KeyPool]) -> None:
    server, pool = fleet
    client = OpenAI(pool=pool)

    def ask(number: int) -> None:
        if number % 4:
            client.chat.completions.create(**ASK)
        else:
            list(client.chat.completions.create(**ASK, stream=True))

    with ThreadPoolExecutor(200) as threads:
        list(threads.map(ask, range(400)))
    check(server, pool, 400)


async def test_200_tasks(fleet: tuple[MockServer, KeyPool]) -> None:
    server, pool = fleet
    client = AsyncOpenAI(pool=pool)

    async def ask(number: int) -> None:
        if number % 4:
            await client.chat.completions.create(**ASK)
        else:
            async for _ in await client.chat.completions.create(**ASK, stream=True):
                pass

    for begin in (0, 200):
        await asyncio.gather(*(ask(begin + i) for i in range(200)))
    check(server, pool, 400)


async def test_200_tasks_of_which_half_give_up() -> None:
    with mock(ORGS, ttft_s=0.02, tokens_per_s=200.0) as (server, pool):
        server.provider.inject(MockFault(action="500", probability=0.1, times=None))
        client = AsyncOpenAI(pool=pool)

        async def ask(number: int) -> None:
            try:
                async with asyncio.timeout(0.001 * number if number % 2 else 30):
                    async with await client.chat.completions.create(**ASK, stream=True) as stream:
                        async for _ in stream:
                            if number % 5 == 0:
                                break
            except TimeoutError:
                pass

        await asyncio.gather(*(ask(i) for i in range(200)))
        await asyncio.to_thread(until, lambda: idle(pool))
        assert pool.status().waiting == 0
