"""Shares of a fleet's quota: no call asks, none is too many, and little is lost with a process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from threading import Thread
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.stores.redis_kit import TestServer

from quotafleet import ConfigError, Limits
from quotafleet._core.quota.account import Account
from quotafleet._core.quota.reservations import (
    Claim,
    ClaimAnswer,
    NotReady,
    Reservation,
    Settlement,
)
from quotafleet.keys import ApiKey, Secret
from quotafleet.limits import Costs, Metric
from quotafleet.outcomes import Kind, Outcome, Reading
from quotafleet.stores.redis import RedisStore
from quotafleet.stores.redis._connection import ConnectionLost
from quotafleet.stores.redis._quota_leases import FIRST, GRACE
from quotafleet.testing import FakeClock
from quotafleet.usage import Demand, Usage

NAMES = count()
SHARE_FOR = 1.0
LIFETIME = 900.0


def tokens(amount: int) -> Costs:
    return Demand(input_tokens=amount).costs


def used(amount: int) -> Costs:
    return Usage(input_tokens=amount).costs


class Fleet:
    """Processes of one fleet, on one clock: a store each."""

    def __init__(self, server: TestServer, limits: Limits, *, share_for: float = SHARE_FOR) -> None:
        self.clock = FakeClock(start=1000.0)
        self.server = server
        self.limits = limits
        self.share_for = share_for
        self.namespace = f"shares-{next(NAMES)}"
        self.stores: list[RedisStore] = []

    def process(self, *, members: int = 1) -> RedisStore:
        store = RedisStore(
            self.server.url,
            namespace=self.namespace,
            lifetime=LIFETIME,
            share_for=self.share_for,
            limits_for=lambda *_: self.limits,
            clock=self.clock,
        )
        store.script_clock = self.clock.now
        store._companion.nudge = lambda *, soon: None  # type: ignore[method-assign]
        store._health._members, store._health._pid = members, os.getpid()
        self.stores.append(store)
        return store

    def account(self, store: RedisStore, name: str = "acme") -> Account:
        secret = Secret(f"sk-{name}-0123456789abcdef")
        key = ApiKey(key_id=f"{name}#1", secret=secret, organization=name)
        return store.account(key, "m", self.clock.now())

    def ask(self, store: RedisStore, *names: str, costs: Costs) -> ClaimAnswer:
        accounts = [self.account(store, name) for name in names or ("acme",)]
        return store.reserve(Claim(accounts, costs), self.clock.now())

    def take(self, store: RedisStore, *names: str, costs: Costs) -> Reservation:
        answer = self.ask(store, *names, costs=costs)
        assert isinstance(answer, Reservation), f"not granted: {answer}"
        return answer

    def settle(self, store: RedisStore, held: Reservation, amount: int) -> bool:
        return store.settle(Settlement(held, used(amount)), self.clock.now())

    def level(self, name: str = "acme", metric: Metric = Metric.TOKENS) -> float:
        """Return what the server holds, as a process sees it that has no share."""
        store = RedisStore(
            self.server.url,
            namespace=self.namespace,
            lifetime=LIFETIME,
            limits_for=lambda *_: self.limits,
            clock=self.clock,
        )
        store.script_clock = self.clock.now
        account = self.account(store, name)
        held = store.reserve(Claim([account], (0, 0, 0, 0, 0, 0, 0)), self.clock.now())
        assert isinstance(held, Reservation)
        store.settle(Settlement(held, (0, 0, 0, 0, 0, 0, 0)), self.clock.now())
        store.close()
        return next(b.level for b in account.buckets if b.metric is metric)

    def close(self) -> None:
        for store in self.stores:
            store.close()


@pytest.fixture
def fleet(server: TestServer) -> Iterator[Fleet]:
    """Much per minute, so that shares are never short: 1,000 a second."""
    made = Fleet(server, Limits(rpm=60_000, tpm=600_000))
    yield made
    made.close()


class Provider:
    """What the provider holds: a bucket that is full at first, and charges as calls arrive."""

    def __init__(self, limit: float, period: float, now: float) -> None:
        self.limit, self.rate = limit, limit / period
        self.level, self.at = limit, now

    def charge(self, amount: float, now: float) -> float:
        self.level = min(self.limit, self.level + (now - self.at) * self.rate) - amount
        self.at = now
        return self.level


members = st.integers(0, 2)
steps = st.one_of(
    st.tuples(st.just("call"), members, st.integers(1, 60)),
    st.tuples(st.just("call"), members, st.integers(1, 60)),
    st.tuples(st.just("call"), members, st.integers(1, 60)),
    st.tuples(st.just("end"), members, st.just(0)),
    st.tuples(st.just("flush"), members, st.just(0)),
    st.tuples(st.just("crash"), members, st.just(0)),
    st.tuples(st.just("wait"), st.just(0), st.integers(1, 700)),
    st.tuples(st.just("wait"), st.just(0), st.integers(1, 6000)),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(script=st.lists(steps, min_size=5, max_size=60))
def test_processes_with_shares_take_no_more_than_there_is(
    server: TestServer, script: list[tuple[str, int, int]]
) -> None:
    """In the provider's bucket, whatever they lend, give back late, or die with."""
    fleet = Fleet(server, Limits(tpm=6000, rps=40))
    now = fleet.clock.now
    providers = {
        Metric.TOKENS: Provider(6000, 60.0, now()),
        Metric.REQUESTS: Provider(40, 1.0, now()),
    }
    stores = [fleet.process(members=1 + n) for n in range(3)]
    held: list[list[tuple[Reservation, int]]] = [[], [], []]
    try:
        for what, who, number in script:
            store = stores[who]
            if what == "call":
                for _ in range(number % 12 + 1):
                    answer = fleet.ask(store, costs=tokens(10 * number))
                    if isinstance(answer, Reservation):
                        held[who].append((answer, 10 * number))
                        for metric, provider in providers.items():
                            left = provider.charge(answer.costs[metric], now())
                            assert left >= -1e-6, f"{metric.name} is over by {-left}"
            elif what == "end":
                for reservation, amount in held[who]:
                    fleet.settle(store, reservation, amount)
                held[who].clear()
                store._give_back(ended=True)
            elif what == "flush":
                store.flush()
            elif what == "crash":
                stores[who], held[who] = fleet.process(members=who + 1), []
            else:
                fleet.clock.advance(number / 1000)
    finally:
        fleet.stores = stores
        fleet.close()


def test_a_full_bucket_gains_nothing_for_what_is_lent(server: TestServer) -> None:
    """The provider's is full too: it will not hold more than its limit when the share is spent."""
    fleet = Fleet(server, Limits(rps=1000))
    first, second = fleet.process(), fleet.process()
    provider = Provider(1000, 1.0, fleet.clock.now())

    def spend(store: RedisStore, most: int) -> None:
        for _ in range(most):
            if not isinstance(fleet.ask(store, costs=tokens(0)), Reservation):
                break
            assert provider.charge(1, fleet.clock.now()) >= -1e-6

    for _ in range(10):  # at a pace that makes shares grow
        spend(first, 100)
        fleet.clock.advance(0.2)
    first.flush()
    fleet.clock.advance(1.0)
    spend(first, 3)
    assert first._shares is not None
    lent = sum(share.left[Metric.REQUESTS] for share in first._shares._of.values())
    assert lent > 250, "more than the margin, or else it proves nothing"
    fleet.clock.advance(0.7)  # both are full again
    spend(second, 1000)
    spend(first, 1000)
    fleet.close()


def test_calls_that_follow_each_other_ask_once_in_a_while(fleet: Fleet) -> None:
    store = fleet.process()
    for _ in range(1000):
        fleet.settle(store, fleet.take(store, costs=tokens(10)), 7)
    assert store.steps <= 10
    fleet.clock.advance(SHARE_FOR)
    before = store.steps
    fleet.take(store, costs=tokens(10))
    assert store.steps == before + 1, "a share that has ended is not used"
    store.flush()
    fleet.clock.advance(1.0)
    assert fleet.level() == 600_000 - 2500


def test_what_is_left_of_a_share_comes_back(fleet: Fleet) -> None:
    store = fleet.process()
    for _ in range(3):
        fleet.settle(store, fleet.take(store, costs=tokens(10)), 10)
    full = 600_000 - 2500
    assert fleet.level() == full - 10 - 10 * FIRST, "the first call, and the whole share"
    store.flush()
    assert fleet.level() == full - 30


def test_a_share_that_ended_is_given_back_by_itself(server: TestServer) -> None:
    """Nobody calls any more: the companion brings it."""
    from time import monotonic, sleep

    limits = Limits(tpm=600_000, rpm=60_000)
    store = RedisStore(
        server.url,
        namespace=f"shares-{next(NAMES)}",
        share_for=0.2,
        limits_for=lambda *_: limits,
    )
    key = ApiKey(key_id="a#1", secret=Secret("sk-a-0123456789abcdef"), organization="a")
    account = store.account(key, "m", monotonic())
    for _ in range(2):
        store.reserve(Claim([account], tokens(10)), monotonic())
    assert store._shares is not None
    assert store._shares.next_end() < monotonic() + 0.3
    until = monotonic() + 20
    while len(store._books.buffer) or store._shares.holds({"a"}):
        assert monotonic() < until
        sleep(0.02)
    store.close()


def test_a_process_that_dies_costs_its_share_once(fleet: Fleet) -> None:
    """Not for longer: the bucket refills, up to its top."""
    store = fleet.process()
    for _ in range(200):
        fleet.take(store, costs=tokens(10))
    assert store._shares is not None
    (share,) = store._shares._of.values()
    lost = share.left[Metric.TOKENS]
    full = 600_000 - 2500
    assert 0 < lost <= full / 2
    assert fleet.level() == pytest.approx(full - 2000 - lost, abs=1)
    fleet.stores.remove(store)  # it died; what it was lent is taken for lent a while longer
    fleet.clock.advance(SHARE_FOR + GRACE + 0.1)
    fleet.level()
    fleet.clock.advance(1.0)
    assert fleet.level() == full


def test_no_process_is_lent_more_than_its_part(fleet: Fleet) -> None:
    """Of four, an eighth of what is there each."""
    stores = [fleet.process(members=4) for _ in range(4)]
    for _ in range(4):
        for store in stores:
            for _ in range(200):
                fleet.take(store, costs=tokens(100))
    lent = 0.0
    for store in stores:
        assert store._shares is not None
        for share in store._shares._of.values():
            assert share.amounts[Metric.TOKENS] <= (600_000 - 2500) / 8
            lent += share.left[Metric.TOKENS]
    assert 0 < lent <= (600_000 - 2500) / 2


def test_what_is_scarce_is_not_lent(server: TestServer) -> None:
    fleet = Fleet(server, Limits(tpm=6000))
    first, second = fleet.process(members=2), fleet.process(members=2)
    fleet.take(first, costs=tokens(5000))
    before = first.steps
    for _ in range(3):
        fleet.take(first, costs=tokens(200))
    assert first.steps == before + 3
    assert isinstance(fleet.ask(second, costs=tokens(500)), NotReady)
    fleet.close()


def test_who_is_short_has_given_back_what_it_was_lent(server: TestServer) -> None:
    """For one project that it did not spend, which another one needs."""
    fleet = Fleet(server, Limits(tpd=1001))
    store = fleet.process()
    fleet.take(store, costs=tokens(20))
    held = fleet.take(store, costs=tokens(20))
    assert fleet.level() < 1001 - 60, "something is lent"
    fleet.take(store, costs=tokens(950))
    assert held.account.in_flight == 3
    fleet.close()


def test_the_ranking_stands(fleet: Fleet) -> None:
    """A share of an owner that comes later does not hide one that comes first."""
    store = fleet.process()
    fleet.take(store, "birch", costs=tokens(10))
    assert fleet.take(store, "birch", costs=tokens(10)).account.owner == "birch"
    assert fleet.take(store, "acme", "birch", costs=tokens(10)).account.owner == "acme"
    assert fleet.take(store, "birch", "acme", costs=tokens(10)).account.owner == "birch"


def test_an_owner_that_has_nothing_is_passed_over(server: TestServer) -> None:
    fleet = Fleet(server, Limits(tpd=100_001))
    store = fleet.process()
    fleet.take(store, "acme", costs=tokens(100_000))
    assert fleet.take(store, "acme", "birch", costs=tokens(10)).account.owner == "birch"
    before = store.steps
    for _ in range(5):
        assert fleet.take(store, "acme", "birch", costs=tokens(10)).account.owner == "birch"
    assert store.steps == before
    fleet.close()


def test_what_a_call_used_more_is_a_debt_at_once(fleet: Fleet) -> None:
    store = fleet.process()
    fleet.take(store, costs=tokens(10))
    portion = fleet.take(store, costs=tokens(10))
    fleet.settle(store, portion, 100_000)
    fleet.settle(store, portion, 100_000)  # once
    store.flush()
    assert fleet.level() == 600_000 - 2500 - 10 - 100_000


def test_settled_after_its_share_a_call_counts_what_it_used(fleet: Fleet) -> None:
    store = fleet.process()
    first = fleet.take(store, costs=tokens(100))
    portions = [fleet.take(store, costs=tokens(100)) for _ in range(5)]
    store.flush()
    assert fleet.level() == 600_000 - 2500 - 600
    for portion in portions:
        assert fleet.settle(store, portion, 30) is True
    fleet.settle(store, first, 100)
    store.flush()
    assert fleet.level() == 600_000 - 2500 - 250
    assert first.account.in_flight == 0


def test_what_a_share_can_not_take_back_goes_to_the_server(fleet: Fleet) -> None:
    store = fleet.process()
    fleet.take(store, costs=tokens(10))
    portions = [fleet.take(store, costs=tokens(10)) for _ in range(FIRST)]
    fleet.take(store, costs=tokens(10))  # asks: with a new share, of which nothing is spent
    for portion in portions:
        fleet.settle(store, portion, 0)
    store.flush()
    assert fleet.level() == 600_000 - 2500 - 20


def test_a_refusal_ends_the_share(fleet: Fleet) -> None:
    store = fleet.process()
    fleet.take(store, costs=tokens(10))
    portion = fleet.take(store, costs=tokens(10))
    refusal = Outcome(kind=Kind.RATE_LIMITED, scope="organization", retry_after=5.0)
    store.settle(Settlement(portion, used(0), (), refusal), fleet.clock.now())
    assert isinstance(fleet.ask(store, costs=tokens(10)), NotReady)
    fleet.clock.advance(5.5)
    fleet.take(store, costs=tokens(10))


def test_headers_of_a_portions_answer_correct_the_server(fleet: Fleet) -> None:
    """A key that is used elsewhere too: the provider has less than the ledger thought."""
    store = fleet.process()
    fleet.take(store, costs=tokens(10))
    portion = fleet.take(store, costs=tokens(10))
    told = Reading(metric=Metric.TOKENS, limit=600_000, level=100_000, period=60.0)
    fleet.clock.advance(0.05)
    store.settle(Settlement(portion, None, (told,)), fleet.clock.now())
    fleet.settle(store, portion, 10)
    store.flush()
    assert fleet.level() <= 100_000


def test_a_limit_learned_from_a_portions_answer_ends_the_share(fleet: Fleet) -> None:
    store = fleet.process()
    first = fleet.take(store, costs=tokens(10))
    portion = fleet.take(store, costs=tokens(10))
    told = Reading(metric=Metric.REQUESTS, limit=1000, level=400, period=86_400.0)
    store.settle(Settlement(portion, used(10), (told,)), fleet.clock.now())
    store._bring_all()
    fleet.settle(store, first, 10)
    fleet.clock.advance(SHARE_FOR)
    for _ in range(3):
        fleet.take(store, costs=tokens(10))
    assert any(bucket.name == "rpd" for bucket in first.account.buckets)
    store.flush()
    daily = min(b.level for b in first.account.buckets if b.metric is Metric.REQUESTS)
    assert daily <= 400 - FIRST, "what was lent before may be on its way"


def test_calls_in_flight_are_not_lent(server: TestServer) -> None:
    fleet = Fleet(server, Limits(tpm=600_000, concurrent=50))
    store = fleet.process()
    for number in range(1, 6):
        fleet.take(store, costs=tokens(10))
        assert store.steps >= number
    fleet.close()


def test_merged_owners_get_their_shares_back(fleet: Fleet) -> None:
    store = fleet.process()
    portions = []
    for name in ("acme", "birch"):
        fleet.take(store, name, costs=tokens(100))
        portions.append(fleet.take(store, name, costs=tokens(100)))
    store.merge("birch", "acme", fleet.clock.now())
    assert fleet.level() == 600_000 - 2500 - 400
    for portion in portions:
        fleet.settle(store, portion, 50)
    store.flush()
    assert fleet.level() == 600_000 - 2500 - 300


def test_a_share_whose_loan_was_not_heard_of_comes_back(fleet: Fleet) -> None:
    """The answer was lost: the claim is asked again, and nothing is held twice."""
    store = fleet.process()
    fleet.take(store, costs=tokens(10))
    store.flush()
    turn, lost = store._server.turn, []

    def cut(*asked: Any) -> Any:
        answer = turn(*asked)
        if len(lost) < losses:
            lost.append(answer)
            raise ConnectionLost("cut off")
        return answer

    store._server.turn = cut  # type: ignore[method-assign, assignment]
    for losses, calls in ((1, 2), (2, 2)):
        lost.clear()
        answer = fleet.ask(store, costs=tokens(10))
        assert isinstance(answer, NotReady) == (losses == 2)
        store.flush()
        assert len(lost) == losses
        assert fleet.level() == 600_000 - 2500 - 10 * calls


def test_many_threads_spend_a_share_once(fleet: Fleet) -> None:
    store = fleet.process()
    granted: list[Reservation] = []

    def work() -> None:
        for _ in range(200):
            granted.append(fleet.take(store, costs=tokens(10)))

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({held.number for held in granted}) == 800
    store.flush()
    assert fleet.level() == 600_000 - 2500 - 8000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_leaves_its_parents_share_alone(fleet: Fleet) -> None:
    store = fleet.process()
    fleet.take(store, costs=tokens(10))
    fleet.take(store, costs=tokens(10))
    assert store._shares is not None
    claim = Claim([fleet.account(store)], tokens(10))
    child = os.fork()
    if child == 0:
        os._exit(0 if store._claims.at_once(claim, fleet.clock.now()) is None else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert store._claims.at_once(claim, fleet.clock.now()) is not None


@pytest.mark.parametrize("share_for", [-0.1, 61.0, float("nan")])
def test_a_share_has_a_sensible_length(share_for: float) -> None:
    with pytest.raises(ConfigError, match="share_for"):
        RedisStore("redis://localhost", share_for=share_for)
