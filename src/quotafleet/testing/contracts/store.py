"""The contract of stores."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import inf
from random import Random
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from ..._core.quota.account import Account
from ..._core.quota.ledger import LimitsFor
from ..._core.quota.reservations import (
    Claim,
    HeadReservation,
    NeverFits,
    NotReady,
    Reservation,
    Settlement,
)
from ...keys import ApiKey, Secret
from ...limits import DAY, Costs, Limits, Metric
from ...outcomes import Kind, Outcome, Reading
from ...protocols import Store
from ...usage import Demand, Usage
from ..clock import FakeClock

_UNUSED: Final = Usage(requests=0).costs
#: A daily limit: it doesn't refill to speak of while a test runs, in real time either.
_TEN_CALLS: Final = Limits(tpd=1001)
_CALL: Final = Demand(model="m", requests=0, input_tokens=100).costs


def _tokens(count: int) -> Costs:
    return Demand(requests=0, input_tokens=count).costs


def _used(count: int) -> Costs:
    return Usage(requests=0, input_tokens=count).costs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Owners:
    """The owners of a test: limits by owner's name, such as ``"acme"`` or ``"acme/research"``."""

    limits: dict[str, Limits]

    def limits_for(self, organization: str, project: str | None, family: str) -> Limits:
        owner = organization if project is None else f"{organization}/{project}"
        return self.limits.get(owner, Limits())


class StoreContract:
    """What a pool relies on in a `Store`. Subclass it and override `make`.

    Everything is asked through the protocol alone. Time is a `FakeClock` that stands still; a
    store with a clock of its own, such as a server's, overrides `now` and `advance` (which may
    sleep), and sets `slack`, `lifetime` and `examples` to what real time allows.
    """

    #: Seconds by which the store's instants may be off.
    slack = 1e-6
    #: Seconds that reservations live in the test of their expiry.
    lifetime = 10.0
    #: How many examples hypothesis tries.
    examples = 50
    #: Whether it books: takes the costs of a claim that doesn't fit yet, to be used later. One that
    #: doesn't keeps to the claim's guards.
    books = False

    def make(self, limits_for: LimitsFor, lifetime: float) -> Store:
        """Return a new, empty store; it may be called several times in one test."""
        raise NotImplementedError("override make() to return your store")

    def now(self) -> float:
        """Return the current instant on the clock that `advance` moves."""
        return self._clock().now()

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self._clock().advance(seconds)

    def drain(self, store: Store) -> None:
        """Wait until what was settled so far counts; for stores that settle in the background."""

    def _clock(self) -> FakeClock:
        # pytest makes a new instance for each test, and collects no class with an __init__.
        clock: FakeClock = self.__dict__.setdefault("_fake_clock", FakeClock(start=1000.0))
        return clock

    # Words for the tests below

    def _store(self, lifetime: float = 900.0, **limits: Limits) -> Store:
        by_owner = {name.replace("__", "/"): value for name, value in limits.items()}
        return self.make(_Owners(limits=by_owner).limits_for, lifetime)

    def _account(
        self, store: Store, organization: str, project: str | None = None, family: str = "m"
    ) -> Account:
        name = organization if project is None else f"{organization}/{project}"
        key = ApiKey(
            key_id=f"{name}#1",
            secret=Secret(f"sk-{name}-0123456789abcdef"),
            organization=organization,
            project=project,
        )
        return store.account(key, family, self.now())

    def _ask(self, store: Store, *accounts: Account, costs: Costs = _CALL) -> object:
        return store.reserve(Claim(list(accounts), costs), self.now())

    def _take(self, store: Store, *accounts: Account, costs: Costs = _CALL) -> Reservation:
        answer = self._ask(store, *accounts, costs=costs)
        assert isinstance(answer, Reservation), f"not granted: {_shown(answer)}"
        return answer

    def _short(self, store: Store, *accounts: Account, costs: Costs = _CALL) -> NotReady:
        answer = self._ask(store, *accounts, costs=costs)
        assert isinstance(answer, NotReady), f"not short: {_shown(answer)}"
        return answer

    def _settle(self, store: Store, reservation: Reservation, used: Costs = _UNUSED) -> bool:
        freed = store.settle(Settlement(reservation, used), self.now())
        self.drain(store)
        return freed

    def _room(self, store: Store, account: Account, costs: Costs = _CALL) -> int:
        """Return how many calls of this cost fit now, and give back all."""
        taken: list[Reservation] = []
        while isinstance(answer := self._ask(store, account, costs=costs), Reservation):
            taken.append(answer)
            assert len(taken) <= 2000, "it grants without end"
        for reservation in taken:
            self._settle(store, reservation)
        return len(taken)

    # Reserve

    def test_grants_what_fits_and_no_more(self) -> None:
        """Ten calls of 100 tokens fit into 1001."""
        store = self._store(acme=_TEN_CALLS)
        assert self._room(store, self._account(store, "acme")) == 10

    def test_takes_from_every_bucket_or_from_none(self) -> None:
        """A claim that fits one limit but not another takes nothing from the first."""
        store = self._store(acme=Limits(rpd=11, tpd=150))
        acme = self._account(store, "acme")
        self._take(store, acme, costs=Demand(input_tokens=100).costs)
        for _ in range(50):
            self._short(store, acme, costs=Demand(input_tokens=100).costs)
        assert self._room(store, acme, costs=Demand().costs) == 9

    def test_reserves_on_the_first_account_that_fits(self) -> None:
        """The ranking is the strategy's; the store only skips what doesn't fit."""
        store = self._store(a=Limits(tpd=150), b=_TEN_CALLS, c=_TEN_CALLS)
        a, b, c = (self._account(store, name) for name in "abc")
        owners = [self._take(store, a, b, c).account.owner for _ in range(3)]
        assert owners == ["a", "b", "b"]
        assert (self._room(store, b), self._room(store, c)) == (8, 10)

    def test_short_tells_the_earliest_instant_exactly(self) -> None:
        """Just before it the call doesn't fit, at it it does."""

        @settings(max_examples=self.examples, deadline=None)
        @given(
            rate=st.integers(2000, 20_000),
            costs=st.lists(st.integers(1, 100), min_size=1, max_size=5),
            cost=st.integers(50, 500),
        )
        def check(rate: int, costs: list[int], cost: int) -> None:
            store = self._store(slow=Limits(tpm=30_000), acme=Limits(tpm=rate * 60))
            slow, acme = self._account(store, "slow"), self._account(store, "acme")
            self._drain(store, slow, 30_000)
            self._drain(store, acme, rate * 60)
            for each in costs:  # debts of different sizes
                owed = self._settle_more(store, acme, each)
                assert owed <= self.now() + 10
            answer = self._short(store, slow, acme, costs=_tokens(cost))
            fits_in = answer.ready_at - self.now()
            assert answer.account is not None
            if fits_in > 3 * self.slack:
                self.advance(fits_in - 2 * self.slack)
                still = self._ask(store, answer.account, costs=_tokens(cost))
                if self.now() < answer.ready_at - self.slack:  # real time may have run on
                    assert isinstance(still, NotReady), "granted before its instant"
            self.advance(max(0.0, answer.ready_at - self.now()) + self.slack)
            self._take(store, answer.account, costs=_tokens(cost))

        check()

    def _drain(self, store: Store, account: Account, limit: int) -> None:
        """Take all that there is, in one call: a full bucket admits any within the limit."""
        self._take(store, account, costs=_tokens(limit))

    def _settle_more(self, store: Store, account: Account, tokens: int) -> float:
        """Use more than was reserved; return the instant when a token is there again."""
        answer = self._ask(store, account, costs=_tokens(0))
        assert isinstance(answer, Reservation), "a call that costs nothing here always fits"
        self._settle(store, answer, _used(tokens))
        return self._short(store, account, costs=_tokens(1)).ready_at

    def test_short_names_the_account_that_is_ready_first(self) -> None:
        """So that the caller waits for the right one."""
        store = self._store(slow=Limits(tpm=600), fast=Limits(tpm=60_000))
        slow, fast = self._account(store, "slow"), self._account(store, "fast")
        self._drain(store, slow, 600)
        self._drain(store, fast, 60_000)
        for ranking in ((slow, fast), (fast, slow)):
            answer = self._short(store, *ranking)
            assert answer.account is not None
            assert answer.account.owner == "fast"

    def test_refuses_for_good_what_no_limit_allows(self) -> None:
        """Waiting can't help; the largest bucket is named. If one owner would do, it waits."""
        store = self._store(small=Limits(tpd=500), large=_TEN_CALLS)
        small, large = self._account(store, "small"), self._account(store, "large")
        answer = self._ask(store, small, large, costs=_tokens(2000))
        assert isinstance(answer, NeverFits)
        assert (answer.account.owner, answer.bucket.limit) == ("large", 1001)
        self._take(store, small, large, costs=_tokens(900))
        self._short(store, small, large, costs=_tokens(900))

    def test_keeps_model_families_apart(self) -> None:
        """Limits of requests and tokens count for each family; calls in flight for all."""
        store = self._store(acme=Limits(tpd=1001, concurrent=12))
        one = self._account(store, "acme", family="one")
        two = self._account(store, "acme", family="two")
        held = [self._take(store, one) for _ in range(10)]
        self._short(store, one)
        assert self._room(store, two) == 2
        self._settle(store, held[0], _used(100))
        assert self._room(store, two) == 3

    def test_leaves_a_guarded_call_what_it_waits_for(self) -> None:
        """A call behind it is granted only where that doesn't delay it."""
        if self.books:
            return  # what a call waits for is taken already
        store = self._store(acme=_TEN_CALLS)
        acme = self._account(store, "acme")
        self._take(store, acme, costs=_tokens(500))
        guard = HeadReservation(acme, _tokens(400), self.now() + 1)
        passing = store.reserve(Claim([acme], _tokens(50), (guard,)), self.now())
        assert isinstance(passing, Reservation)
        delaying = store.reserve(Claim([acme], _tokens(100), (guard,)), self.now())
        assert isinstance(delaying, NotReady)

    # Booking, for stores that do

    def _book(
        self, store: Store, account: Account, tokens: int, held: Reservation | None = None
    ) -> Reservation:
        claim = Claim([account], _tokens(tokens), reserve_ahead=600.0, held=held)
        answer = store.reserve(claim, self.now())
        assert isinstance(answer, NotReady), f"not short: {_shown(answer)}"
        assert answer.future is not None
        assert abs(answer.ready_at - answer.future.starts_at) <= self.slack
        return answer.future

    def test_booked_calls_come_in_the_order_in_which_they_asked(self) -> None:
        """A future takes its costs at once: whoever asks later waits for longer."""
        if not self.books:
            return
        store = self._store(acme=Limits(tpm=6000))
        acme = self._account(store, "acme")
        self._drain(store, acme, 6000)
        for number in range(1, 4):
            future = self._book(store, acme, 500)
            # 6000 a minute are 100 a second; full, the bucket held 25 less.
            starts_after = future.starts_at - self.now()
            assert abs(starts_after - (5 * number + 0.25)) <= 2 * self.slack + 0.05 * number
        self._short(store, acme, costs=_tokens(1))

    def test_a_booking_that_is_given_back_delays_nobody(self) -> None:
        """Its costs come back, also after its instant."""
        if not self.books:
            return
        store = self._store(acme=_TEN_CALLS)
        acme = self._account(store, "acme")
        held = self._take(store, acme, costs=_tokens(1000))
        assert store.reserve(Claim([acme], _tokens(10)), self.now())
        self._settle(store, held)
        self._drain(store, acme, 1001)
        assert self._room(store, acme, costs=_tokens(1)) == 0

    def test_a_booking_is_exchanged_for_what_begins_earlier(self) -> None:
        """Not for what begins later: who holds a place keeps it."""
        if not self.books:
            return
        store = self._store(acme=Limits(tpm=6000), birch=_TEN_CALLS)
        acme, birch = self._account(store, "acme"), self._account(store, "birch")
        self._drain(store, acme, 6000)
        first = self._book(store, acme, 500)
        self._book(store, acme, 500)
        assert self._book(store, acme, 500, held=first) is first
        claim = Claim([acme, birch], _tokens(500), reserve_ahead=600.0, held=first)
        answer = store.reserve(claim, self.now())
        assert isinstance(answer, Reservation)
        assert answer.account.owner == "birch"
        again = self._book(store, acme, 500)  # the place that was given up is there again
        assert again.starts_at - self.now() <= 10.3 + self.slack

    def test_a_booking_holds_no_more_than_the_provider_will(self) -> None:
        """A bucket that is full while a future waits gains nothing for what was taken early."""
        if not self.books:
            return
        store = self._store(acme=Limits(tpm=6000, rps=10))
        acme = self._account(store, "acme")
        self._take(store, acme, costs=_tokens(6000))
        future = Claim([acme], Demand(requests=5, input_tokens=100).costs, reserve_ahead=600.0)
        answer = store.reserve(future, self.now())
        assert isinstance(answer, NotReady)
        assert answer.future is not None
        self.advance(max(0.0, answer.ready_at - self.now()) + self.slack)
        # Of 7.5 requests (10, less the margin) 5 are used now: only 2 are left, not 7.
        left = self._room(store, acme, costs=Demand(requests=1).costs)
        assert left <= 2 + 10 * self.slack + (1 if self.slack > 0.001 else 0)

    def test_admits_no_more_from_many_threads(self) -> None:
        """Reserving is atomic."""
        store = self._store(acme=_TEN_CALLS)
        acme = self._account(store, "acme")

        def ask(_: int) -> bool:
            return isinstance(self._ask(store, acme), Reservation)

        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(ask, range(200))) == 10

    # Settle

    def test_gives_back_what_was_not_used(self) -> None:
        """And says that capacity came back."""
        store = self._store(acme=_TEN_CALLS)
        acme = self._account(store, "acme")
        held = self._take(store, acme, costs=_tokens(1000))
        assert self._settle(store, held, _used(300)) is True
        assert self._room(store, acme) == 7

    def test_settle_twice_counts_once(self) -> None:
        """The first settlement stands, whatever the second says."""
        store = self._store(acme=_TEN_CALLS)
        acme = self._account(store, "acme")
        held = self._take(store, acme, costs=_tokens(500))
        self._settle(store, held, _used(300))
        assert self._settle(store, held, _used(0)) is False
        assert self._settle(store, held, _used(900)) is False
        assert self._room(store, acme) == 7

    def test_more_than_reserved_becomes_a_debt(self) -> None:
        """It delays the next call exactly as if it had been reserved."""
        limits = Limits(tpm=6000)
        store = self._store(settled=limits, reserved=limits)
        settled, reserved = self._account(store, "settled"), self._account(store, "reserved")
        self._drain(store, reserved, 6000)
        held = self._take(store, settled, costs=_tokens(10))
        self._settle(store, held, _used(6000))
        told = [self._short(store, a, costs=_tokens(500)).ready_at for a in (settled, reserved)]
        assert abs(told[0] - told[1]) <= 2 * self.slack

    def test_what_was_used_stays_in_any_order(self) -> None:
        """Whatever order reservations end in, and however often, what they used is gone."""

        @settings(max_examples=self.examples, deadline=None)
        @given(
            calls=st.lists(st.tuples(st.integers(0, 10), st.integers(0, 15)), max_size=9),
            random=st.randoms(use_true_random=False),
        )
        def check(calls: list[tuple[int, int]], random: Random) -> None:
            store = self._store(acme=Limits(tpd=2001))
            acme = self._account(store, "acme")
            held = [(self._take(store, acme, costs=_tokens(10 * c)), 10 * u) for c, u in calls]
            endings = held + [(reservation, 0) for reservation, _ in held]
            ended: dict[int, int] = {}
            random.shuffle(endings)
            for reservation, used in endings:
                self._settle(store, reservation, _used(used))
                ended.setdefault(reservation.number, used)
            left = 2000 - sum(ended.values())
            assert self._room(store, acme, costs=_tokens(10)) == left // 10

        check()

    def test_async_methods_do_the_same(self) -> None:
        """`areserve` and `asettle` are the same operations."""
        store = self._store(acme=_TEN_CALLS)
        acme = self._account(store, "acme")

        async def use() -> bool:
            held = await store.areserve(Claim([acme], _tokens(1000)), self.now())
            assert isinstance(held, Reservation)
            short = await store.areserve(Claim([acme], _tokens(1000)), self.now())
            assert isinstance(short, NotReady)
            return await store.asettle(Settlement(held, _used(600)), self.now())

        assert asyncio.run(use()) is True
        self.drain(store)
        assert self._room(store, acme) == 4

    # Slots and lifetimes

    def test_a_slot_is_free_when_its_call_ends(self) -> None:
        """Calls in flight don't come back with time: the instant is infinite."""
        store = self._store(acme=Limits(concurrent=3))
        acme = self._account(store, "acme")
        held = [self._take(store, acme) for _ in range(3)]
        assert self._short(store, acme).ready_at == inf
        assert self._settle(store, held[1], _used(100)) is True
        self._take(store, acme)
        assert self._short(store, acme).ready_at == inf

    def test_a_reservation_expires(self) -> None:
        """A process that died strands no quota: after the lifetime all is back."""
        store = self._store(lifetime=self.lifetime, acme=Limits(tpd=1001, concurrent=1))
        acme = self._account(store, "acme")
        self._take(store, acme, costs=_tokens(1000))
        short = self._short(store, acme)
        assert short.expires_at <= self.now() + self.lifetime + self.slack
        self.advance(self.lifetime + self.slack)
        assert self._room(store, acme, costs=_tokens(1000)) == 1

    def test_a_settlement_after_expiry_counts_once(self) -> None:
        """The call was made after all, so what it used is gone."""
        store = self._store(lifetime=self.lifetime, acme=_TEN_CALLS)
        acme = self._account(store, "acme")
        held = self._take(store, acme, costs=_tokens(500))
        self.advance(self.lifetime + self.slack)
        assert self._room(store, acme) == 10
        self._settle(store, held, _used(300))
        self._settle(store, held, _used(300))
        assert self._room(store, acme) == 7

    # Owners

    def test_projects_share_their_organizations_buckets(self) -> None:
        """And each has its own below."""
        store = self._store(acme=_TEN_CALLS, acme__web=Limits(tpd=401))
        web = self._account(store, "acme", "web")
        lab = self._account(store, "acme", "lab")
        assert (self._room(store, web), self._room(store, lab)) == (4, 10)
        self._take(store, lab, costs=_tokens(800))
        assert (self._room(store, web), self._room(store, lab)) == (2, 2)
        self._take(store, web, costs=_tokens(100))
        assert (self._room(store, web), self._room(store, lab)) == (1, 1)

    def test_merged_organizations_spend_from_one_bucket(self) -> None:
        """What both have used adds up, and calls in flight still settle."""
        store = self._store(a=_TEN_CALLS, b=_TEN_CALLS)
        first, second = self._account(store, "a"), self._account(store, "b")
        held = self._take(store, first, costs=_tokens(300))
        self._settle(store, self._take(store, second, costs=_tokens(200)), _used(200))
        store.merge("b", "a", self.now())
        first, second = self._account(store, "a"), self._account(store, "b")
        assert first.owner == second.owner == "a"
        assert (self._room(store, first), self._room(store, second)) == (5, 5)
        self._take(store, second, costs=_tokens(100))
        assert self._room(store, first) == 4
        self._settle(store, held, _used(0))
        assert self._room(store, second) == 7

    # Learning

    def test_a_limit_that_headers_told_is_kept(self) -> None:
        """An owner without configured limits is learned from the first answer."""
        store = self._store()
        acme = self._account(store, "acme")
        held = self._take(store, acme)
        told = Reading(metric=Metric.TOKENS, period=DAY, limit=1001, level=501)
        store.settle(Settlement(held, None, (told,)), self.now())
        self.drain(store)
        self._settle(store, held, _used(100))
        assert self._room(store, self._account(store, "acme")) == 5

    def test_a_refusal_is_believed(self) -> None:
        """Nothing goes to an owner that refused, before the instant that it told."""
        store = self._store(acme=_TEN_CALLS)
        acme = self._account(store, "acme")
        held = self._take(store, acme)
        refusal = Outcome(kind=Kind.RATE_LIMITED, scope="organization", retry_after=5.0)
        store.settle(Settlement(held, _UNUSED, (), refusal), self.now())
        self.drain(store)
        waits_for = self._short(store, acme).ready_at - self.now()
        assert 5.0 - 0.1 - self.slack <= waits_for <= 10.0


def _shown(answer: object) -> str:
    if isinstance(answer, NotReady):
        return f"Short(ready_at={answer.ready_at})"
    return repr(answer)
