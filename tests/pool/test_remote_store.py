"""A pool over a store that takes time to answer, as a remote one does."""

from __future__ import annotations

import asyncio
import threading

import pytest

from quotafleet import Demand, KeyPool, Limits, Organization, Usage
from quotafleet._core.call.flow import AttemptResult
from quotafleet._core.quota.reservations import Claim, ClaimAnswer, Settlement
from quotafleet.outcomes import OK
from quotafleet.stores import MemoryStore

ONE = Demand(model="m")


class SlowStore(MemoryStore):
    """The ledger behind a wire: every answer takes a turn of the loop, or of the thread."""

    asked = 0
    most_ranked = 0

    @property
    def is_local(self) -> bool:
        return False

    def reserve(self, claim: Claim, now: float) -> ClaimAnswer:
        self.asked += 1
        assert isinstance(claim.accounts, list)
        self.most_ranked = max(self.most_ranked, len(claim.accounts))
        return super().reserve(claim, now)

    async def areserve(self, claim: Claim, now: float) -> ClaimAnswer:
        answer = self.reserve(claim, now)
        await asyncio.sleep(0.001)
        return answer

    async def asettle(self, settlement: Settlement, now: float) -> bool:
        await asyncio.sleep(0.001)
        return self.settle(settlement, now)


def pool(count: int = 1, **limits: float) -> tuple[KeyPool, SlowStore]:
    store = SlowStore(lambda organization, project, family: Limits(**limits))
    organizations = [
        Organization(name=f"o{n}", keys=(f"sk-{n}-0123456789abcdef",)) for n in range(count)
    ]
    return KeyPool(organizations, store=store), store


def test_threads_share_slots_and_all_come_through() -> None:
    made, store = pool(concurrent=3)

    def work() -> None:
        for _ in range(5):
            with made.lease(ONE) as lease:
                lease.settle(Usage())

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.open == made.status().waiting == 0
    assert made.status().keys[0].answered == 100


async def test_tasks_share_slots_and_none_is_woken_in_vain_for_long() -> None:
    made, store = pool(concurrent=3)

    async def work() -> None:
        async with made.alease(ONE):
            await asyncio.sleep(0.001)

    await asyncio.gather(*(work() for _ in range(100)))
    assert store.open == made.status().waiting == 0
    # One question for each grant, one for each arrival, and few that were told "not now".
    assert store.asked <= 100 * 2.5


async def test_what_was_granted_to_a_cancelled_task_goes_back() -> None:
    made, store = pool(concurrent=1)
    for pause in (0.0, 0.0005):
        task = asyncio.ensure_future(made.alease(ONE))
        await asyncio.sleep(pause)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert store.open == 0
    lease = await asyncio.wait_for(_lease(made), 1)
    await lease.asettle()
    assert store.open == 0


async def _lease(made: KeyPool):  # type: ignore[no-untyped-def]
    return await made.alease(ONE)


async def test_settling_runs_to_its_end_in_a_cancelled_task() -> None:
    made, store = pool(concurrent=1)
    lease = await made.alease(ONE)
    task = asyncio.create_task(lease.asettle())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.open == 0
    assert made.status().keys[0].answered == 1


async def test_whole_calls_settle_before_and_after_their_answer() -> None:
    made, store = pool(concurrent=1)

    async def send(lease: object) -> AttemptResult[str]:
        return AttemptResult(outcome=OK, response="yes")

    lease, reply = await made.acall(made.order(ONE), send)
    assert reply.response == "yes"
    assert store.open == 1
    await lease.asettle()
    assert store.open == 0


def test_a_remote_store_is_sent_the_head_of_the_ranking_only() -> None:
    made, store = pool(count=100, rpm=600)
    made.lease(ONE).settle()
    assert store.most_ranked == 16
