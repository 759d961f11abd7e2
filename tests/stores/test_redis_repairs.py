"""Damaged data in the server: made again from what the asking process knows, counted, reported."""

from __future__ import annotations

import logging
from itertools import count
from math import inf, nan
from struct import pack

import pytest
from tests.stores.redis_kit import TestServer

from quotafleet import Demand, Limits, Usage
from quotafleet._clock import SystemClock
from quotafleet._core.quota.account import Account
from quotafleet._core.quota.reservations import Claim, Reservation, Settlement
from quotafleet.keys import ApiKey, Secret
from quotafleet.stores.redis import RedisStore, read_fleet

NAMES = count()
NOW = SystemClock().now
KEY = ApiKey(key_id="acme#1", secret=Secret("sk-proj-very-secret-0123456789"), organization="acme")
CALL = Demand(input_tokens=100).costs
FIELDS = 25


def row(damage: float, *places: int) -> bytes:
    """Return a bucket's row of plausible numbers, with damaged ones at some places."""
    numbers = [1000.0, 1000, -1, 1000, 1, 86400e6, 1e6, 5e8, 0, 1e15, 1, *[0.0] * 5, -1, 0, 1]
    numbers += [0.0] * (FIELDS - 1 - len(numbers)) + [-1.0]
    for place in places:
        numbers[place] = damage
    return pack(f">{FIELDS}d", *numbers)


def store_of(server: TestServer) -> tuple[RedisStore, Account, str]:
    namespace = f"repairs-{next(NAMES)}"
    store = RedisStore(
        server.url,
        namespace=namespace,
        limits_for=lambda *_: Limits(tpd=1001, concurrent=5),
        on_failure="fail",
    )
    return store, store.account(KEY, "m", NOW()), f"quotafleet:3:{namespace}:{{acme}}:"


def take(store: RedisStore, account: Account) -> Reservation:
    answer = store.reserve(Claim([account], CALL), NOW())
    assert isinstance(answer, Reservation)
    return answer


DAMAGED = {
    "empty": b"",
    "short": b"garbage",
    "long": bytes(1000),
    "zeros": bytes(8 * FIELDS),
    **{
        f"{value} in field {place}": row(value, place)
        for place in range(FIELDS)
        for value in (nan, inf, -inf, 1e300, -1e300)
    },
}


def test_a_plausible_row_stays(server: TestServer) -> None:
    store, account, prefix = store_of(server)
    take(store, account)
    server.client().hset(f"{prefix}f:m", "tpd", row(0.0))
    take(store, account)
    assert store.repaired == 0
    store.close()


def test_a_damaged_row_is_made_again_at_the_level_that_the_process_knows(
    server: TestServer,
) -> None:
    store, account, prefix = store_of(server)
    for _ in range(3):
        store.settle(Settlement(take(store, account), Usage(input_tokens=100).costs), NOW())
    store.flush()
    for done, damaged in enumerate(DAMAGED.values(), 1):
        server.client().hset(f"{prefix}f:m", "tpd", damaged)
        read_fleet(server.url, store._namespace)
        reservation = take(store, account)
        assert store.repaired == done
        [bucket] = [one for one in account.buckets if one.name == "tpd"]
        assert 590 < bucket.level <= 602, "three calls were used, and one is on its way"
        store.settle(Settlement(reservation, (0,) * 7), NOW())
        store.flush()
    store.close()


@pytest.mark.parametrize("key", ["o", "f:m", "r", "x"])
def test_a_key_of_another_type_is_made_again(server: TestServer, key: str) -> None:
    store, account, prefix = store_of(server)
    reservation = take(store, account)
    client = server.client()
    client.delete(prefix + key)
    client.set(prefix + key, "not ours")
    store.settle(Settlement(reservation, Usage(input_tokens=100).costs), NOW())
    take(store, account)
    assert store.repaired == 1
    store.close()


@pytest.mark.parametrize("damaged", [b"", b"garbage", b"\xff" * 77, bytes(3)])
def test_a_damaged_reservation_is_as_one_that_is_gone(server: TestServer, damaged: bytes) -> None:
    store, account, prefix = store_of(server)
    reservation = take(store, account)
    client = server.client()
    for name in client.hkeys(f"{prefix}r"):
        client.hset(f"{prefix}r", name, damaged)
    store.settle(Settlement(reservation, Usage(input_tokens=100).costs), NOW())
    take(store, account)
    assert store.repaired == 1
    store.close()


@pytest.mark.parametrize("instant", ["nan", "inf", "1e300", "text", ""])
def test_a_damaged_pause_keeps_nobody_away(server: TestServer, instant: str) -> None:
    store, account, prefix = store_of(server)
    take(store, account)
    server.client().hset(f"{prefix}f:m", mapping={"!": instant, "=": instant})
    take(store, account)
    store.close()


def test_damage_is_reported_once(server: TestServer, caplog: pytest.LogCaptureFixture) -> None:
    store, account, prefix = store_of(server)
    take(store, account)
    with caplog.at_level(logging.WARNING, "quotafleet"):
        for _ in range(3):
            server.client().hset(f"{prefix}f:m", "tpd", b"short")
            take(store, account)
    [record] = [one for one in caplog.records if one.name == "quotafleet"]
    assert "damaged data" in record.getMessage()
    assert store.repaired == 3
    store.close()
