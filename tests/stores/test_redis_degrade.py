"""Processes that go on while their server is away: within a bound, and with a debt afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from tests.stores.redis_kit import TestServer
from tests.stores.test_redis_away import (
    CALL,
    NAMES,
    PATIENCE,
    TOKENS,
    back,
    go_on,
    hang,
    is_away,
    level,
    lost,
    store_of,
    until,
)
from tests.stores.test_redis_processes import admitted, fleet, jain, most_beyond

from quotafleet import Demand, KeyPool, Lease, Limits, Organization, Usage, WaitTimeout
from quotafleet.limits import Metric
from quotafleet.stores.redis import RedisStore
from quotafleet.stores.redis import _codec as wire
from quotafleet.stores.redis._step import ClaimRequest


@contextmanager
def pools(
    server: TestServer, size: int, *, share_for: float = 0.0, **limits: float
) -> Iterator[list[KeyPool]]:
    """Yield some members of one fleet, which know how many they are."""
    namespace = f"alone-{next(NAMES)}"
    with ExitStack() as stack:
        made = [pool_of(server, namespace, share_for=share_for, **limits) for _ in range(size)]
        for pool in made:
            stack.callback(pool.close)
            pool.lease(Demand(model="m", requests=0)).release()
        until(lambda: all(store_of(pool)._health.size == size for pool in made), "all are known")
        for pool in made:
            store_of(pool).flush()
        yield made


def pool_of(
    server: TestServer,
    namespace: str,
    lifetime: float = 900.0,
    share_for: float = 0.0,
    **limits: float,
) -> KeyPool:
    owner = Organization(
        name="acme",
        keys=("sk-acme-0123456789abcdef",),
        limits=Limits(**limits),
    )
    store = RedisStore(
        server.url,
        namespace=namespace,
        timeout=0.5,
        on_failure="degrade",
        lifetime=lifetime,
        share_for=share_for,
    )
    pool = KeyPool([owner], store=store)
    for key in pool.keys:
        pool._fleet.key_circuit(key).proven = True
    return pool


def are_alone(pools: list[KeyPool]) -> None:
    """Let each find out that the server is away."""
    for pool in pools:
        with pytest.raises(WaitTimeout):  # larger than what is left, so nothing is taken
            pool.lease(Demand(model="m", input_tokens=8000), timeout=0.05)
        until(lambda pool=pool: store_of(pool)._claims.is_alone, "it is on its own")  # type: ignore[misc]


@pytest.mark.parametrize(("leave", "come_back"), [(hang, go_on), (lost, back)])
def test_each_spends_its_part_and_all_of_it_is_booked_afterwards(
    own: TestServer,
    leave: Callable[[TestServer], None],
    come_back: Callable[[TestServer], None],
) -> None:
    """By the day, so that next to nothing comes back meanwhile and each token is seen."""
    with pools(own, 3, tpd=8640) as fleet:
        first, second, third = fleet
        for _ in range(6):
            first.lease(CALL).settle(Usage(input_tokens=TOKENS))
        for pool in fleet:  # each sees what the others took
            pool.lease(Demand(model="m", requests=0)).release()
            store_of(pool).flush()
        leave(own)
        for pool in fleet:
            pool.lease(CALL, timeout=PATIENCE).settle(Usage(input_tokens=TOKENS // 2))
        taken: list[Lease] = []
        while True:
            try:
                taken.append(second.lease(CALL, timeout=0.2))
            except WaitTimeout:
                break
        assert len(taken) == (8640 - 600) // 3 // TOKENS, "its part, and no more"
        for lease in taken[:-1]:
            lease.settle(Usage(input_tokens=TOKENS))
        assert all(store_of(pool).granted_alone > 0 for pool in fleet)
        come_back(own)
        until(lambda: not any(is_away(pool) for pool in fleet), "they are a fleet again")
        for pool in fleet:
            store_of(pool).flush()
        spent = 600 + 3 * TOKENS // 2 + len(taken) * TOKENS
        assert 8640 - level(first) == pytest.approx(spent, abs=TOKENS / 4)
        taken[-1].settle(Usage(input_tokens=TOKENS - 40))  # made alone, settled in the fleet
        store_of(second).flush()
        assert 8640 - level(third) == pytest.approx(spent - 40, abs=TOKENS / 4)
        assert all(pool.status().in_flight == 0 for pool in fleet)
        prefix = wire.prefix(store_of(first)._namespace, "acme")
        assert own.client().zcard(f"{prefix}x") == 0


def test_slots_that_were_taken_alone_come_back_though_their_holder_died(own: TestServer) -> None:
    namespace = f"alone-{next(NAMES)}"
    one, other = (pool_of(own, namespace, 8.0, concurrent=4) for _ in range(2))
    for pool in (one, other):
        pool.lease(CALL).release()
        store_of(pool).flush()  # or the new server hears of a slot that nobody says was taken
    until(lambda: all(store_of(p)._health.size == 2 for p in (one, other)), "both are known")
    own.stop()
    held = [one.lease(CALL, timeout=PATIENCE) for _ in range(2)]
    with pytest.raises(WaitTimeout):
        one.lease(CALL, timeout=0.2)
    own.start()
    until(lambda: not is_away(one), "it is back")
    store_of(one).flush()
    store_of(one)._server.close()  # it never says anything again
    store_of(one)._companion.close()
    rest = [other.lease(CALL, timeout=PATIENCE) for _ in range(2)]
    with pytest.raises(WaitTimeout):
        other.lease(CALL, timeout=0.2)
    rest += [other.lease(CALL, timeout=PATIENCE) for _ in held]
    for lease in rest:
        lease.release()
    other.close()


def test_one_that_starts_meanwhile_waits_since_it_knows_of_no_fleet(own: TestServer) -> None:
    own.stop()
    pool = pool_of(own, f"alone-{next(NAMES)}", tpd=8640)
    with pytest.raises(WaitTimeout, match="store has been away"):
        pool.lease(CALL, timeout=1.0)
    assert not store_of(pool)._claims.is_alone
    own.start()
    pool.lease(CALL, timeout=PATIENCE).settle(Usage(input_tokens=TOKENS))
    assert store_of(pool).granted_alone == 0
    pool.close()


def test_who_is_gone_for_a_while_still_counts(own: TestServer) -> None:
    """Else the first to come back would take the whole, if the server left again at once."""
    with pools(own, 3, tpd=8640) as fleet:
        client = own.client()
        client.flushall()
        store_of(fleet[0])._health._exchange()
        assert store_of(fleet[0])._health.size == 3


def test_what_is_closed_while_alone_is_told_if_the_server_is_there(own: TestServer) -> None:
    with pools(own, 2, tpd=8640) as (one, other):
        hang(own)
        one.lease(CALL, timeout=PATIENCE).settle(Usage(input_tokens=TOKENS))
        until(lambda: store_of(one)._claims.is_alone, "it is on its own")
        one.lease(CALL, timeout=PATIENCE).settle(Usage(input_tokens=TOKENS))
        alone = store_of(one).granted_alone
        go_on(own)
        one.close()
        assert 8640 - level(other) == pytest.approx(alone * TOKENS, abs=TOKENS / 4)


async def test_tasks_go_on_too(own: TestServer) -> None:
    with pools(own, 2, tpd=8640) as (one, other):
        own.stop()
        for _ in range(5):
            async with one.alease(CALL, timeout=PATIENCE) as lease:
                await lease.asettle(Usage(input_tokens=TOKENS))
        assert store_of(one).granted_alone == 5
        own.start()
        await one.aclose()
        assert 8640 - level(other) == pytest.approx(5 * TOKENS, abs=TOKENS / 4)


@pytest.mark.parametrize(("leave", "come_back"), [(hang, go_on), (lost, back)])
def test_shares_are_spent_before_parts_and_nothing_counts_twice(
    own: TestServer,
    leave: Callable[[TestServer], None],
    come_back: Callable[[TestServer], None],
) -> None:
    """What is lent was taken before the server went; parts are of what was left there."""
    with pools(own, 3, share_for=60.0, tpd=8640) as fleet:
        for pool in fleet:
            pool.lease(CALL).settle(Usage(input_tokens=TOKENS))
        for pool in fleet:  # each sees what the others were lent
            look(pool)
        believed = [store_of(pool)._view.all()[0].buckets[0].level for pool in fleet]
        lent = [share_of(pool) for pool in fleet]
        assert all(left > 2 * TOKENS for left in lent), lent
        leave(own)
        spent = [spend_all(pool) for pool in fleet]
        assert all(store_of(pool).granted_alone > 0 for pool in fleet)
        bound = sum(lent) + sum(believed) / 3
        assert bound - 4 * TOKENS < sum(spent) <= bound + 1
        come_back(own)
        until(lambda: not any(is_away(pool) for pool in fleet), "they are a fleet again")
        for pool in fleet:
            store_of(pool).flush()
        assert not any(store_of(pool)._shares.holds({"acme"}) for pool in fleet)  # type: ignore[union-attr]
        used = 3 * TOKENS + sum(spent)
        assert 8640 - level(fleet[0]) == pytest.approx(used, abs=TOKENS / 4)
        assert all(pool.status().in_flight == 0 for pool in fleet)


def look(pool: KeyPool) -> None:
    """Let a process see what the server holds, though it has a share."""
    store = store_of(pool)
    account, number = store._view.all()[0], store._books.next_number()
    store._carry(ClaimRequest("", [account], number))
    with store._lock:
        store._books.undo([account], number, wire.UNUSED)
    store._bring_all()


def share_of(pool: KeyPool) -> float:
    """Return the tokens that are left of a process's share."""
    shares = store_of(pool)._shares
    assert shares is not None
    (share,) = shares._of.values()
    return share.left[Metric.TOKENS]


def spend_all(pool: KeyPool) -> int:
    """Lease until nothing is left for this process; return the tokens that it spent."""
    spent = 0
    while True:
        try:  # it finds out meanwhile that the server is away
            is_alone = store_of(pool)._claims.is_alone
            lease = pool.lease(CALL, timeout=0.2 if is_alone else PATIENCE)
        except WaitTimeout:
            return spent
        lease.settle(Usage(input_tokens=TOKENS))
        spent += TOKENS


@pytest.mark.realtime
@pytest.mark.parametrize("share_for", [0.0, 0.5])
@pytest.mark.parametrize("come_back", [go_on, back])
def test_processes_stay_within_the_bound(
    own: TestServer, come_back: Callable[[TestServer], None], share_for: float
) -> None:
    """In any window no more than a bucket beyond the limit; each goes on; then shares are fair."""
    rps, size = 30.0, 3
    order = {"limits": {"rps": rps}, "tasks": 8, "on_failure": "degrade", "timeout": 0.5}
    order["share_for"] = share_for
    with fleet(own.url, size, seconds=11.0, **order) as processes:
        time.sleep(2.0)
        (hang if come_back is go_on else lost)(own)
        left = time.time()
        time.sleep(4.0)
        come_back(own)
        returned = time.time()
        reports = [process.hear() for process in processes]
    times = admitted(reports)
    assert most_beyond(times, rps, 1.0) <= rps
    assert all(report["alone"] > 0 for report in reports), [r["alone"] for r in reports]
    # Each needs up to two time-outs to find out; then it has its part.
    meanwhile = [at for at in times if left + 1.5 < at < returned]
    assert rps * 2.5 * 0.4 < len(meanwhile) < rps * 2.5 + rps
    after = [sum(returned + 2.0 < at for at, _ in report["granted"]) for report in reports]
    assert jain(after) > 0.8, after
    assert sum(after) > 0.5 * rps * (times[-1] - returned - 2.0)
