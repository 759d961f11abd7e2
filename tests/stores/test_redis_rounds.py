"""Claims of one process that go to the server together: each gets its own answer, once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from math import inf
from threading import Condition
from time import monotonic, sleep
from typing import Any

import pytest
from tests.stores.redis_kit import TestServer, together

from quotafleet import Demand, KeyPool, Limits, Organization, Usage
from quotafleet._core.quota.account import Account
from quotafleet._core.quota.reservations import (
    Claim,
    ClaimAnswer,
    NeverFits,
    NotReady,
    Reservation,
    Settlement,
)
from quotafleet.errors import StoreError
from quotafleet.keys import ApiKey, Secret
from quotafleet.stores.redis import RedisStore
from quotafleet.stores.redis._coalescing import AT_MOST
from quotafleet.stores.redis._connection import ConnectionLost

NAMES = count()
PATIENCE = 20.0


class Gate:
    """A way to the server that can be shut: who is on it waits, or is told that all is lost."""

    def __init__(self, store: RedisStore) -> None:
        self.turn, self.aturn = store._server.turn, store._server.aturn
        self._moved = Condition()
        #: Steps that have left, and how many of them may arrive.
        self.left = 0
        self.may: float = 0
        #: Steps whose answer is lost.
        self.losses = 0
        store._server.turn = self.go  # type: ignore[method-assign]
        store._server.aturn = self.ago  # type: ignore[method-assign]

    def open(self, steps: float = inf) -> None:
        with self._moved:
            self.may = steps
            self._moved.notify_all()

    def wait(self, holds: Callable[[], bool]) -> None:
        with self._moved:
            assert self._moved.wait_for(holds, PATIENCE)

    async def left_are(self, number: int) -> None:
        await asyncio.to_thread(self.wait, lambda: self.left == number)

    def leave(self) -> int:
        with self._moved:
            self.left += 1
            self._moved.notify_all()
            return self.left

    def go(self, *asked: Any) -> Any:
        number = self.leave()
        self.wait(lambda: number <= self.may)
        return self.lose(self.turn(*asked))

    async def ago(self, *asked: Any) -> Any:
        number = self.leave()
        await asyncio.to_thread(self.wait, lambda: number <= self.may)
        return self.lose(await self.aturn(*asked))

    def lose(self, answer: Any) -> Any:
        if self.losses:
            self.losses -= 1
            raise ConnectionLost("cut off")
        return answer


def until(holds: Callable[[], bool]) -> None:
    ends_at = monotonic() + PATIENCE
    while not holds():
        assert monotonic() < ends_at
        sleep(0.001)


def key(name: str) -> ApiKey:
    return ApiKey(
        key_id=f"{name}#1", secret=Secret(f"sk-{name}-0123456789abcdef"), organization=name
    )


def tokens(amount: int) -> tuple[float, ...]:
    return Demand(requests=0, input_tokens=amount).costs


@pytest.fixture
def store(server: TestServer) -> Iterator[RedisStore]:
    made = store_of(server)
    yield made
    made.close()


def store_of(server: TestServer, namespace: str | None = None) -> RedisStore:
    return RedisStore(
        server.url,
        namespace=namespace or f"rounds-{next(NAMES)}",
        limits_for=lambda *_: Limits(tpd=10_000, concurrent=200),
    )


def account(store: RedisStore, name: str = "acme") -> Account:
    return store.account(key(name), "m", 0.0)


def claim(store: RedisStore, amount: int, *names: str) -> Claim:
    return Claim([account(store, name) for name in names or ("acme",)], tokens(amount))


def level(store: RedisStore, name: str = "acme") -> float:
    """Return what the server's bucket holds, as another process sees it."""
    other = RedisStore(
        store._server._url, namespace=store._namespace, limits_for=store._books.limits_for
    )
    found = account(other, name)
    other.reserve(Claim([found], tokens(0)), 0.0)
    other.close()
    (bucket,) = [bucket for bucket in found.buckets if bucket.name == "tpd"]
    return round(bucket.level)


def full(store: RedisStore) -> float:
    return level(store, "never-used")


def many(
    store: RedisStore, gate: Gate, amounts: list[int], threads: ThreadPoolExecutor
) -> list[Any]:
    """Let a claim leave, and others arrive while it is on its way."""
    first = threads.submit(store.reserve, claim(store, amounts[0]), 0.0)
    until(lambda: gate.left == 1)
    rest = [threads.submit(store.reserve, claim(store, amount), 0.0) for amount in amounts[1:]]
    until(lambda: len(store._rounds._waiting[""]) == len(rest))
    gate.open()
    return [future.result(PATIENCE) for future in (first, *rest)]


def costs_of(answers: list[ClaimAnswer]) -> list[float]:
    assert all(isinstance(answer, Reservation) for answer in answers)
    return [answer.costs[1] for answer in answers]  # type: ignore[union-attr]


def test_threads_that_ask_meanwhile_share_the_next_step(store: RedisStore) -> None:
    store.reserve(claim(store, 0), 0.0)
    before = full(store)
    gate, amounts = Gate(store), [10 + number for number in range(20)]
    with ThreadPoolExecutor(20) as threads:
        answers = many(store, gate, amounts, threads)
    assert gate.left == 2
    assert costs_of(answers) == amounts
    assert len({answer.number for answer in answers}) == 20
    assert level(store) == before - sum(amounts)


async def test_tasks_that_ask_meanwhile_share_the_next_step(store: RedisStore) -> None:
    await store.areserve(claim(store, 0), 0.0)
    gate = Gate(store)
    tasks = [asyncio.create_task(store.areserve(claim(store, 10 + n), 0.0)) for n in range(20)]
    await gate.left_are(1)
    gate.open()
    assert costs_of(await asyncio.gather(*tasks)) == [10 + number for number in range(20)]
    assert gate.left == 2


def test_one_that_asks_alone_waits_for_nobody(store: RedisStore) -> None:
    gate = Gate(store)
    gate.open()
    for _ in range(5):
        store.reserve(claim(store, 1), 0.0)
    assert gate.left == 5 + 1  # the first was told what is missing


def test_no_more_than_so_many_go_in_one_step(store: RedisStore) -> None:
    store.reserve(claim(store, 0), 0.0)
    gate = Gate(store)
    with ThreadPoolExecutor(2 * AT_MOST + 1) as threads:
        answers = many(store, gate, [1] * (2 * AT_MOST + 1), threads)
    assert gate.left == 3
    assert costs_of(answers) == [1] * (2 * AT_MOST + 1)


def test_each_is_told_what_concerns_it(store: RedisStore) -> None:
    """One fits, one doesn't any more, one never does, one needs what another doesn't."""
    wanted = [
        claim(store, 6000),
        claim(store, 6000),
        claim(store, 20_000),
        claim(store, 6000, "acme", "birch"),
        claim(store, 3000),
    ]
    one, short, oversize, other, last = together(store, wanted)
    assert isinstance(one, Reservation)
    assert isinstance(short, NotReady)
    assert short.ready_at > monotonic() + 3600
    assert isinstance(oversize, NeverFits)
    assert oversize.bucket.name == "tpd"
    assert isinstance(other, Reservation)
    assert other.account.organization == "birch"
    assert isinstance(last, Reservation)
    assert last.account is one.account


def test_one_whose_owner_was_merged_goes_on_while_the_others_are_served(
    server: TestServer, store: RedisStore
) -> None:
    together(store, [claim(store, 100, name) for name in ("acme", "birch", "cedar")])
    elsewhere = store_of(server, store._namespace)
    for name in ("acme", "birch"):
        elsewhere.reserve(claim(elsewhere, 0, name), 0.0)
    elsewhere.merge("birch", "acme", 0.0)
    elsewhere.close()
    before = full(store)
    answers = together(store, [claim(store, 10, name) for name in ("acme", "birch", "cedar")])
    assert [a.account.organization for a in answers] == ["acme", "acme", "cedar"]  # type: ignore[union-attr]
    assert level(store) == before - 200 - 20


def test_of_a_lost_step_all_ask_again_and_each_counts_once(store: RedisStore) -> None:
    store.reserve(claim(store, 0), 0.0)
    before = full(store)
    gate = Gate(store)
    gate.losses = 1
    with ThreadPoolExecutor(10) as threads:
        answers = many(store, gate, [10] * 10, threads)
    assert costs_of(answers) == [10] * 10
    assert level(store) == before - 100
    gate.losses = 1
    assert costs_of([store.reserve(claim(store, 10), 0.0)]) == [10]
    assert level(store) == before - 110


@pytest.mark.parametrize("who", ["leader", "one that goes along", "one that waits"])
async def test_one_that_is_cancelled_takes_nothing_and_disturbs_nobody(
    store: RedisStore, who: str
) -> None:
    await store.areserve(claim(store, 0), 0.0)
    before = await asyncio.to_thread(full, store)
    gate = Gate(store)
    first = asyncio.create_task(store.areserve(claim(store, 1000), 0.0))
    await gate.left_are(1)
    rest = [asyncio.create_task(store.areserve(claim(store, 10), 0.0)) for _ in range(6)]
    await asyncio.sleep(0)
    if who != "one that waits":
        gate.open(1)
        await gate.left_are(2)
    cancelled = rest[0] if who == "leader" else rest[3]
    cancelled.cancel()
    if who == "leader":  # the others ask again
        await gate.left_are(3)
    gate.open()
    answers = await asyncio.gather(first, *rest, return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, BaseException)] == [
        answers[1 + rest.index(cancelled)]
    ]
    await store.aflush()
    assert await asyncio.to_thread(level, store) == before - 1000 - 50
    assert not store._loops[asyncio.get_running_loop()]._waiting


async def test_a_server_that_refuses_refuses_all_of_a_step(store: RedisStore) -> None:
    gate = Gate(store)
    tasks = [asyncio.create_task(store.areserve(claim(store, 1), 0.0)) for _ in range(5)]
    await gate.left_are(1)
    server = store._server.client()
    server.config_set("maxmemory", 1)
    try:
        gate.open()
        answers = await asyncio.gather(*tasks)
    finally:
        server.config_set("maxmemory", 0)
    assert all(isinstance(answer, NotReady) and answer.away is not None for answer in answers)
    assert not store._loops[asyncio.get_running_loop()]._waiting


def test_settlements_of_all_ride_with_the_next_step(store: RedisStore) -> None:
    before = full(store)
    store._companion.nudge = lambda *, soon: None  # type: ignore[method-assign]
    held = together(store, [claim(store, 100) for _ in range(10)])
    for number, reservation in enumerate(held):
        assert isinstance(reservation, Reservation)
        used = Usage(requests=0, input_tokens=number).costs
        store.settle(Settlement(reservation, used), 0.0)
    together(store, [claim(store, 1), claim(store, 1)])
    assert level(store) == before - sum(range(10)) - 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
def test_a_fork_does_not_wait_for_its_parents_step(store: RedisStore) -> None:
    store.reserve(claim(store, 0), 0.0)
    gate = Gate(store)
    with ThreadPoolExecutor(1) as threads:
        parent = threads.submit(store.reserve, claim(store, 10), 0.0)
        until(lambda: gate.left == 1)
        child = os.fork()
        if child == 0:
            try:
                gate.open()
                answer = store.reserve(claim(store, 10), 0.0)
                os._exit(0 if isinstance(answer, Reservation) else 1)
            finally:
                os._exit(2)
        ended = os.waitpid(child, 0)
        gate.open()
        assert isinstance(parent.result(PATIENCE), Reservation)
    assert os.waitstatus_to_exitcode(ended[1]) == 0


def test_who_leads_and_fails_lets_the_next_one_lead(store: RedisStore) -> None:
    store.reserve(claim(store, 0), 0.0)
    gate = Gate(store)

    def broken(*_: Any) -> Any:
        number = gate.leave()
        gate.wait(lambda: number <= gate.may)
        store._server.turn = gate.turn  # type: ignore[method-assign]
        raise StoreError("refused for good")

    store._server.turn = broken  # type: ignore[method-assign]
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(store.reserve, claim(store, 10), 0.0)
        until(lambda: gate.left == 1)
        rest = [threads.submit(store.reserve, claim(store, 10), 0.0) for _ in range(2)]
        until(lambda: len(store._rounds._waiting[""]) == 2)
        gate.open()
        with pytest.raises(StoreError, match="for good"):
            first.result(PATIENCE)
        assert costs_of([one.result(PATIENCE) for one in rest]) == [10, 10]
    assert not store._rounds._waiting


def test_a_step_that_cannot_be_made_holds_nobody_up(store: RedisStore) -> None:
    store.reserve(claim(store, 0), 0.0)
    make = store._books.round

    def broken(*_: Any, **__: Any) -> Any:
        store._books.round = make  # type: ignore[method-assign]
        raise KeyError("a fault of ours")

    store._books.round = broken  # type: ignore[method-assign]
    with pytest.raises(KeyError):
        store.reserve(claim(store, 10), 0.0)
    assert costs_of([store.reserve(claim(store, 10), 0.0)]) == [10]


def test_who_waits_for_a_step_that_is_lost_waits_for_one_more_at_most(store: RedisStore) -> None:
    """A server that hangs costs each call two time-outs, wherever it was."""
    store.reserve(claim(store, 0), 0.0)
    before = full(store)
    gate = Gate(store)
    gate.losses = 2
    with ThreadPoolExecutor(5) as threads:
        answers = many(store, gate, [10] * 5, threads)
    assert all(isinstance(answer, NotReady) and answer.away is not None for answer in answers)
    assert gate.left == 2
    store.flush()  # what was lost twice is undone by that
    assert level(store) == before


async def test_tasks_of_a_pool_share_round_trips(server: TestServer) -> None:
    acme = Organization(
        name="acme", keys=("sk-acme-0123456789abcdef",), limits=Limits(rpm=6_000_000)
    )
    store = RedisStore(server.url, namespace=f"rounds-{next(NAMES)}")
    async with KeyPool([acme], store=store) as pool:
        for one in pool.keys:  # nobody answers here, so nobody is on trial
            pool._fleet.key_circuit(one).proven = True

        async def work() -> None:
            for _ in range(10):
                lease = await pool.alease(Demand(model="m"))
                await asyncio.sleep(0)
                await lease.asettle(Usage())

        await asyncio.gather(*(work() for _ in range(32)))
    assert store.steps <= 320 / 3
