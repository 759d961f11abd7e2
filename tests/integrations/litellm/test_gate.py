"""The gate between the choice of a deployment and the pool."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest

from litellm_quotafleet import _send_pacing, acompletion
from litellm_quotafleet._send_pacing import WIDTH, InFlightPermit, gate
from quotafleet.testing import MockFault

from .conftest import CHAT, MESSAGES, idle, until, world_of
from .test_calls import pool_of


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def crowd(count: int, entered: list[InFlightPermit]) -> list[asyncio.Task[None]]:
    async def one() -> None:
        await gate().turn()
        entered.append(gate().enter())

    tasks = [asyncio.create_task(one()) for _ in range(count)]
    await turns()
    return tasks


@pytest.fixture(autouse=True)
def _no_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_send_pacing, "TICK", 60.0)


async def test_no_more_than_its_width_are_on_their_way() -> None:
    entered: list[InFlightPermit] = []
    tasks = await crowd(3 * WIDTH, entered)
    assert len(entered) == WIDTH
    for place in range(2 * WIDTH):
        entered[place].end()
        entered[place].end()  # counts once
        await turns()
        assert len(entered) == WIDTH + place + 1
    await asyncio.gather(*tasks)


async def test_one_that_is_sent_is_told_once_when_it_is_out() -> None:
    told: list[int] = []
    passage = gate().enter()
    passage.leaves(lambda: told.append(1))
    passage.leaves(lambda: told.append(2))
    assert not told
    await turns()
    assert told == [1]
    passage.end()
    assert told == [1]


async def test_an_answer_before_that_tells_it_too() -> None:
    told: list[int] = []
    passage = gate().enter()
    passage.leaves(lambda: told.append(1))
    passage.end()
    assert told == [1]
    await turns()
    assert told == [1]


async def test_a_place_is_not_lost_with_who_is_cancelled_or_has_to_wait() -> None:
    entered: list[InFlightPermit] = []
    await crowd(WIDTH, entered)
    cancelled = await crowd(2, entered)

    async def waits_in_the_pool() -> None:
        await gate().turn()

    waiting = asyncio.create_task(waits_in_the_pool())
    await turns()
    last = await crowd(1, entered)
    for task in cancelled:
        task.cancel()
    entered[0].end()
    await turns()
    assert waiting.done()
    assert last[0].done(), "the room of who did not enter was lost"
    for passage in entered:
        passage.end()


async def test_it_is_told_from_any_thread() -> None:
    entered: list[InFlightPermit] = []
    await crowd(WIDTH + 1, entered)
    await asyncio.to_thread(entered[0].end)
    await turns()
    assert len(entered) == WIDTH + 1


async def test_slow_ways_that_keep_nothing_busy_widen_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_send_pacing, "TICK", 0.001)
    entered: list[InFlightPermit] = []
    await crowd(5 * WIDTH, entered)
    await until(lambda: len(entered) == 5 * WIDTH)


async def test_a_loop_that_is_gone_leaves_nothing() -> None:
    kept: list[Any] = []

    async def enter() -> None:
        kept.append(weakref.ref(asyncio.get_running_loop()))
        kept.append(gate().enter())

    thread = threading.Thread(target=lambda: asyncio.run(enter()))
    thread.start()
    thread.join()
    kept.pop().end()
    gc.collect()
    assert kept[0]() is None


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The most calls that were on their way at a time."""
    found = [0]
    enter = _send_pacing.SendPacer.enter

    def counted(self: _send_pacing.SendPacer) -> InFlightPermit:
        passage = enter(self)
        found[0] = max(found[0], self._on_way)
        return passage

    monkeypatch.setattr(_send_pacing.SendPacer, "enter", counted)
    return found


async def test_a_routers_calls_are_let_through_as_they_are_sent(most: list[int]) -> None:
    with world_of({"a": {"rpm": 6000}}) as world:
        router = world.router(world.model_list(rpm=6000))
        routing = world.routing(router)
        for _ in range(2):  # whom the pool let wait pass it, as at first, when little is known
            most[0] = 0
            await asyncio.gather(*(router.acompletion("fast", MESSAGES) for _ in range(5 * WIDTH)))
            await idle(routing)
        assert world.received == 10 * WIDTH
    assert most == [WIDTH]


async def test_plain_calls_are_let_through_as_they_are_sent(most: list[int]) -> None:
    with world_of({"a": {"rpm": 6000}}) as world:
        pool = pool_of(world, rpm=6000)
        for _ in range(2):
            most[0] = 0
            await asyncio.gather(
                *(acompletion(CHAT, MESSAGES, pool=pool) for _ in range(5 * WIDTH))
            )
        assert world.received == 10 * WIDTH
        assert most == [WIDTH]
        assert gate()._on_way == 0


async def test_plain_calls_leave_it_when_they_are_sent(most: list[int]) -> None:
    with world_of({"a": {"rpm": 6000}}) as world:
        pool = pool_of(world)
        await acompletion(CHAT, MESSAGES, pool=pool)  # what LiteLLM imports at first
        world.provider.inject(MockFault(action="timeout", seconds=3.0, times=None))
        calls = [
            asyncio.create_task(acompletion(CHAT, MESSAGES, pool=pool, timeout=20))
            for _ in range(2 * WIDTH)
        ]
        # None is answered, and none left by time: TICK is long here.
        await until(lambda: world.received == 2 * WIDTH + 1)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert gate()._on_way == 0
