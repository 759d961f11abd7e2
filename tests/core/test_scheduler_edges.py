"""Moments between two steps: what was granted, merged, revived or given up meanwhile."""

from __future__ import annotations

from math import inf

import pytest

from quotafleet import Demand, KeyPool, Limits, Organization, Project, Usage, WaitTimeout
from quotafleet._core.admission.effects import Release, Reserve, Wait
from quotafleet._core.admission.refusals import why
from quotafleet._core.admission.resource_fit import best_fit
from quotafleet._core.admission.scheduler import Scheduler
from quotafleet._core.admission.wait_queue import Waiter
from quotafleet._core.call.flow import CallOptions, acquire
from quotafleet._core.fleet import candidates
from quotafleet._core.health.circuit_breaker import CircuitEvent, CircuitState, HealthChange
from quotafleet._core.quota.reservations import Claim, Reservation
from quotafleet._drivers import run
from quotafleet.limits import MINUTE, Metric
from quotafleet.outcomes import Kind, Observation, Outcome, Reading
from quotafleet.stores import MemoryStore
from quotafleet.testing.clock import FakeClock

pytestmark = pytest.mark.usefixtures("many")

ONE = Demand(model="m")


def key(name: str) -> str:
    return f"sk-{name}-0123456789abcdef"


class Fleet:
    """A pool, and its scheduler and store to be stepped by hand."""

    def __init__(self, *organizations: Organization, **owners: Limits) -> None:
        made = [Organization(name=n, keys=(key(n),), limits=x) for n, x in owners.items()]
        self.clock = FakeClock()
        self.pool = KeyPool([*organizations, *made], clock=self.clock, strategy="round-robin")
        self.scheduler: Scheduler = self.pool._scheduler
        for one in self.pool.keys:
            self.scheduler.fleet.key_circuit(one).proven = True
        store = self.pool._store
        assert isinstance(store, MemoryStore)
        self.store = store

    def enter(self, demand: Demand = ONE, gives_up_at: float = 1e6) -> Waiter:
        return self.scheduler.enter(demand, self.clock.now(), gives_up_at)

    def step(self, waiter: Waiter) -> Reserve | Wait | None:
        return self.scheduler.step(waiter, self.clock.now())

    def answer(self, effect: Reserve | Wait | None) -> Reservation | None:
        assert isinstance(effect, Reserve)
        now = self.clock.now()
        return self.scheduler.answered(effect, self.store.reserve(effect.claim, now), now)

    def granted(self, demand: Demand = ONE) -> Waiter:
        waiter = self.enter(demand)
        self.answer(self.step(waiter))
        assert waiter.reservation is not None
        return waiter

    def waiting(self, demand: Demand = ONE) -> Waiter:
        waiter = self.enter(demand)
        while isinstance(effect := self.step(waiter), Reserve):
            self.answer(effect)
        assert isinstance(effect, Wait)
        return waiter


def test_a_grant_that_comes_after_its_call_left_is_an_orphan() -> None:
    fleet = Fleet(a=Limits(concurrent=1))
    waiter = fleet.enter()
    effect = fleet.step(waiter)
    fleet.scheduler.leave(waiter, 0.0)
    orphan = fleet.answer(effect)
    assert isinstance(orphan, Reservation)
    assert fleet.scheduler.leave(waiter, 0.0) is None


def test_a_call_that_gave_up_hands_its_grant_on() -> None:
    fleet = Fleet(a=Limits(concurrent=1))
    held = fleet.granted()
    grant = fleet.scheduler.accept(held, 0.0)
    first, second = fleet.waiting(), fleet.waiting()
    fleet.pool.leased(grant).settle()
    fleet.answer(fleet.step(first))
    assert first.reservation is not None
    orphan = fleet.scheduler.leave(first, 0.0)
    assert orphan is not None
    assert fleet.scheduler.woken[-1] is second


def test_a_head_that_gives_up_wakes_the_next() -> None:
    fleet = Fleet(a=Limits(concurrent=1))
    fleet.granted()
    first, second = fleet.waiting(), fleet.waiting()
    fleet.scheduler.woken.clear()
    assert fleet.scheduler.leave(first, 0.0) is None
    assert fleet.scheduler.woken == [second]


def test_only_one_serves_a_lane_at_a_time() -> None:
    fleet = Fleet(a=Limits(rpm=60))
    while fleet.pool.eta(ONE) == 0:
        fleet.granted()
    first, second = fleet.waiting(), fleet.waiting()
    fleet.clock.advance(1.0)
    effect = fleet.step(first)
    assert isinstance(effect, Reserve)
    assert isinstance(fleet.step(second), Wait)
    # Whoever serves and leaves lets another go on.
    fleet.scheduler.leave(first, 1.0)
    assert isinstance(fleet.step(second), Reserve)


def test_what_is_freed_while_the_store_is_asked_is_asked_for_again() -> None:
    fleet = Fleet(a=Limits(concurrent=1))
    lease = fleet.pool.lease(ONE)
    waiting = fleet.waiting()
    waiting.queue.ready_at = 0.0
    effect = fleet.step(waiting)
    assert isinstance(effect, Reserve)
    answer = fleet.store.reserve(effect.claim, 0.0)  # on its way while the slot is freed
    lease.settle()
    fleet.scheduler.answered(effect, answer, 0.0)
    fleet.answer(fleet.step(waiting))
    assert waiting.reservation is not None


def test_whoever_comes_serves_a_lane_whose_head_is_late() -> None:
    fleet = Fleet(a=Limits(rpm=60))
    while fleet.pool.eta(ONE) == 0:
        fleet.granted()
    late = fleet.waiting()
    fleet.clock.advance(5.0)
    other = fleet.enter()
    effect = fleet.step(other)
    assert isinstance(effect, Reserve)
    assert effect.waiter is late


def test_a_passer_that_left_meanwhile_is_not_tried() -> None:
    fleet = Fleet(a=Limits(tpm=60_000), b=Limits(tpm=600))
    for account in fleet.scheduler.fleet.candidates("m").ready:
        account.buckets[0].level = 0.0
    large = fleet.waiting(Demand(model="m", input_tokens=30_000))
    small = fleet.waiting(Demand(model="m", input_tokens=100))
    smaller = fleet.waiting(Demand(model="m", input_tokens=10))
    fleet.clock.advance(5.0)
    large.queue.ready_at = 5.0
    fleet.answer(fleet.step(large))
    assert large.queue.backfill == [smaller, small]
    fleet.scheduler.leave(small, 5.0)
    effect = fleet.step(large)
    assert isinstance(effect, Reserve)
    assert effect.waiter is smaller


@pytest.mark.usefixtures("believed_at_once")
def test_a_grant_survives_the_merge_of_its_owner() -> None:
    fleet = Fleet(a=Limits(rpm=60), b=Limits(rpm=60))
    waiters = [fleet.granted(), fleet.granted()]
    waiting = fleet.enter()
    effect = fleet.step(waiting)
    assert isinstance(effect, Reserve)
    accounts = {account.owner: account for account in fleet.scheduler.fleet.accounts()}
    for lease in (fleet.pool.lease(ONE), fleet.pool.lease(ONE), fleet.pool.lease(ONE)):
        lease.observe(Observation(organization_id="org-1"))
        lease.settle()
    (kept,) = {key.organization for key in fleet.pool.keys}
    effect.claim.accounts = [accounts["b" if kept == "a" else "a"]]  # as it was asked before
    late = fleet.answer(effect)
    assert late is None
    assert waiting.key is not None
    assert waiting.key[0].organization == kept
    grants = [fleet.scheduler.accept(waiter, 0.0) for waiter in (*waiters, waiting)]
    for grant in grants:
        fleet.pool.leased(grant).settle()
    assert fleet.store.open == 0


@pytest.mark.usefixtures("believed_at_once")
def test_calls_that_wait_are_woken_by_a_merge() -> None:
    fleet = Fleet(a=Limits(concurrent=1), b=Limits(concurrent=1))
    leases = [fleet.pool.lease(ONE), fleet.pool.lease(ONE)]
    waiting = fleet.waiting()
    for lease in leases:
        lease.observe(Observation(organization_id="org-1"))
    assert waiting.woken


@pytest.mark.usefixtures("believed_at_once")
def test_headers_of_a_project_split_an_owner_whose_projects_were_not_known() -> None:
    fleet = Fleet(a=Limits(rpm=600))
    told = Reading(metric=Metric.REQUESTS, limit=30, level=20, period=MINUTE, project=True)
    seen = Observation(organization_id="org-1", project_id="proj-1", readings=(told,))
    for _ in range(2):
        lease = fleet.pool.lease(ONE)
        lease.observe(seen)
        lease.settle(Usage())
    (scope,) = fleet.pool.status().scopes
    assert scope.owner == "a/proj-1"
    assert {level.limit for level in scope.levels} == {600, 30}


def test_a_project_told_without_an_organization_merges_nothing() -> None:
    fleet = Fleet(a=Limits(rpm=600), b=Limits(rpm=600))
    for _ in range(2):
        lease = fleet.pool.lease(ONE)
        lease._pool._fleet.identify(lease._grant.key, Observation(project_id="proj-1"))
        lease.settle()
    assert {key.organization for key in fleet.pool.keys} == {"a", "b"}


@pytest.mark.usefixtures("believed_at_once")
def test_configured_projects_are_left_as_they_are() -> None:
    lab = Project(name="lab", keys=(key("lab"),))
    fleet = Fleet(Organization(name="a", keys=(key("a"),), projects=(lab,)))
    for n in range(4):
        lease = fleet.pool.lease(ONE)
        lease.observe(Observation(organization_id="org-1", project_id=f"proj-{n % 2}"))
        lease.settle()
    assert {key.project for key in fleet.pool.keys} == {None, "lab"}


def half_open(fleet: Fleet) -> None:
    lease = fleet.pool.lease(ONE)
    lease.fail(Outcome(kind=Kind.OVERLOADED, scope="provider", retry_after=2.0))
    fleet.clock.advance(2.0)


def test_a_probe_that_is_given_up_lets_another_probe() -> None:
    fleet = Fleet(a=Limits(rpm=600))
    half_open(fleet)
    probe = fleet.granted()
    (sick,) = fleet.scheduler.health_tracker.ailing()
    assert sick.state is CircuitState.PROBING
    orphan = fleet.scheduler.leave(probe, 2.0)
    assert orphan is not None
    assert sick.state is CircuitState.HALF_OPEN
    assert fleet.granted()


def test_a_probe_that_was_abandoned_says_nothing() -> None:
    fleet = Fleet(a=Limits(rpm=600))
    half_open(fleet)
    fleet.pool.lease(ONE).abandon()
    (sick,) = fleet.scheduler.health_tracker.ailing()
    assert sick.state is CircuitState.HALF_OPEN


def test_a_late_answer_of_before_says_nothing() -> None:
    fleet = Fleet(a=Limits(rpm=600))
    before = fleet.pool.lease(ONE)
    late = fleet.pool.lease(ONE)
    fleet.clock.advance(1.0)
    half_open(fleet)
    late.fail(Outcome(kind=Kind.OVERLOADED, scope="provider", retry_after=500.0))
    before.settle()
    (sick,) = fleet.scheduler.health_tracker.ailing()
    assert sick.state is CircuitState.OPEN
    assert sick.until < 10


def test_a_timer_of_a_state_that_passed_moves_nothing() -> None:
    fleet = Fleet(a=Limits(rpm=600))
    half_open(fleet)
    fleet.pool.revive()
    fleet.pool.lease(ONE).settle()
    fleet.pool.lease(ONE).fail(Outcome(kind=Kind.OVERLOADED, retry_after=50.0))
    fleet.pool.revive()
    fleet.clock.advance(100.0)
    assert fleet.pool.eta(ONE) == 0.0
    assert not list(fleet.scheduler.health_tracker.ailing())


def test_reviving_by_another_name_changes_nothing() -> None:
    fleet = Fleet(a=Limits(rpm=600))
    half_open(fleet)
    assert fleet.pool.revive("no such circuit") == 0


def test_a_ticket_that_was_not_granted_can_not_be_accepted() -> None:
    fleet = Fleet(a=Limits(rpm=600))
    with pytest.raises(AssertionError, match="only a granted waiter"):
        fleet.scheduler.accept(fleet.enter(), 0.0)


def test_all_keys_of_an_owner_dead_and_another_owner_alive() -> None:
    fleet = Fleet(Organization(name="a", keys=(key("a1"), key("a2"))), b=Limits(rpm=600))
    for _ in range(2):
        lease = fleet.pool.lease(ONE)
        while lease.owner != "a":
            lease = fleet.pool.lease(ONE)
        lease.fail(Outcome(kind=Kind.KEY_INVALID, scope="key"))
    assert {fleet.pool.lease(ONE).owner for _ in range(5)} == {"b"}


def test_one_refused_key_of_several_is_skipped_and_the_owner_stays() -> None:
    fleet = Fleet(Organization(name="a", keys=tuple(key(f"a{n}") for n in range(3))))
    fleet.pool.lease(ONE).fail(Outcome(kind=Kind.KEY_INVALID, scope="key"))
    (dead,) = (k.key_id for k in fleet.pool.status().keys if k.health != "closed")
    used = {fleet.pool.lease(ONE).key_id for _ in range(10)}
    assert dead not in used
    assert len(used) == 2


def test_a_key_that_dies_while_the_store_is_asked_is_used_all_the_same() -> None:
    fleet = Fleet(Organization(name="a", keys=(key("a1"), key("a2"))))
    waiter = fleet.enter()
    effect = fleet.step(waiter)
    assert isinstance(effect, Reserve)
    effect.claim.accounts = list(effect.claim.accounts)
    for _ in range(2):
        fleet.pool.lease(ONE).fail(Outcome(kind=Kind.KEY_INVALID, scope="key"))
    fleet.answer(effect)
    assert fleet.scheduler.accept(waiter, 0.0).key.key_id in ("a#1", "a#2")


def test_a_limit_that_not_all_owners_have_bounds_no_eta() -> None:
    fleet = Fleet(a=Limits(rpm=60, concurrent=1), b=Limits(tpm=6000, concurrent=1))
    fleet.pool.lease(ONE)
    fleet.pool.lease(ONE)
    for _ in range(50):
        fleet.waiting()
    assert fleet.scheduler.fleet.candidates("m").supply(0.0) == []
    assert fleet.pool.eta(ONE) == float("inf")


def test_a_flow_releases_what_it_was_granted_for_a_call_that_left() -> None:
    fleet = Fleet(a=Limits(concurrent=1))
    held = fleet.pool.lease(ONE)
    gone = fleet.waiting()
    held.settle()
    flow = acquire(fleet.scheduler, CallOptions(ONE), 0.0)
    effect = next(flow)
    assert isinstance(effect, Reserve)
    assert effect.waiter is gone
    answer = fleet.store.reserve(effect.claim, 0.0)
    fleet.scheduler.leave(gone, 0.0)
    effect = flow.send((0.0, answer))
    assert isinstance(effect, Release)
    assert effect.reservation is answer
    flow.close()


def test_a_call_that_refers_to_what_an_owner_holds_goes_to_that_owner_only() -> None:
    fleet = Fleet(
        Organization(name="a", keys=(key("a1"), key("a2")), limits=Limits(rpm=60)),
        b=Limits(rpm=600),
    )
    order = fleet.pool.order(ONE, timeout=0.0, pinned_key="a#2")
    used = []

    def held() -> None:
        lease = fleet.pool.leased(run(fleet.pool, fleet.pool.flow(order)))
        used.append(lease.key_id)
        lease.settle()

    for _ in range(59):
        held()
    with pytest.raises(WaitTimeout):
        held()
    assert set(used) == {"a#1", "a#2"}
    assert fleet.pool.lease(ONE, timeout=0.0).owner == "b"


def test_names_for_people() -> None:
    fleet = Fleet(a=Limits(rpm=600))
    waiter = fleet.granted()
    assert repr(waiter) == "<Waiter 1 for 'm'>"
    grant = fleet.scheduler.accept(waiter, 0.0)
    assert "a#1" in repr(grant.candidate)
    assert "no other call waits" in why(fleet.enter(), 0.0)


def test_an_empty_claim_is_answered_too() -> None:
    fleet = Fleet(a=Limits(rpm=600))
    assert fleet.store.reserve(Claim([], ONE.costs), 0.0) is not None


def test_a_call_too_large_for_those_that_have_enough_now_waits_for_a_larger_owner() -> None:
    fleet = Fleet(a=Limits(tpm=400), b=Limits(tpm=400), large=Limits(tpm=600))
    drained = fleet.scheduler.accept(fleet.granted(Demand(model="m", input_tokens=590)), 0.0)
    assert drained.candidate.account.owner == "large"
    fleet.pool.leased(drained).settle(Usage(input_tokens=900))
    for _ in range(2):
        fleet.granted(Demand(model="m", input_tokens=390))
    small = fleet.waiting(Demand(model="m", input_tokens=300))
    big = fleet.waiting(Demand(model="m", input_tokens=500))
    fleet.clock.advance(46.0)
    while isinstance(effect := fleet.step(small), Reserve):
        fleet.answer(effect)
    assert small.reservation is not None
    assert small.reservation.account.owner in ("a", "b")
    assert big.error is None
    fleet.clock.advance(40.0)
    while isinstance(effect := fleet.step(big), Reserve):
        fleet.answer(effect)
    assert big.reservation is not None
    assert big.reservation.account.owner == "large"


def test_a_call_of_a_test_counts_by_when_it_was_reserved_not_when_its_waiter_came_to_it() -> None:
    fleet = Fleet(a=Limits(rpm=600))
    (one,) = fleet.pool.keys
    fleet.scheduler.fleet.key_circuit(one).proven = False
    fleet.scheduler.fleet.key_circuit(one).allowed = 1000
    waiters = [fleet.granted()]
    candidate = waiters[0].candidate
    assert candidate is not None
    slow_start = fleet.scheduler.health_tracker._slow_starts.active[candidate.family]
    while candidate.position >= 0:
        waiters.append(fleet.granted())
    assert slow_start.test_from <= waiters[-1].reserved_at <= slow_start.test_until
    window = slow_start.window
    fleet.clock.advance(0.9)  # a busy loop
    late = fleet.scheduler.accept(waiters[-1], fleet.clock.now())
    assert late.waited_for == 0.9
    for waiter in waiters[:-1]:
        grant = fleet.scheduler.accept(waiter, fleet.clock.now())
        fleet.pool.leased(grant).settle()
    fleet.pool.leased(late).settle()
    assert slow_start.window > window
    assert candidate.position >= 0


def untested(fleet: Fleet) -> None:
    """Put every key on trial, with enough attempts that only slow start holds it back."""
    for one in fleet.pool.keys:
        fleet.scheduler.fleet.key_circuit(one).proven = False
        fleet.scheduler.fleet.key_circuit(one).allowed = 1000


def test_a_client_that_is_late_does_not_take_a_test_for_passed() -> None:
    """It may not have read the refusals yet."""
    fleet = Fleet(a=Limits(rpm=600))
    untested(fleet)
    candidate = fleet.granted().candidate
    assert candidate is not None
    while candidate.position >= 0:
        fleet.granted()
    slow_start = fleet.scheduler.health_tracker._slow_starts.active[candidate.family]
    waiting = fleet.waiting()
    fleet.clock.advance(5.0)
    while isinstance(effect := fleet.step(waiting), Reserve):
        fleet.answer(effect)
    assert waiting.reservation is None
    assert slow_start.window == 1.0
    assert isinstance(effect, Wait)
    fleet.clock.advance(effect.until - 5.0)
    fleet.answer(fleet.step(waiting))
    assert waiting.reservation is not None
    assert slow_start.window > 1.0, "on time again, and still not refused"


def test_while_answers_come_a_test_is_not_taken_for_passed() -> None:
    """The refusals may be behind them in what a busy client is still to read."""
    fleet = Fleet(a=Limits(rpm=6_000))
    untested(fleet)
    first = fleet.granted()
    assert first.candidate is not None
    while first.candidate.position >= 0:
        fleet.granted()
    slow_start = fleet.scheduler.health_tracker._slow_starts.active[first.candidate.family]
    assert slow_start is not None
    slow_start.refilled_at = 9.0  # of a larger window
    slow_start.heard_at = 4.5
    fleet.clock.advance(5.0)
    fleet.scheduler.health_tracker.wake_rested(5.0, waiting=False)
    assert first.candidate.family.pauses_until == 5.5
    assert slow_start.window == 1.0
    fleet.scheduler.health_tracker.wake_rested(5.5, waiting=False)
    assert first.candidate.family.usable
    assert slow_start.window > 1.0


def test_a_pause_that_has_ended_is_not_begun_again_by_a_late_client() -> None:
    fleet = Fleet(a=Limits(rpm=600))
    untested(fleet)
    candidate = fleet.granted().candidate
    assert candidate is not None
    while candidate.position >= 0:
        fleet.granted()
    paused = candidate.family
    paused.pauses_until = 100.0  # ended by an answer, and begun anew
    fleet.scheduler.health_tracker.wake_rested(5.0, waiting=True)
    assert paused.pauses_until == 100.0


def test_a_key_on_trial_is_not_given_more_attempts_by_a_late_client() -> None:
    fleet = Fleet(a=Limits(rpm=6_000))
    (one,) = fleet.pool.keys
    circuit = fleet.scheduler.fleet.key_circuit(one)
    circuit.proven = False
    for _ in range(circuit.allowed):
        fleet.granted()
    waiting, allowed = fleet.waiting(), circuit.allowed
    fleet.clock.advance(5.0)
    while isinstance(effect := fleet.step(waiting), Reserve):
        fleet.answer(effect)
    assert isinstance(effect, Wait)
    assert circuit.allowed == allowed
    fleet.clock.advance(effect.until - 5.0)
    fleet.answer(fleet.step(waiting))
    assert waiting.reservation is not None
    assert circuit.allowed > allowed


def test_a_call_waits_for_the_pausing_owner_that_it_suits_better() -> None:
    """One has few requests, the other few tokens: large calls belong to the one."""
    fleet = Fleet(
        requests=Limits(rpm=60, tpm=600_000),
        tokens=Limits(rpm=6_000, tpm=60_000),
    )
    usual = Demand(model="m", input_tokens=1_000)
    large, small = (Demand(model="m", input_tokens=n) for n in (8_000, 10))
    queue = fleet.granted().queue
    few_requests, few_tokens = sorted(
        queue.candidates.by_account.values(), key=lambda s: s.account.owner
    )
    queue.usual = list(usual.costs)

    def may_have_it(demand: Demand, gives_up_at: float = 1e6) -> bool:
        """Whether the owner with few tokens may serve a call."""
        waiter = Waiter(99, demand, queue, "normal", 0.0, gives_up_at)
        return few_tokens.account in best_fit(waiter, list(queue.candidates.ready), 0.0)

    assert queue.candidates.is_mixed(0.0) or candidates.MANY == 1
    assert may_have_it(large), "both are ready: the strategy's choice"
    few_requests.family.pauses_until = 1.0
    queue.candidates.refresh(few_requests)
    assert not may_have_it(large)
    assert may_have_it(large, gives_up_at=0.5), "it can't wait for so long"
    assert may_have_it(small)
    few_requests.family.pauses_until = -inf
    queue.candidates.refresh(few_requests)
    few_requests.account.buckets[0].take(59)
    assert may_have_it(large), "the other's share is much smaller"
    few_tokens.account.buckets[1].take(51_000)
    assert not may_have_it(large)
    few_requests.account.buckets[0].take(3)
    assert may_have_it(large), "the other is ready too late"
    fleet.scheduler.health_tracker.apply_remote(
        HealthChange("organization requests", CircuitState.PARKED, 1e6), 0.0
    )
    assert may_have_it(large), "nor is one that is left alone"


def test_large_calls_wait_for_their_owner_while_others_wait_too() -> None:
    fleet = Fleet(requests=Limits(rpm=60, tpm=600_000), tokens=Limits(rpm=6_000, tpm=60_000))
    while fleet.pool.eta(Demand(model="m", input_tokens=8_000)) == 0:
        fleet.granted(Demand(model="m", input_tokens=8_000))
    first = fleet.waiting(Demand(model="m", input_tokens=8_000))
    fleet.waiting(Demand(model="m", input_tokens=8_000))
    fleet.clock.advance(1.0)
    while isinstance(effect := fleet.step(first), Reserve):
        fleet.answer(effect)
    assert first.reservation is not None
    assert first.reservation.account.owner == "requests"


@pytest.mark.parametrize("resting", [False, True])
def test_a_call_waits_for_a_slot_though_no_rate_allows_it_in_time(*, resting: bool) -> None:
    """When a slot is freed nobody knows, so another owner's instant is no reason to give up."""
    fleet = Fleet(slots=Limits(concurrent=1), rate=Limits(rpm=1))
    while fleet.pool.eta(ONE) == 0:
        fleet.granted()
    if resting:
        fleet.scheduler.health_tracker._apply(
            fleet.scheduler.fleet.circuit("organization rate"),
            CircuitEvent.COOL,
            0.0,
            retry_after=100.0,
        )
    waiter = fleet.enter(gives_up_at=10.0)
    while isinstance(effect := fleet.step(waiter), Reserve):
        fleet.answer(effect)
    assert isinstance(effect, Wait)
    assert waiter.waiting
    fleet.clock.advance(10.0)
    with pytest.raises(WaitTimeout):
        fleet.step(waiter)
