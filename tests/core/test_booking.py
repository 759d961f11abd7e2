"""What the scheduler does with a store that books: who books, who redeems, who gives back."""

from __future__ import annotations

from quotafleet import Demand, KeyPool, Limits, Organization, Priority, Usage
from quotafleet._core.admission.effects import Reserve, Wait
from quotafleet._core.admission.wait_queue import Waiter
from quotafleet._core.quota.reservations import (
    Claim,
    ClaimAnswer,
    NotReady,
    Reservation,
    ReservationState,
    Settlement,
)
from quotafleet.stores import MemoryStore
from quotafleet.testing.clock import FakeClock

INF = float("inf")


class BookingStore(MemoryStore):
    """The ledger, which takes the costs of a call at once where it is told that it may."""

    is_local = False
    given_back = 0

    def reserve(self, claim: Claim, now: float) -> ClaimAnswer:
        if claim.dropped is not None:
            self.give_back(claim.dropped, now)
        held = claim.held
        answer = super().reserve(claim, now)
        if isinstance(answer, Reservation):
            if held is not None:
                self.give_back(held, now)
            return answer
        if not isinstance(answer, NotReady) or answer.account is None:
            return answer
        if held is not None and held.starts_at <= answer.ready_at:
            return NotReady(held.account, held.starts_at, future=held)
        if answer.ready_at - now > claim.reserve_ahead:
            return answer
        if held is not None:
            self.give_back(held, now)
        future = self._ledger._take(answer.account, claim.costs, now)
        future.starts_at = answer.ready_at
        return NotReady(answer.account, answer.ready_at, future=future)

    def give_back(self, reservation: Reservation, now: float) -> None:
        self.given_back += 1
        self.settle(Settlement(reservation, Usage(requests=0).costs), now)


class World:
    """A pool whose scheduler is driven by hand."""

    def __init__(self, owners: int = 1, **limits: float) -> None:
        self.clock = FakeClock()
        self.store = BookingStore(lambda *_: Limits(**limits))
        names = [f"o{n}" for n in range(owners)]
        self.pool = KeyPool(
            [Organization(name=n, keys=(f"sk-{n}-0123456789abcdef",)) for n in names],
            store=self.store,
            clock=self.clock,
            strategy="round-robin",
        )
        self.scheduler = self.pool._scheduler
        for key in self.pool.keys:
            self.scheduler.fleet.key_circuit(key).proven = True

    @property
    def now(self) -> float:
        return self.clock.now()

    def enter(self, tokens: int, priority: Priority = "normal", gives_up_at: float = INF) -> Waiter:
        demand = Demand(model="m", input_tokens=tokens)
        return self.scheduler.enter(demand, self.now, gives_up_at, priority)

    def step(self, waiter: Waiter) -> Wait | None:
        """Carry out what a call asks for, until it sleeps or is granted."""
        while isinstance(effect := self.scheduler.step(waiter, self.now), Reserve):
            self.answer(effect)
            if self.scheduler.is_done(waiter):
                return None
        return effect

    def answer(self, effect: Reserve) -> ClaimAnswer:
        effect.claim.accounts = list(effect.claim.accounts)
        answer = self.store.reserve(effect.claim, self.now)
        orphan = self.scheduler.answered(effect, answer, self.now)
        if orphan is not None:
            self.store.give_back(orphan, self.now)
        return answer

    def leave(self, waiter: Waiter) -> None:
        orphan = self.scheduler.leave(waiter, self.now)
        if orphan is not None:
            self.store.give_back(orphan, self.now)

    def wait(self, waiter: Waiter) -> float:
        wait = self.step(waiter)
        assert isinstance(wait, Wait)
        return wait.until - self.now

    def drained(self, tokens: int = 6000) -> World:
        waiter = self.enter(tokens)
        assert self.step(waiter) is None
        self.scheduler.accept(waiter, self.now)
        return self


def test_the_head_books_and_is_granted_without_another_question() -> None:
    world = World(tpm=6000).drained()
    head = world.enter(600)
    sleeps = world.wait(head)
    assert head.future is not None
    world.clock.advance(sleeps)
    asked = world.store.open
    assert world.scheduler.step(head, world.now) is None
    assert world.scheduler.accept(head, world.now).reservation.starts_at <= world.now
    assert world.store.open == asked


def test_only_the_head_books() -> None:
    world = World(tpm=6000).drained()
    first, second = world.enter(600), world.enter(600)
    world.step(first)
    assert world.wait(second) == INF
    assert second.future is None
    world.clock.advance(10)
    assert world.step(first) is not None or first.reservation is not None
    assert first.reservation is not None
    assert second.future is not None  # who was granted served the next


def test_who_is_granted_wakes_those_that_queued_while_it_asked() -> None:
    """Answers overtake each other: who asked later may be told first that it must wait."""
    world = World(tpm=6000)
    first, second = world.enter(5000), world.enter(5900)
    asks, behind = (world.scheduler.step(waiter, world.now) for waiter in (first, second))
    assert isinstance(asks, Reserve)
    assert isinstance(behind, Reserve)
    granted = world.store.reserve(Claim(list(asks.claim.accounts), first.costs), world.now)
    world.answer(behind)
    assert world.wait(second) == INF, "who asks the store wakes it"
    world.scheduler.woken.clear()
    world.scheduler.answered(asks, granted, world.now)
    assert world.scheduler.step(first, world.now) is None
    assert second in world.scheduler.woken
    assert world.wait(second) < INF


def test_one_newcomer_at_a_time_asks_for_a_place() -> None:
    world = World(tpm=6000).drained()
    asking = world.enter(600)
    effect = world.scheduler.step(asking, world.now)
    assert isinstance(effect, Reserve)
    others = [world.enter(600) for _ in range(3)]
    assert [world.wait(other) for other in others] == [INF] * 3
    world.answer(effect)
    world.step(asking)
    assert [t.future is not None for t in (asking, *others)] == [True, False, False, False]
    assert world.scheduler.waiting == 4


def test_a_newcomer_that_seems_to_fit_is_not_held_up_by_one_that_asks() -> None:
    world = World(tpm=6000)
    first = world.scheduler.step(world.enter(600), world.now)
    second = world.scheduler.step(world.enter(600), world.now)
    assert isinstance(first, Reserve)
    assert isinstance(second, Reserve)
    assert (first.claim.reserve_ahead > 0, second.claim.reserve_ahead) == (True, 0.0)


def test_who_leaves_gives_its_booking_back_and_the_next_one_books() -> None:
    world = World(tpm=6000).drained()
    head, behind = world.enter(600), world.enter(600)
    due = world.wait(head)
    world.step(behind)
    world.leave(head)
    assert world.store.given_back == 1
    assert behind in world.scheduler.woken
    assert abs(world.wait(behind) - due) < 0.001
    assert behind.future is not None


def test_a_booking_for_one_who_has_gone_meanwhile_is_given_back() -> None:
    world = World(tpm=6000).drained()
    waiter = world.enter(600)
    effect = world.scheduler.step(waiter, world.now)
    assert isinstance(effect, Reserve)
    world.leave(waiter)
    world.answer(effect)
    assert world.store.given_back == 1
    assert world.scheduler.step(world.enter(600), world.now) is not None


def test_the_asker_that_fails_lets_the_next_one_ask() -> None:
    world = World(tpm=6000).drained()
    asking, other = world.enter(600), world.enter(600)
    assert isinstance(world.scheduler.step(asking, world.now), Reserve)
    world.step(other)
    world.leave(asking)  # the store could not answer
    assert other in world.scheduler.woken
    world.step(other)
    assert other.future is not None


def test_what_is_freed_is_exchanged_for_the_booking() -> None:
    world = World(tpm=6000)
    held = world.enter(6000)
    world.step(held)
    grant = world.scheduler.accept(held, world.now)
    head = world.enter(600)
    world.step(head)
    assert world.store.settle(Settlement(grant.reservation, Usage().costs), world.now)
    assert world.scheduler.freed(grant.reservation.account, world.now)
    assert world.step(head) is None
    assert head.future is None
    assert head.reservation is not None
    assert head.reservation.starts_at < 0
    assert world.store.given_back == 1


def test_freed_says_whether_anybody_waits_for_that_owner() -> None:
    world = World(tpm=6000).drained()
    account = next(iter(world.scheduler.fleet.accounts()))
    assert not world.scheduler.freed(account, world.now)
    world.step(world.enter(600))
    assert world.scheduler.freed(account, world.now)


def test_a_more_urgent_call_takes_the_lead_and_the_booking_stays() -> None:
    world = World(tpm=6000).drained()
    head = world.enter(600, "batch")
    due = world.wait(head)
    urgent = world.enter(600, "interactive")
    later = world.wait(urgent)
    assert later > due
    assert abs(world.wait(head) - due) < 0.001
    world.clock.advance(due)
    world.step(head)
    assert head.reservation is not None
    assert urgent.reservation is None


def test_no_booking_beyond_the_time_that_a_call_may_wait() -> None:
    world = World(tpm=6000).drained()
    waiter = world.enter(600, gives_up_at=world.now + 2)
    effect = world.scheduler.step(waiter, world.now)
    assert isinstance(effect, Reserve)
    assert effect.claim.reserve_ahead == 2
    answer = world.answer(effect)
    assert isinstance(answer, NotReady)
    assert answer.future is None


def test_a_booking_on_an_owner_that_fell_ill_is_dropped() -> None:
    world = World(owners=2, tpm=6000)
    for _ in range(2):
        world.drained()
    head = world.enter(600)
    world.step(head)
    assert head.future is not None
    account = head.future.account
    circuit = world.scheduler.fleet.circuit(f"organization {account.organization}")
    from quotafleet._core.health.circuit_breaker import CircuitEvent

    world.scheduler.health_tracker._apply(circuit, CircuitEvent.KILL, world.now)
    world.step(head)
    assert world.store.given_back == 1
    assert head.future is not None
    assert head.future.account is not account


def test_a_booking_that_was_lost_is_not_redeemed() -> None:
    world = World(tpm=6000).drained()
    head = world.enter(600)
    due = world.wait(head)
    assert head.future is not None
    world.store.give_back(head.future, world.now)
    assert head.future.state is ReservationState.SETTLED
    world.clock.advance(due)
    lost = head.future
    world.step(head)
    assert head.reservation is not lost


def test_a_call_with_a_due_booking_waits_for_who_serves_the_lane() -> None:
    world = World(tpm=6000).drained()
    head, behind = world.enter(600), world.enter(600)
    due = world.wait(head)
    world.step(behind)
    queue = head.queue
    queue.busy = behind  # it asks the store at this moment, with the head's future
    world.clock.advance(due)
    assert world.wait(head) == INF
    assert head.reservation is None
    queue.busy = None
    world.step(head)
    assert head.reservation is not None


def test_whoever_serves_the_lane_redeems_for_the_head() -> None:
    world = World(tpm=6000).drained()
    head, behind = world.enter(600), world.enter(600)
    due = world.wait(head)
    world.step(behind)
    world.clock.advance(due)
    world.step(behind)
    assert head.reservation is not None
    assert head in world.scheduler.woken
    assert behind.future is not None


def test_the_view_spares_questions_for_calls_behind_the_head() -> None:
    world = World(tpm=6000).drained()
    head, small = world.enter(600), world.enter(10)
    world.step(head)
    effect = world.scheduler.step(small, world.now)
    assert isinstance(effect, Wait)


def test_freed_while_the_store_is_asked_does_not_ask_again_for_what_is_booked() -> None:
    world = World(tpm=6000).drained()
    head = world.enter(600)
    world.step(head)
    queue = head.queue
    queue.ready_at = world.now
    effect = world.scheduler.step(head, world.now)
    assert isinstance(effect, Reserve)
    queue.again = True
    world.answer(effect)
    assert isinstance(world.scheduler.step(head, world.now), Wait)


def test_a_due_booking_on_an_owner_that_fell_ill_is_not_used() -> None:
    world = World(tpm=6000).drained()
    head = world.enter(600)
    due = world.wait(head)
    assert head.future is not None
    from quotafleet._core.health.circuit_breaker import CircuitEvent

    circuit = world.scheduler.fleet.circuit(f"organization {head.future.account.organization}")
    world.scheduler.health_tracker._apply(circuit, CircuitEvent.PARK, world.now)
    world.clock.advance(due)
    world.step(head)
    assert head.reservation is None
    assert world.store.given_back == 1
