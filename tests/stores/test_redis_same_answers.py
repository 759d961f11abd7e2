"""Memory and Redis are given the same random script, and must give the same answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from math import inf

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.stores.redis_kit import TestServer, together

from quotafleet._core.quota import doubts, ledger
from quotafleet._core.quota.account import Account
from quotafleet._core.quota.reservations import (
    Claim,
    ClaimAnswer,
    NeverFits,
    NotReady,
    Reservation,
    Settlement,
)
from quotafleet.keys import ApiKey, Secret
from quotafleet.limits import DAY, MINUTE, Limit, Limits, Metric
from quotafleet.outcomes import Kind, Outcome, Reading
from quotafleet.protocols import Store
from quotafleet.stores import MemoryStore
from quotafleet.stores.redis import RedisStore
from quotafleet.testing import FakeClock
from quotafleet.usage import Demand, Usage

NAMES = count()
LIFETIME = 40.0
LIMITS = {
    ("acme", None): Limits(rpm=30, tpm=6000, concurrent=4),
    ("acme", "web"): Limits(tpm=Limit(name="tpm", amount=2000, burst=800)),
    ("birch", None): Limits(rpm=7, tpm=3000, rpd=40),
    ("cedar", None): Limits(),  # learned, if it is told
}
OWNERS = tuple(LIMITS)


def limits_for(organization: str, project: str | None, family: str) -> Limits:
    return LIMITS.get((organization, project), Limits())


@dataclass
class Pair:
    """The same account or reservation, or what was answered, on either side."""

    memory: object
    redis: object


#: Whole tens of microseconds; some longer than reservations live.
seconds = st.one_of(
    st.integers(0, 30_000),  # an answer after it is quick, or not quite
    st.integers(0, 300_000),
    st.integers(0, 5_000_000),
).map(lambda n: n / 1e5)
sizes = st.integers(0, 2500)
owner = st.sampled_from(OWNERS)
ranking = st.lists(owner, min_size=1, max_size=4, unique=True)
held = st.integers(0, 30)
readings = st.builds(
    lambda limit, share, **told: Reading(limit=limit, level=round(limit * share, 3), **told),
    metric=st.sampled_from([Metric.TOKENS, Metric.REQUESTS]),
    limit=st.sampled_from([20.0, 3000.0, 6000.0]),
    share=st.one_of(st.floats(0, 0.02), st.floats(0, 1)),
    period=st.sampled_from([MINUTE, DAY]),
    burst=st.sampled_from([None, None, 1000.0]),
    project=st.booleans(),
)
headers = st.lists(readings, max_size=2, unique_by=lambda r: (r.metric, r.period, r.project))
refusals = st.one_of(
    st.builds(
        Outcome,
        kind=st.just(Kind.RATE_LIMITED),
        retry_after=st.sampled_from([None, 0.5, 20.0]),
    ),
    st.builds(
        Outcome,
        kind=st.just(Kind.RATE_LIMITED),
        metric=st.just(Metric.TOKENS),
        period=st.just(MINUTE),
        limit=st.sampled_from([3000.0, 6000.0]),
        used=st.sampled_from([None, 100.0, 2500.0, 2990.0]),  # with room for it, and without
        requested=st.sampled_from([None, 700.0]),
        retry_after=st.sampled_from([None, 1.0, 4.0, 400.0]),
    ),
)
#: What the provider takes for one of our tokens.
prices = st.sampled_from([0.5, 0.5, 1.0, 1.5, 12.0])
steps = st.one_of(
    st.tuples(st.just("reserve"), ranking, sizes),
    st.tuples(st.just("reserve"), ranking, sizes),
    st.tuples(st.just("together"), st.lists(st.tuples(ranking, sizes), max_size=5), st.none()),
    st.tuples(st.just("settle"), held, sizes),
    st.tuples(st.just("settle"), held, st.just(0)),
    st.tuples(st.just("observe"), held, headers),
    st.tuples(st.just("charge"), held, prices),
    st.tuples(st.just("serve"), owner, st.tuples(st.integers(1, 700), seconds, prices)),
    st.tuples(st.just("serve"), owner, st.tuples(st.integers(1, 700), seconds, prices)),
    st.tuples(st.just("refuse"), held, refusals),
    st.tuples(st.just("wait"), seconds, st.none()),
)


@pytest.fixture(scope="module", autouse=True)
def _alike() -> Iterator[None]:
    """Switch off the doubts about implausible numbers, which only the memory store has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doubts, "FAR_BELOW", inf)
        patch.setattr(doubts, "LEAST_LIMIT", 0.0)
        patch.setattr(ledger, "OVERUSE", 1e12)
        yield


class Charging:
    """A provider's bucket of tokens, which charges by a formula of its own."""

    def __init__(self, limit: float, now: float) -> None:
        self.limit = self.level = limit
        self.at = now

    def charge(self, amount: float, now: float) -> float:
        level = min(self.limit, self.level + (now - self.at) * self.limit / MINUTE)
        self.level, self.at = max(0.0, level - amount), now
        return round(self.level, 3)


class Twins:
    """Both stores, the same clock, and what was reserved so far."""

    def __init__(self, url: str) -> None:
        self.clock = FakeClock(start=1000.0)
        self.redis = RedisStore(
            url,
            namespace=f"twins-{next(NAMES)}",
            lifetime=LIFETIME,
            limits_for=limits_for,
            clock=self.clock,
        )
        self.redis.script_clock = self.clock.now
        self.memory = MemoryStore(limits_for, lifetime=LIFETIME, assumes=False)
        self.held: list[tuple[Reservation, Reservation]] = []
        self.providers: dict[str, Charging] = {}
        self.known: set[tuple[str, str | None]] = set()

    def accounts(self, store: Store, owners: list[tuple[str, str | None]]) -> list[Account]:
        found = []
        for name, project in owners:
            key = ApiKey(
                key_id=f"{name}#1",
                secret=Secret(f"sk-{name}-0123456789abcdef"),
                organization=name,
                project=project,
            )
            found.append(store.account(key, "m", self.clock.now()))
        return found

    def reserve(self, owners: list[tuple[str, str | None]], tokens: int) -> None:
        self.clock.advance(1e-5)  # a server does one thing at a time
        costs = Demand(input_tokens=tokens).costs
        now = self.clock.now()
        mine, theirs = (
            store.reserve(Claim(self.accounts(store, owners), costs), now)
            for store in (self.memory, self.redis)
        )
        self.compare(mine, theirs)
        if isinstance(mine, Reservation) and isinstance(theirs, Reservation):
            self.held.append((mine, theirs))

    def together(self, wanted: list[tuple[list[tuple[str, str | None]], int]]) -> None:
        """Ask for several calls at one instant: Redis in one step, which serves them in turn.

        Owners whose buckets Redis lacks are asked before: such a claim needs a second step, and is
        served behind the others.
        """
        for one in sorted({one for owners, _ in wanted for one in owners} - self.known, key=str):
            self.known.add(one)
            self.reserve([one], 1)
        self.clock.advance(1e-5)
        now = self.clock.now()

        def claims(store: Store) -> list[Claim]:
            return [
                Claim(self.accounts(store, owners), Demand(input_tokens=tokens).costs)
                for owners, tokens in wanted
            ]

        mine = [self.memory.reserve(claim, now) for claim in claims(self.memory)]
        theirs = together(self.redis, claims(self.redis))
        self.clock.advance(1e-5)
        for one, other in zip(mine, theirs, strict=True):
            self.compare(one, other)
            if isinstance(one, Reservation) and isinstance(other, Reservation):
                self.held.append((one, other))

    def compare(self, mine: ClaimAnswer, theirs: ClaimAnswer) -> None:
        assert type(mine) is type(theirs), (mine, theirs, getattr(theirs, "ready_at", 0))
        if isinstance(mine, NotReady) and isinstance(theirs, NotReady):
            if mine.ready_at == inf:
                assert theirs.ready_at == inf
            else:  # levels are whole micro-units; a limit of 20 a day refills one in 4 ms
                assert theirs.ready_at == pytest.approx(mine.ready_at, rel=1e-6, abs=0.05)
            return
        assert not isinstance(mine, NotReady)
        assert not isinstance(theirs, NotReady)
        assert mine.account.owner == theirs.account.owner
        if isinstance(mine, NeverFits) and isinstance(theirs, NeverFits):
            assert mine.bucket.limit == theirs.bucket.limit
        elif isinstance(mine, Reservation) and isinstance(theirs, Reservation):
            self.compare_levels(mine, theirs)

    def compare_levels(self, mine: Reservation, theirs: Reservation) -> None:
        levels = [
            {
                (b.scope, b.name): (b.snapshot(self.clock.now()).available, b.limit)
                for b in r.account.buckets
            }
            for r in (mine, theirs)
        ]
        assert levels[0].keys() == levels[1].keys()
        for name, values in levels[0].items():
            assert levels[1][name] == pytest.approx(values, abs=1e-2), name
        for one, other in zip(mine.account.buckets, theirs.account.buckets, strict=True):
            if one.scope == other.scope and one.name == other.name:
                assert other.burst == one.burst
                assert other.price == pytest.approx(one.price, rel=1e-6)
                assert other.capacity == pytest.approx(one.capacity, rel=1e-6)

    def tell(self, which: int, **said: object) -> None:
        if not self.held:
            return
        pair = self.held[which % len(self.held)]
        now = self.clock.now()
        self.memory._ledger.expire(now)  # which it does with the next claim; Redis with any step
        self.memory.settle(Settlement(pair[0], **said), now)  # type: ignore[arg-type]
        self.redis.settle(Settlement(pair[1], **said), now)  # type: ignore[arg-type]
        self.redis.flush()  # at this instant

    def charge(self, which: int, price: float) -> None:
        """Tell one of them what the provider's bucket holds after it charged its tokens."""
        if self.held:
            reservation = self.held[which % len(self.held)][0]
            name, now = reservation.account.organization, self.clock.now()
            limit = 6000.0 if name == "acme" else 3000.0
            provider = self.providers.setdefault(name, Charging(limit, now))
            level = provider.charge(reservation.costs[Metric.TOKENS] * price, now)
            told = Reading(metric=Metric.TOKENS, limit=limit, level=level, period=MINUTE)
            self.tell(which, used=None, readings=(told,))

    def play(self, step: tuple[str, object, object]) -> None:
        match step:
            case ("reserve", list() as owners, int() as tokens):
                self.reserve(owners, tokens)
            case ("together", list() as wanted, _):
                self.together(wanted)
            case ("settle", int() as which, int() as tokens):
                self.tell(which, used=Usage(input_tokens=tokens).costs)
            case ("observe", int() as which, list() as told):
                self.tell(which, used=None, readings=tuple(told))
            case ("charge", int() as which, float() as price):
                self.charge(which, price)
            case ("serve", (str(), _) as one, (int(), float(), float()) as how):
                tokens, seconds, price = how
                before = len(self.held)
                self.reserve([one], tokens)
                self.clock.advance(seconds)
                if len(self.held) > before:
                    self.charge(before, price)
            case ("refuse", int() as which, Outcome() as outcome):
                used = Usage(requests=1).costs
                self.tell(which, used=used, outcome=outcome)
            case ("wait", float() as seconds, _):
                self.clock.advance(seconds)

    def close(self) -> None:
        self.redis.close()


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(script=st.lists(steps, min_size=10, max_size=40))
def test_memory_and_redis_give_the_same_answers(
    server: TestServer, script: list[tuple[str, object, object]]
) -> None:
    twins = Twins(server.url)
    try:
        for step in script:
            twins.play(step)
        twins.reserve(list(OWNERS), 10)
        for one in OWNERS:
            twins.reserve([one], 700)
    finally:
        twins.close()


@pytest.mark.parametrize(
    ("metric", "unit", "least"),
    [(Metric.REQUESTS, 0.005, 10), (Metric.TOKENS, 1.0, -inf)],  # tokens may be dear instead
)
def test_an_answer_that_tells_of_more_is_believed_alike(
    server: TestServer, metric: Metric, unit: float, least: float
) -> None:
    twins = Twins(server.url)
    try:
        for size, level in ((500, 3000.0), (300, 5000.0), (200, 400.0), (50, 4000.0)):
            twins.reserve([("acme", None)], size)
            told = Reading(metric=metric, limit=6000.0 * unit, level=level * unit, period=MINUTE)
            twins.clock.advance(0.2)
            twins.tell(len(twins.held) - 1, used=None, readings=(told,))
            if size == 300:  # one that is still under way when the next answers come
                twins.tell(0, used=Usage(input_tokens=10).costs)
        twins.reserve([("acme", None)], 10)
        level = next(b.level for b in twins.held[-1][0].account.buckets if b.metric is metric)
        assert level > least  # what was told last, and little of it uncertain
    finally:
        twins.close()


@pytest.mark.parametrize(("price", "size"), [(0.5, 360), (1.5, 150), (12.0, 30)])
def test_a_price_is_learned_alike(server: TestServer, price: float, size: int) -> None:
    twins = Twins(server.url)
    try:
        for number in range(24):
            twins.reserve([("acme", None)], size + number)
            twins.clock.advance(0.3)
            twins.charge(len(twins.held) - 1, price)
            twins.clock.advance(1.2)
            # Some leave less than was taken: it looks a little dearer.
            used = Usage(requests=1, input_tokens=size + number - number % 3)
            twins.tell(len(twins.held) - 1, used=used.costs)
        bucket = next(b for b in twins.held[-1][0].account.buckets if b.name == "tpm")
        assert bucket.price == pytest.approx(min(price, 8.0), rel=0.1)
    finally:
        twins.close()


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.22, 0.24, 3.0])
def test_the_lead_of_quick_answers_is_alike(server: TestServer, pause: float) -> None:
    twins = Twins(server.url)
    try:
        refusal = Outcome(
            kind=Kind.RATE_LIMITED,
            metric=Metric.TOKENS,
            period=MINUTE,
            limit=6000.0,
            used=5990.0,
            requested=40.0,
            retry_after=1.0,
        )
        for number in range(8):
            twins.reserve([("acme", None)], 50)
            twins.clock.advance(pause)
            twins.charge(len(twins.held) - 1, 1.0)
            refused = refusal if number == 2 else None
            used = Usage(input_tokens=50).costs
            twins.tell(len(twins.held) - 1, used=used, outcome=refused)
            twins.clock.advance(21.0)  # wary for the next two
        twins.reserve([("acme", None)], 10)
    finally:
        twins.close()


def test_a_burst_that_refusals_prove_is_alike(server: TestServer) -> None:
    twins = Twins(server.url)
    try:
        twins.reserve([("acme", None)], 500)
        refusal = Outcome(
            kind=Kind.RATE_LIMITED,
            metric=Metric.TOKENS,
            period=MINUTE,
            limit=6000.0,
            used=100.0,
            retry_after=1.0,
        )
        twins.tell(0, used=Usage(requests=1).costs, outcome=refusal)
        for pause in (0.1, 1.0, 3.0):
            twins.clock.advance(pause)
            twins.reserve([("acme", None)], 60)
            twins.clock.advance(0.1)
            told = Reading(metric=Metric.TOKENS, limit=6000.0, level=30.0, period=MINUTE)
            twins.tell(len(twins.held) - 1, used=None, readings=(told,))
        bucket = next(b for b in twins.held[-1][1].account.buckets if b.name == "tpm")
        assert (bucket.burst, bucket.capacity) == (100.0, 75.0)
    finally:
        twins.close()


def test_a_rate_that_was_slowed_grows_back_alike(server: TestServer) -> None:
    """Not to the last digit: how much it has grown is reckoned whenever a bucket is looked at."""
    twins = Twins(server.url)
    try:
        twins.reserve([("birch", None)], 3000)
        slow = Outcome(kind=Kind.SLOW_DOWN, retry_after=3.0)
        twins.tell(0, used=Usage(input_tokens=3000).costs, outcome=slow)
        for pause in (0.5, 5.0, 30.0, 200.0):
            twins.clock.advance(pause)
            now = twins.clock.now()
            claims = [
                store.reserve(
                    Claim(
                        twins.accounts(store, [("birch", None)]), Demand(input_tokens=2900).costs
                    ),
                    now,
                )
                for store in (twins.memory, twins.redis)
            ]
            waits = [a.ready_at - now if isinstance(a, NotReady) else 0.0 for a in claims]
            assert waits[1] == pytest.approx(waits[0], rel=0.01, abs=0.05)
        assert waits == [0.0, 0.0]
    finally:
        twins.close()


@pytest.mark.parametrize("which", [0, 1, 3])
def test_a_limit_that_is_told_counts_later_calls_of_the_same_step_alike(
    server: TestServer, which: int
) -> None:
    """They were made at one instant there; the level that was told is without the later ones."""
    twins = Twins(server.url)
    try:
        cedar = ("cedar", None)
        twins.known.add(cedar)
        twins.together([([cedar], 100 + size) for size in range(4)])
        told = Reading(metric=Metric.TOKENS, limit=6000.0, level=5000.0, period=MINUTE)
        twins.tell(which, used=None, readings=(told,))
        twins.reserve([cedar], 10)
        (bucket,) = twins.held[-1][1].account.buckets
        later = sum(100 + size for size in range(which + 1, 4))
        assert bucket.level == pytest.approx(5000 - later - 25 - 10, abs=1)
    finally:
        twins.close()
