"""What the scheduler does with a store that can't answer: calls wait, and say what for."""

from __future__ import annotations

import pytest
from tests.core.test_booking import INF, BookingStore, World

from quotafleet import WaitTimeout
from quotafleet._core.admission.effects import Wait
from quotafleet._core.health.circuit_breaker import CircuitEvent
from quotafleet._core.quota.reservations import Claim, ClaimAnswer, NotReady, StoreUnavailable


class AwayStore(BookingStore):
    """A store that is away until it is told otherwise, and asked again after a second."""

    away: StoreUnavailable | None = None
    asked = 0

    def reserve(self, claim: Claim, now: float) -> ClaimAnswer:
        self.asked += 1
        if self.away is not None:
            return NotReady(None, INF, now + 1.0, away=self.away)
        return super().reserve(claim, now)


def world(owners: int = 1) -> tuple[World, AwayStore]:
    made = World(owners, tpm=6000)
    store = AwayStore(made.store._ledger._limits_for)
    made.store = made.pool._store = store
    return made, store


def test_a_call_asks_again_when_the_store_says_and_is_granted_once_it_is_back() -> None:
    made, store = world()
    store.away = StoreUnavailable(made.now, "gone")
    call = made.enter(600)
    assert made.wait(call) == 1.0
    made.clock.advance(1.0)
    assert made.wait(call) == 1.0
    store.away = None
    made.clock.advance(1.0)
    assert made.step(call) is None
    assert store.asked == 3


def test_calls_behind_the_first_sleep_and_are_served_after_it() -> None:
    made, store = world()
    store.away = StoreUnavailable(made.now, "gone")
    head, second, small = made.enter(600), made.enter(600), made.enter(6)
    assert made.wait(head) == 1.0
    assert made.wait(second) == made.wait(small) == INF
    asked = store.asked
    made.clock.advance(1.0)
    assert made.wait(head) == 1.0
    assert store.asked == asked + 1, "only the first asks"
    store.away = None
    made.clock.advance(1.0)
    assert made.step(head) is None
    assert second.reservation is not None
    assert small.reservation is not None


def test_a_call_that_gives_up_says_for_how_long_the_store_was_away() -> None:
    made, store = world()
    store.away = StoreUnavailable(made.now - 2.0, "no candidates")
    call = made.enter(600, gives_up_at=made.now + 1.5)
    assert made.wait(call) == 1.0
    made.clock.advance(1.0)
    assert made.wait(call) == 0.5
    made.clock.advance(0.5)
    with pytest.raises(
        WaitTimeout, match=r"away for 3.5 s \(no candidates\); .* waited for 1.5 s"
    ) as no:
        made.step(call)
    assert no.value.waited_for == 1.5
    assert no.value.retry_after is None


def test_an_owner_that_rests_for_long_does_not_end_the_wait() -> None:
    made, store = world(owners=2)
    for candidate in made.scheduler.fleet.candidates("m").by_account.values():
        if candidate.account.organization == "o0":
            made.scheduler.health_tracker._apply(
                candidate.circuits[0], CircuitEvent.PARK, made.now, retry_after=900.0
            )
    store.away = StoreUnavailable(made.now, "gone")
    call = made.enter(600, gives_up_at=made.now + 5.0)
    wait = made.step(call)
    assert isinstance(wait, Wait)
    assert wait.until - made.now == 1.0
    assert call.error is None


def test_what_is_away_is_told_no_more_once_it_has_answered() -> None:
    made, store = world()
    store.away = StoreUnavailable(made.now, "gone")
    call = made.enter(6000)
    made.wait(call)
    store.away = None
    made.clock.advance(1.0)
    assert made.step(call) is None
    with pytest.raises(WaitTimeout, match="6000 tpm left"):
        made.step(made.enter(600, gives_up_at=made.now + 0.1))
