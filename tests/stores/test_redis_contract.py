"""The Redis store keeps the contract of every store, on the tests' clock and on the server's."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from time import sleep

import pytest
from tests.stores.redis_kit import TestServer

from quotafleet._clock import SystemClock
from quotafleet._core.quota.ledger import LimitsFor
from quotafleet.protocols import Store
from quotafleet.stores.redis import RedisStore
from quotafleet.testing.contracts import StoreContract

NAMES = count()


class TestRedisStore(StoreContract):
    """The script is given its time: to the microsecond, and no waiting."""

    books = True
    #: Levels and costs are whole micro-units, instants whole microseconds.
    slack = 3e-6
    examples = 20
    share_for = 0.0

    @pytest.fixture(autouse=True)
    def _served(self, server: TestServer) -> Iterator[None]:
        self.server = server
        self.made: list[RedisStore] = []
        yield
        for store in self.made:
            store.close()

    def make(self, limits_for: LimitsFor, lifetime: float) -> Store:
        store = RedisStore(
            self.server.url,
            namespace=f"contract-{next(NAMES)}",
            lifetime=lifetime,
            share_for=self.share_for,
            limits_for=limits_for,
            clock=self._clock(),
        )
        store.script_clock = self._clock().now
        self.made.append(store)
        return store

    def drain(self, store: Store) -> None:
        assert isinstance(store, RedisStore)
        store.flush()


class TestRedisStoreWithShares(TestRedisStore):
    """What calls take from a share counts as if each had asked."""

    share_for = 1.0


@pytest.mark.realtime
class TestRedisStoreInRealTime(TestRedisStore):
    """On the server's own clock."""

    slack = 0.05
    lifetime = 0.4
    examples = 5

    def make(self, limits_for: LimitsFor, lifetime: float) -> Store:
        store = RedisStore(
            self.server.url,
            namespace=f"contract-{next(NAMES)}",
            lifetime=lifetime,
            share_for=self.share_for,
            limits_for=limits_for,
        )
        self.made.append(store)
        return store

    def now(self) -> float:
        return SystemClock().now()

    def advance(self, seconds: float) -> None:
        sleep(seconds)


@pytest.mark.realtime
class TestRedisStoreWithSharesInRealTime(TestRedisStoreInRealTime):
    """On the server's own clock, with shares."""

    share_for = 0.2
