"""A server that forgets, refuses, goes away and comes back."""

from __future__ import annotations

import asyncio
from itertools import count
from threading import Thread
from time import sleep

import pytest
from tests.stores.redis_kit import TestServer, serving

from quotafleet import ConfigError, Demand, KeyPool, Limits, Organization, StoreError, Usage
from quotafleet._clock import SystemClock
from quotafleet._core.quota.account import Account
from quotafleet._core.quota.reservations import Claim, Reservation, Settlement
from quotafleet.keys import ApiKey, Secret
from quotafleet.limits import Metric
from quotafleet.outcomes import Reading
from quotafleet.stores import open_store
from quotafleet.stores.redis import RedisStore

NAMES = count()
NOW = SystemClock().now
LIMITS = Limits(tpd=1001, concurrent=5)
CALL = Demand(input_tokens=100).costs
KEY = ApiKey(key_id="acme#1", secret=Secret("sk-proj-very-secret-0123456789"), organization="acme")


def store_of(server: TestServer, **options: float) -> tuple[RedisStore, Account]:
    store = RedisStore(
        server.url,
        namespace=f"trouble-{next(NAMES)}",
        limits_for=lambda *_: LIMITS,
        timeout=options.get("timeout", 1.0),
        lifetime=options.get("lifetime", 900.0),
        on_failure="fail",
    )
    return store, store.account(KEY, "m", NOW())


def take(store: RedisStore, account: Account) -> Reservation:
    answer = store.reserve(Claim([account], CALL), NOW())
    assert isinstance(answer, Reservation)
    return answer


def give(store: RedisStore, reservation: Reservation, tokens: int = 100) -> None:
    store.settle(Settlement(reservation, Usage(input_tokens=tokens).costs), NOW())


def room(store: RedisStore, account: Account) -> int:
    """Return how many calls of 100 tokens fit, taking no slot."""
    costs = (0, 100, 100, 0, 0, 0, 0.0)
    taken = 0
    while isinstance(store.reserve(Claim([account], costs), NOW()), Reservation):
        taken += 1
    return taken


def test_scripts_that_were_flushed_are_brought_again(server: TestServer) -> None:
    store, account = store_of(server)
    give(store, take(store, account))
    server.client().script_flush()
    give(store, take(store, account))
    store.flush()
    assert room(store, account) == 8
    store.close()


def test_a_server_that_lost_all_is_told_what_was_known(own: TestServer) -> None:
    store, account = store_of(own)
    for _ in range(4):
        give(store, take(store, account))
    held = take(store, account)
    store.flush()
    own.client().flushall()
    assert room(store, account) == 5, "as it was last known, not full"
    give(store, held)  # reserved before, and unknown now
    store.flush()
    store.close()


def test_what_an_answer_tells_does_not_make_a_configured_bucket_anew(own: TestServer) -> None:
    """Of a server that lost all: what is stated may be less than what the provider allows."""
    store, account = store_of(own)
    for _ in range(5):
        give(store, take(store, account))
    held = take(store, account)
    store.flush()
    own.client().flushall()
    told = Reading(metric=Metric.TOKENS, limit=9000.0, level=8000.0, period=86_400.0)
    store.settle(Settlement(held, CALL, (told,)), NOW())
    store.flush()
    assert room(store, account) == 4, "as it was last known"
    store.close()


def slots(store: RedisStore, account: Account) -> list[Reservation]:
    """Return calls that take a slot each, and nothing else, as many as there are."""
    costs, taken = (0, 0, 0, 0, 0, 1, 0.0), []
    while isinstance(answer := store.reserve(Claim([account], costs), NOW()), Reservation):
        taken.append(answer)
    return taken


def test_slots_that_a_lost_server_knew_of_come_back_though_their_holder_died(
    own: TestServer,
) -> None:
    store, account = store_of(own, lifetime=7.0)
    died, lives = (store.reserve(Claim([account], CALL), NOW()) for _ in range(2))
    assert isinstance(died, Reservation)
    assert isinstance(lives, Reservation)
    own.client().flushall()
    first = slots(store, account)
    assert len(first) == 3
    sleep(3.0)
    for one in (lives, *first):  # each by who held it
        give(store, one)
    assert len(slots(store, account)) == 4
    again, began = [], NOW()
    while not again:
        assert NOW() < began + 20, "it didn't come back with its lifetime"
        again = slots(store, account)
        sleep(0.05)
    assert len(again) == 1, "that of the one that died, and none twice"
    store.close()


def test_what_is_on_its_way_while_a_server_loses_all_comes_back_once(own: TestServer) -> None:
    """The process that tells how the buckets were doesn't count what it tells afterwards."""
    store, account = store_of(own)
    store._companion.nudge = lambda *, soon: None  # type: ignore[method-assign]
    held = [take(store, account) for _ in range(4)]
    for one in held[:3]:
        give(store, one, tokens=10)
    on_its_way = store._books.buffer.begin("")
    own.client().flushall()
    held.append(take(store, account))
    store._books.buffer.failed(on_its_way)
    store.flush()
    taken = slots(store, account)
    assert len(taken) == 5 - 2, "but for those that two calls hold"
    (level,) = [bucket.level for bucket in account.buckets if bucket.name == "tpd"]
    assert level == pytest.approx(1001 - 3 * 10 - 2 * 100, abs=0.1)
    store.close()


def test_a_slot_that_a_lost_server_never_heard_of_frees_none_when_it_is_settled(
    own: TestServer,
) -> None:
    store, account = store_of(own)
    held = take(store, account)
    own.client().flushall()
    other = RedisStore(
        own.url, namespace=store._namespace, limits_for=lambda *_: LIMITS, on_failure="fail"
    )
    knows_nothing = other.account(KEY, "m", NOW())
    assert len(slots(other, knows_nothing)) == 5
    give(store, held)
    store.flush()
    assert slots(other, knows_nothing) == []
    store.close()
    other.close()


def test_a_server_that_comes_back_empty_is_used_again(own: TestServer) -> None:
    store, account = store_of(own)
    for _ in range(4):
        give(store, take(store, account))
    store.flush()
    own.stop()
    with pytest.raises(StoreError, match="Redis could not answer"):
        take(store, account)
    held = NOW()
    own.start()
    assert NOW() - held < 20
    assert room(store, account) == 6
    store.close()


def test_what_was_settled_while_it_was_away_counts_once(own: TestServer) -> None:
    store, account = store_of(own)
    first, second = take(store, account), take(store, account)
    own.client().client_kill_filter(_type="normal")
    give(store, first)
    store.flush()
    own.client().client_kill_filter(_type="normal")
    give(store, second, 50)
    give(store, second, 0)
    store.flush()
    costs = store.account(KEY, "m", NOW())
    take(store, account)
    assert costs.buckets[0].level == pytest.approx(1001 - 100 - 50 - 100, abs=1)
    store.close()


def test_connections_that_were_cut_are_made_again(own: TestServer) -> None:
    store, account = store_of(own)
    before = take(store, account)
    own.client().client_kill_filter(_type="normal")
    after = take(store, account)
    assert (before.number, after.number) == (1, 2)
    assert own.client().zcard(f"{_prefix(store)}x") == 2, "the claim was made once"
    store.close()


def _prefix(store: RedisStore) -> str:
    return f"quotafleet:3:{store._namespace}:{{acme}}:"


def test_a_server_that_hangs_costs_the_timeout_and_no_more(own: TestServer) -> None:
    store, account = store_of(own, timeout=0.3)
    take(store, account)
    own.client().execute_command("CLIENT", "PAUSE", "1500", "ALL")
    began = NOW()
    with pytest.raises(StoreError):
        take(store, account)
    assert NOW() - began < 1.4
    until = NOW() + 20
    while NOW() < until:
        try:
            take(store, account)
            break
        except StoreError:
            pass
    # What was asked in vain was undone: the two that were granted are all there is.
    store.flush()
    assert own.client().zcard(f"{_prefix(store)}x") == 2
    assert room(store, account) == 8, "what they took came back"
    store.close()


def test_a_full_server_refuses_and_says_so(own: TestServer) -> None:
    store, account = store_of(own)
    take(store, account)
    client = own.client()
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1mb")
    with pytest.raises(StoreError, match=r"OutOfMemory|OOM"):
        take(store, account)
    client.config_set("maxmemory", "0")
    take(store, account)
    store.close()


def test_a_wrong_password_is_told_without_the_right_or_the_wrong_one(engine: str) -> None:
    with serving("--requirepass", "right-password") as server:
        url = f"redis://:wrong-password@127.0.0.1:{server.port}/0"
        store = RedisStore(url, limits_for=lambda *_: LIMITS)
        account = store.account(KEY, "m", NOW())
        with pytest.raises(StoreError) as refused:
            take(store, account)
        chain: BaseException | None = refused.value
        while chain is not None:
            assert "password" not in repr(chain).replace("username-password pair", "")
            chain = chain.__cause__
        assert "wrong-password" not in repr(store)
        store.close()
        good = RedisStore(
            f"redis://:right-password@127.0.0.1:{server.port}/0", limits_for=lambda *_: LIMITS
        )
        take(good, good.account(KEY, "m", NOW()))
        good.close()


def test_nothing_in_the_server_tells_a_secret(server: TestServer) -> None:
    store, account = store_of(server)
    give(store, take(store, account))
    store.flush()
    client = server.client()
    for key in client.scan_iter("*"):
        kind = client.type(key)
        value = {b"hash": client.hgetall, b"string": client.get, b"set": client.smembers}
        assert b"very-secret" not in key
        assert b"very-secret" not in repr(value.get(kind, lambda key: "")(key)).encode()
        assert client.ttl(key) > 0, f"{key!r} stays for ever"
    store.close()


def test_a_url_that_makes_no_sense_is_refused_without_being_shown() -> None:
    for url in ("redsi://:hidden@h", "redis+sentinel://:hidden@h:1", "redis://:hidden@h:no"):
        with pytest.raises(ConfigError) as refused:
            open_store(url)
        assert "hidden" not in str(refused.value)
    assert open_store("memory") is None


async def test_a_cancelled_claim_leaves_nothing_behind(server: TestServer) -> None:
    store = RedisStore(server.url, namespace=f"trouble-{next(NAMES)}")
    organization = Organization(name="acme", keys=("sk-0123456789abcdef",), limits=LIMITS)
    async with KeyPool([organization], store=store) as pool:
        for pause in (0.0, 0.0001, 0.0005, 0.002, 0.01):
            tasks = [asyncio.ensure_future(_lease(pool)) for _ in range(8)]
            await asyncio.sleep(pause)
            for task in tasks:
                task.cancel()
            for done in await asyncio.gather(*tasks, return_exceptions=True):
                if not isinstance(done, BaseException):
                    await done.arelease()  # type: ignore[attr-defined]
            await store.aflush()
        leases = [await asyncio.wait_for(_lease(pool), 10) for _ in range(5)]
        for lease in leases:
            await lease.arelease()  # type: ignore[attr-defined]
        await store.aflush()
        assert server.client().zcard(f"{_prefix(store)}x") == 0
        assert pool.status().in_flight == 0


async def _lease(pool: KeyPool) -> object:
    return await pool.alease(Demand(model="m", input_tokens=10))


def test_owners_are_merged_under_a_pools_lock(server: TestServer) -> None:
    """What is brought over first may make room, of which the pool must not be told then."""
    store = RedisStore(server.url, namespace=f"trouble-{next(NAMES)}")
    owners = [
        Organization(name=name, keys=(f"sk-{name}-0123456789abcdef",), limits=Limits(tpm=6000))
        for name in ("acme", "birch")
    ]
    pool = KeyPool(owners, store=store)
    account = store.account(pool.keys[0], "m", NOW())
    reservation = store.reserve(Claim([account], CALL), NOW())
    assert isinstance(reservation, Reservation)
    store._companion.nudge = lambda *, soon: None  # type: ignore[method-assign]
    told = Reading(metric=Metric.TOKENS, limit=6000.0, level=5990.0, period=60.0)
    store.settle(Settlement(reservation, CALL, (told,)), NOW())

    def merge() -> None:
        with pool._lock:
            store.merge("birch", "acme", NOW())

    merges = Thread(target=merge, daemon=True)
    merges.start()
    merges.join(20)
    assert not merges.is_alive()
    pool.close()
