"""The memory store keeps the contract of every store, on either kind of clock."""

from __future__ import annotations

from time import sleep

import pytest

from quotafleet._clock import SystemClock
from quotafleet._core.quota.ledger import LimitsFor
from quotafleet.protocols import Store
from quotafleet.stores import MemoryStore
from quotafleet.testing.contracts import StoreContract


class TestMemoryStore(StoreContract):
    def make(self, limits_for: LimitsFor, lifetime: float) -> Store:
        return MemoryStore(limits_for, lifetime=lifetime)

    def test_answers_by_arithmetic_alone(self) -> None:
        assert self._store().is_local


@pytest.mark.realtime
class TestMemoryStoreInRealTime(TestMemoryStore):
    """As a store with a clock of its own is tested."""

    slack = 0.02
    lifetime = 0.2
    examples = 5

    def now(self) -> float:
        return SystemClock().now()

    def advance(self, seconds: float) -> None:
        sleep(seconds)
