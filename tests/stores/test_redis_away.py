"""A server that is away for a while: calls wait for it, or fail, and none is lost or counted twice.

Nothing here depends on how long a machine takes: what must happen is waited for.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Callable
from itertools import count
from threading import Thread
from time import sleep

import pytest
from redis.exceptions import ResponseError
from tests.stores.redis_kit import TestServer

from quotafleet import (
    ConfigError,
    Demand,
    KeyPool,
    Limits,
    Organization,
    PoolClosed,
    StoreError,
    Usage,
    WaitTimeout,
)
from quotafleet._clock import SystemClock
from quotafleet._core.quota.reservations import Claim, NotReady, Reservation, Settlement
from quotafleet.keys import ApiKey, Secret
from quotafleet.stores.redis import RedisStore
from quotafleet.stores.redis import _codec as wire
from quotafleet.stores.redis._connection import Unready, _errors
from quotafleet.stores.redis._outage import FIRST_PAUSE, LONGEST_PAUSE, Outage

NAMES = count()
NOW = SystemClock().now
PATIENCE = 60.0
CALLS = 40
TOKENS = 100
#: By the day: a tenth of a token comes back in a second, so that one counted twice shows. There is
#: room for claims that a server which hangs takes in after all, and that are undone.
LIMITS = Limits(tpd=8640)
CALL = Demand(model="m", input_tokens=TOKENS)


def pool_of(server: TestServer, on_failure: str = "wait", **limits: float) -> KeyPool:
    store = RedisStore(
        server.url,
        namespace=f"away-{next(NAMES)}",
        timeout=0.5,
        on_failure=on_failure,  # type: ignore[arg-type]
    )
    owner = Organization(
        name="acme",
        keys=("sk-acme-0123456789abcdef",),
        limits=Limits(**limits) if limits else LIMITS,
    )
    pool = KeyPool([owner], store=store)
    for key in pool.keys:
        pool._fleet.key_circuit(key).proven = True
    return pool


def store_of(pool: KeyPool) -> RedisStore:
    assert isinstance(pool.store, RedisStore)
    return pool.store


def until(holds: Callable[[], bool], what: str) -> None:
    ends_at = NOW() + PATIENCE
    while not holds():
        assert NOW() < ends_at, f"not within {PATIENCE:g} s: {what}"
        sleep(0.01)


def level(pool: KeyPool) -> float:
    """Return what the server's bucket holds, as an empty call is answered."""
    with pool.lease(Demand(model="m", requests=0)) as lease:
        lease.release()
    store_of(pool).flush()
    (account,) = store_of(pool)._view.all()
    return account.buckets[0].level


def is_away(pool: KeyPool) -> bool:
    return store_of(pool)._absence.away is not None


def hang(server: TestServer) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)


def go_on(server: TestServer) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGCONT)


def lost(server: TestServer) -> None:
    server.stop()


def back(server: TestServer) -> None:
    server.start()


@pytest.mark.parametrize(("leave", "come_back"), [(hang, go_on), (lost, back)])
def test_threads_wait_for_it_and_none_is_lost_or_counted_twice(
    own: TestServer,
    leave: Callable[[TestServer], None],
    come_back: Callable[[TestServer], None],
) -> None:
    pool = pool_of(own)
    failures: list[BaseException] = []
    done: list[float] = []

    def work(calls: int) -> None:
        try:
            for _ in range(calls):
                with pool.lease(CALL, timeout=PATIENCE) as lease:
                    lease.settle(Usage(input_tokens=TOKENS))
                done.append(NOW())
        except BaseException as failure:  # told by the assertion below
            failures.append(failure)

    for _ in range(4):
        pool.lease(CALL).settle(Usage(input_tokens=TOKENS))
    store_of(pool).flush()
    held = [pool.lease(CALL) for _ in range(4)]
    leave(own)
    for lease in held:  # settled while it is away
        lease.settle(Usage(input_tokens=TOKENS))
    threads = [Thread(target=work, args=(4,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    until(lambda: is_away(pool), "it is found to be away")
    sleep(2.0)
    assert not done
    come_back(own)
    for thread in threads:
        thread.join(PATIENCE)
    assert not failures
    assert len(done) == 32
    assert not is_away(pool)
    store_of(pool).flush()
    used = 8640 - level(pool)
    if leave is hang:
        assert used == pytest.approx(CALLS * TOKENS, abs=TOKENS / 4)
    else:  # told the levels as last known; it can't know what the four held were counted for
        assert CALLS * TOKENS - TOKENS / 4 <= used <= (CALLS + 4) * TOKENS
    prefix = wire.prefix(store_of(pool)._namespace, "acme")
    assert own.client().zcard(f"{prefix}x") == 0, "something is reserved and never comes back"
    assert pool.status().in_flight == pool.status().waiting == 0
    pool.close()


async def test_tasks_wait_for_it_and_can_be_cancelled_meanwhile(own: TestServer) -> None:
    async with pool_of(own) as pool:
        (await pool.alease(CALL)).settle(Usage(input_tokens=TOKENS))
        await store_of(pool).aflush()
        own.stop()

        async def work() -> None:
            async with pool.alease(CALL, timeout=PATIENCE) as lease:
                await lease.asettle(Usage(input_tokens=TOKENS))

        tasks = [asyncio.ensure_future(work()) for _ in range(20)]
        await asyncio.to_thread(until, lambda: is_away(pool), "it is found to be away")
        await asyncio.sleep(0.5)
        for task in tasks[:5]:
            task.cancel()
        ended = await asyncio.gather(*tasks[:5], return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended)
        await asyncio.to_thread(own.start)
        await asyncio.wait_for(asyncio.gather(*tasks[5:]), PATIENCE)
        await store_of(pool).aflush()
        assert pool.status().waiting == pool.status().in_flight == 0


def test_a_call_waits_no_longer_than_it_may_and_says_what_for(own: TestServer) -> None:
    with pool_of(own) as pool:
        pool.lease(CALL).settle(Usage(input_tokens=TOKENS))
        own.stop()
        began = NOW()
        with pytest.raises(
            WaitTimeout, match=r"store has been away for \d.* s \(Redis could"
        ) as no:
            pool.lease(CALL, timeout=1.0)
        assert no.value.waited_for >= 1.0
        assert no.value.waited_for <= NOW() - began
        assert no.value.retry_after is None
        asked = store_of(pool).steps
        with pytest.raises(WaitTimeout, match="away"):
            pool.lease(CALL, deadline=pool.clock.now() + 0.2)
        assert store_of(pool).steps - asked <= 0.2 / (FIRST_PAUSE / 2) + 2
        own.start()
        pool.lease(CALL, timeout=PATIENCE).settle(Usage(input_tokens=TOKENS))


def test_a_server_that_is_full_is_waited_for(own: TestServer) -> None:
    with pool_of(own) as pool:
        pool.lease(CALL).settle(Usage(input_tokens=TOKENS))
        client = own.client()
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1mb")
        waits = Thread(target=lambda: pool.lease(CALL, timeout=PATIENCE).settle(Usage()))
        waits.start()
        until(lambda: is_away(pool), "it is found to be full")
        client.config_set("maxmemory", "0")
        waits.join(PATIENCE)
        assert not waits.is_alive()
        assert not is_away(pool)


def test_a_server_that_cannot_save_is_waited_for(own: TestServer) -> None:
    with pool_of(own) as pool:
        pool.lease(CALL).settle(Usage(input_tokens=TOKENS))
        client = own.client()
        client.config_set("save", "3600 1")
        shutil.rmtree(own.folder)
        client.bgsave()
        until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "it failed")
        waits = Thread(target=lambda: pool.lease(CALL, timeout=PATIENCE).settle(Usage()))
        waits.start()
        until(lambda: is_away(pool), "it refuses to write")
        client.config_set("stop-writes-on-bgsave-error", "no")
        waits.join(PATIENCE)
        assert not waits.is_alive()
        assert not is_away(pool)


@pytest.mark.parametrize(
    "message",
    [
        "Error running script (call to f_95bd): @user_script:419: @user_script: 419: -OOM command "
        "not allowed when used memory > 'maxmemory'.",  # Redis 6.2
        "-READONLY You can't write against a read only replica.",
        "BUSY Redis is busy running a script.",
    ],
)
def test_refusals_that_pass_are_known_by_their_words(message: str) -> None:
    with pytest.raises(Unready), _errors:
        raise ResponseError(message)
    with pytest.raises(StoreError) as other, _errors:
        raise ResponseError("NOPERM this user has no permissions, -OOMPH")
    assert not isinstance(other.value, Unready)


def test_a_pool_that_is_closed_meanwhile_ends_those_that_wait(own: TestServer) -> None:
    pool = pool_of(own)
    own.stop()
    ended: list[BaseException] = []

    def work() -> None:
        try:
            pool.lease(CALL, timeout=PATIENCE)
        except PoolClosed as error:
            ended.append(error)

    thread = Thread(target=work)
    thread.start()
    until(lambda: pool.status().waiting == 1, "it waits")
    pool.close()
    thread.join(PATIENCE)
    assert len(ended) == 1


def test_a_booking_made_before_is_used_on_time(own: TestServer) -> None:
    with pool_of(own, tpm=6000) as pool:
        pool.lease(Demand(model="m", input_tokens=6000)).settle(Usage(input_tokens=6000))
        granted: list[object] = []
        books = Thread(target=lambda: granted.append(pool.lease(CALL, timeout=PATIENCE)))
        books.start()
        until(lambda: _booked(pool), "it is booked")
        own.stop()
        books.join(PATIENCE)
        assert len(granted) == 1, "it was taken before, so the server is not asked"
        own.start()


def _booked(pool: KeyPool) -> bool:
    return any(t.future is not None for queue in pool._scheduler.waiting_queues() for t in queue)


def test_owners_that_turn_out_to_be_one_are_merged_afterwards(own: TestServer) -> None:
    store = RedisStore(own.url, namespace=f"away-{next(NAMES)}", limits_for=lambda *_: LIMITS)
    keys = [
        ApiKey(key_id=f"{n}#1", secret=Secret("sk-0123456789abcdef"), organization=n)
        for n in ("acme", "bcme")
    ]
    accounts = [store.account(key, "m", NOW()) for key in keys]
    for account in accounts:
        assert isinstance(store.reserve(Claim([account], CALL.costs), NOW()), Reservation)
    own.stop()
    store.merge("bcme", "acme", NOW())
    assert isinstance(store.reserve(Claim([accounts[0]], CALL.costs), NOW()), NotReady)
    store.merge("bcme", "acme", NOW())
    own.start()
    until(lambda: store.account(keys[1], "m", NOW()) is accounts[0], "they are one")
    store.close()


def test_one_that_is_to_fail_fails(own: TestServer) -> None:
    with pool_of(own, "fail") as pool:
        lease = pool.lease(CALL)
        own.stop()
        with pytest.raises(StoreError, match="Redis could not answer"):
            pool.lease(CALL, timeout=PATIENCE)
        lease.settle(Usage(input_tokens=TOKENS))
        with pytest.raises(StoreError):
            store_of(pool).merge("acme", "other", NOW())
        own.start()
        pool.lease(CALL).settle(Usage(input_tokens=TOKENS))
    with pytest.raises(ConfigError, match='"wait", "degrade", "fail"'):
        RedisStore(own.url, on_failure="hope")  # type: ignore[arg-type]


def test_settlements_that_get_through_end_the_wait(own: TestServer) -> None:
    pool = pool_of(own)
    store = store_of(pool)
    account = store.account(pool.keys[0], "m", NOW())
    taken = store.reserve(Claim([account], CALL.costs), NOW())
    assert isinstance(taken, Reservation)
    own.stop()
    assert isinstance(store.reserve(Claim([account], CALL.costs), NOW()), NotReady)
    store.settle(Settlement(taken, CALL.costs), NOW())
    own.start()
    until(lambda: not is_away(pool), "the companion found it to be back")
    pool.close()


def test_pauses_grow_to_a_second_and_one_asks_for_all() -> None:
    absence, now = Outage(), 100.0
    assert not absence.holds_back(now)
    absence.failed("gone", now)
    pauses = []
    for _ in range(12):
        pauses.append(absence.next_at - now)
        assert absence.holds_back((now + absence.next_at) / 2)
        now = absence.next_at
        assert not absence.holds_back(now), "one asks"
        assert absence.holds_back(now), "the others don't"
        absence.failed("still gone", now)
    assert pauses[0] <= FIRST_PAUSE
    assert all(0.5 * LONGEST_PAUSE <= pause <= LONGEST_PAUSE for pause in pauses[-4:])
    assert absence.away is not None
    assert absence.away.since == 100.0
    assert absence.ended()
    assert not absence.ended()
    absence.failed("gone again", now)
    assert absence.next_at - now <= FIRST_PAUSE
