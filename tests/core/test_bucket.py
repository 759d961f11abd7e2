"""One limit's arithmetic: refill, need, debt, headers_at_admission, refusals."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotafleet import Limit
from quotafleet._core.quota.token_bucket import (
    LEAST_MARGIN,
    MARGIN,
    REGROWTH_PER_SECOND,
    WARY_FOR,
    WARY_LEAD,
    WARY_SECONDS,
    TokenBucket,
)
from quotafleet.limits import DAY, MINUTE, Metric

LIMITS = st.floats(1, 1e8)


def bucket(name: str = "rpm", amount: float = 600, burst: float | None = None) -> TokenBucket:
    return TokenBucket.of(Limit(name=name, amount=amount, burst=burst), "acme", 0.0)


def test_new_bucket_is_full_less_the_margin() -> None:
    rpm = bucket(amount=600)
    assert rpm.rate == 10
    assert rpm.level == rpm.capacity == 600 - MARGIN * 10


def test_burst_bounds_the_capacity_and_not_the_rate() -> None:
    rpm = bucket(amount=600, burst=30)
    assert rpm.capacity == 30 - MARGIN * 10
    assert rpm.rate == 10


def test_margin_never_takes_more_than_half_of_a_small_bucket() -> None:
    assert bucket("rps", 10, burst=2).capacity == 1.0


def test_cost_above_the_capacity_but_within_the_limit_goes_when_full() -> None:
    rpm = bucket(amount=1)
    assert rpm.ready_at(1, 0.0) == 0.0
    rpm.take(1)
    assert rpm.level < 0


def test_cost_above_the_limit_is_never_ready() -> None:
    tpm = bucket("tpm", 1000)
    assert tpm.ready_at(1001, 0.0) == inf
    assert tpm.too_large(1001)
    assert not tpm.too_large(1000)


@given(limit=LIMITS, cost=st.floats(0.001, 1), taken=st.floats(0, 2))
def test_the_computed_instant_is_enough_and_not_late(
    limit: float, cost: float, taken: float
) -> None:
    tpm = bucket("tpm", limit)
    tpm.take(taken * limit)
    at = tpm.ready_at(cost * limit, 0.0)
    assert tpm.ready_at(cost * limit, at) == at
    if at > 0.01:
        assert TokenBucket.ready_at(tpm, cost * limit, tpm.at) <= at + 1e-6 * max(1.0, at)


@given(
    limit=st.floats(1, 1e6),
    burst=st.none() | st.floats(0.01, 1),
    steps=st.lists(st.tuples(st.floats(0, 30), st.floats(0.001, 1)), max_size=60),
)
def test_no_window_admits_more_than_capacity_and_refill(
    limit: float, burst: float | None, steps: list[tuple[float, float]]
) -> None:
    tpm = bucket("tpm", limit, None if burst is None else burst * limit)
    now, admitted = 0.0, [(0.0, 0.0)]
    for wait, share in steps:
        now += wait
        cost = share * limit
        if tpm.ready_at(cost, now) <= now:
            tpm.take(cost)
            admitted.append((now, cost))
    ceiling = limit if burst is None else burst * limit
    for first, (start, _) in enumerate(admitted):
        total = 0.0
        for at, cost in admitted[first:]:
            total += cost
            # Up to one call that is larger than the burst may overdraw it.
            allowed = max(ceiling, cost) + (at - start) * limit / MINUTE
            assert total <= allowed * (1 + 1e-6)


def test_refill_never_goes_back_in_time() -> None:
    rpm = bucket()
    rpm.take(100)
    rpm.refill(5.0)
    level = rpm.level
    rpm.refill(1.0)
    assert rpm.level == level
    assert rpm.at == 5.0


def test_concurrency_does_not_refill_and_waits_for_a_release() -> None:
    slots = bucket("concurrent", 2)
    assert slots.capacity == 2
    slots.take(1)
    slots.take(1)
    assert slots.ready_at(1, 1e9) == inf
    slots.give_back(1)
    assert slots.ready_at(1, 1e9) == 1e9


def test_give_back_never_overfills_and_may_go_into_debt() -> None:
    rpm = bucket()
    rpm.give_back(50)
    assert rpm.level == rpm.capacity
    rpm.give_back(-1000)
    assert rpm.level == rpm.capacity - 1000


def test_spares_tells_whether_another_still_fits_then() -> None:
    rpm = bucket(amount=600)
    rpm.take(rpm.level)
    assert not rpm.spares(1, other=10, at=1.0)
    assert rpm.spares(1, other=9, at=1.0)
    slots = bucket("concurrent", 2)
    assert slots.spares(1, other=1, at=inf)
    slots.take(1)
    assert not slots.spares(1, other=1, at=inf)


class TestAnchor:
    LEAD = MARGIN * 10  # of a bucket of 600 a minute
    LEAST = LEAST_MARGIN * 10

    def test_isolated_answer_is_believed_wholly(self) -> None:
        for told in (100.0, 400.0):
            rpm = bucket(amount=600)
            mark = rpm.take(300)
            rpm.anchor(told, mark, flew_for=0.0, upward=True)
            assert rpm.level == pytest.approx(told - self.LEAST)

    def test_the_longer_an_answer_flew_the_more_of_the_margin_is_kept(self) -> None:
        levels = []
        for flew_for in (0.0, 0.1, 1.0):
            rpm = bucket(amount=600)
            mark = rpm.take(300)
            rpm.refill(flew_for)
            rpm.anchor(250.0, mark, flew_for=flew_for, upward=True)
            levels.append(rpm.level - flew_for * 10)
        assert levels == [
            pytest.approx(250 - margin * 10)
            for margin in (LEAST_MARGIN, 0.1 + LEAST_MARGIN, MARGIN)
        ]

    def test_after_a_refusal_the_margin_is_kept_whole_for_a_while(self) -> None:
        for waited, lead in ((0.0, self.LEAD), (WARY_FOR, self.LEAST)):
            rpm = bucket(amount=600)
            rpm.refused(cost=1, ready_after=1.0)
            rpm.refill(waited)
            mark = rpm.take(1)
            rpm.anchor(300.0, mark, flew_for=0.0, upward=True)
            assert rpm.level == pytest.approx(300 - lead)

    def test_calls_made_since_are_not_counted_twice(self) -> None:
        rpm = bucket(amount=600)
        mark = rpm.take(1)
        for _ in range(10):
            rpm.take(1)
        # The provider charged this one last: nothing is wrong.
        rpm.anchor(600.0 - 11, mark, flew_for=0.0, upward=True)
        assert rpm.level == 597.5 - 11

    def test_calls_on_their_way_then_are_not_given_back(self) -> None:
        rpm = bucket(amount=600)
        for _ in range(10):
            rpm.take(1)
        mark = rpm.take(1)
        # The provider charged this one first: nothing is wrong, but the margin was too large.
        rpm.anchor(600.0 - 1, mark, flew_for=0.0, upward=True)
        assert rpm.level == pytest.approx(600 - self.LEAST - 11)

    def test_what_refilled_on_the_way_is_not_given_back(self) -> None:
        rpm = bucket(amount=600)
        mark = rpm.take(300)
        rpm.refill(2.0)
        rpm.anchor(600.0 - 300 + 20, mark, flew_for=2.0, upward=True)
        assert rpm.level == 597.5 - 300 + 20

    def test_others_that_spend_the_same_quota_are_noticed(self) -> None:
        rpm = bucket(amount=600)
        mark = rpm.take(1)
        for _ in range(10):
            rpm.take(1)
        rpm.anchor(600.0 - 11 - 50, mark, flew_for=1.0, upward=True)
        assert rpm.level == pytest.approx(597.5 - 11 - 50)

    def test_what_was_corrected_since_is_not_corrected_again(self) -> None:
        rpm = bucket(amount=600)
        first = rpm.take(1)
        rpm.anchor(400.0, first, flew_for=0.0, upward=True)
        level = rpm.level
        rpm.anchor(400.0, first, flew_for=0.0, upward=True)
        assert rpm.level == level

    def test_a_larger_bucket_of_the_provider_gives_nothing_more(self) -> None:
        rpm = bucket(amount=600)
        mark = rpm.take(300)
        rpm.anchor(5000.0, mark, flew_for=0.0, upward=False)
        assert rpm.level == mark[1]
        rpm.anchor(100.0, mark, flew_for=0.0, upward=False)
        assert rpm.level < mark[1]

    @given(
        order=st.permutations(range(40)),
        answers=st.permutations(range(40)),
        others=st.integers(0, 200),
    )
    def test_no_order_of_arrivals_and_answers_makes_a_true_level_wrong(
        self, order: list[int], answers: list[int], others: int
    ) -> None:
        """The provider admits in another order than ours, and answers in yet another."""
        rpm = bucket(amount=600)
        marks = [rpm.take(1) for _ in range(40)]
        told, level = {}, 600.0 - others
        for call in order:
            level -= 1
            told[call] = level
        for call in answers:
            rpm.anchor(told[call], marks[call], flew_for=0.0, upward=True)
            rpm.pending -= 1
        error = rpm.level - (level - self.LEAST)
        # Never too little by more than the margin; too much by what could be one of ours.
        assert self.LEAST - self.LEAD - 1e-6 <= error <= min(others, 40) + 1e-6
        mark = rpm.take(1)
        rpm.anchor(level - 1, mark, flew_for=0.0, upward=True)
        assert rpm.level == pytest.approx(level - 1 - self.LEAST)


def test_a_slowed_bucket_tells_its_instant_at_the_rate_that_grows_back() -> None:
    slowed, asked = bucket(amount=600), bucket(amount=600)
    for one in (slowed, asked):
        one.slow_down(0.0)
        one.take(one.level)
    asked.ready_at(1, 60.0)
    slowed.refill(60.0)
    assert asked.rate == slowed.rate > 5
    assert asked.level == slowed.level
    assert asked.ready_at(asked.level + 1, 60.0) == pytest.approx(60 + 1 / asked.rate)


class TestLearn:
    def test_configured_limit_is_an_upper_bound(self) -> None:
        rpm = bucket(amount=100)
        rpm.learn(5000, 5000)
        assert (rpm.limit, rpm.ceiling) == (100, 100)

    def test_a_lowered_limit_is_adopted_and_given_back(self) -> None:
        rpm = bucket(amount=600)
        rpm.learn(300, 300)
        assert rpm.rate == 5
        assert rpm.level == rpm.capacity < 300
        rpm.learn(600, 600)
        assert rpm.rate == 10

    def test_a_smaller_burst_is_adopted(self) -> None:
        rpm = TokenBucket(
            scope="acme", name="rpm", metric=Metric.REQUESTS, period=MINUTE, limit=600, now=0.0
        )
        rpm.learn(600, 10)
        assert rpm.capacity == 10 - MARGIN * 10
        assert rpm.rate == 10

    def test_place_stays_below_what_was_told(self) -> None:
        rpm = bucket(amount=600)
        rpm.place(100)
        assert rpm.level == 100 - MARGIN * 10
        rpm.place(10_000)
        assert rpm.level == rpm.capacity

    def test_merge_adds_up_what_both_have_spent(self) -> None:
        one, two = bucket(amount=600), bucket(amount=300)
        one.take(100)
        two.take(50)
        one.merge(two, 0.0)
        assert one.limit == 300
        assert one.level == pytest.approx(one.capacity - 50)
        assert one.pending == 150


class TestRefused:
    def test_nothing_of_that_size_fits_before_the_told_instant(self) -> None:
        tpm = bucket("tpm", 60_000)
        tpm.refused(cost=5000, ready_after=3.0)
        assert tpm.ready_at(5000, 0.0) == pytest.approx(3.0 + MARGIN)

    def test_a_milder_refusal_gives_nothing_back(self) -> None:
        tpm = bucket("tpm", 60_000)
        tpm.refused(cost=5000, ready_after=10.0)
        level = tpm.level
        tpm.refused(cost=5000, ready_after=1.0)
        assert tpm.level == level

    def test_another_s_request_may_come_between_ours(self) -> None:
        """Whoever spends the same quota takes one or two before our next; of few, no more waits."""
        rpm = bucket("rpm", 150)
        rpm.refused(cost=1, ready_after=0.4)
        assert rpm.ready_at(1, 0.0) == pytest.approx(0.4 + WARY_LEAD / 2.5)
        mark = rpm.take(0.0)
        rpm.anchor(1.0, mark, flew_for=0.01, upward=True)
        assert rpm.level <= 1.0 - WARY_LEAD, "and an answer doesn't end that"
        few = bucket("rpm", 3)
        few.refused(cost=1, ready_after=20.0)
        assert few.ready_at(1, 0.0) == pytest.approx(20.0 + WARY_SECONDS)

    def test_calls_in_flight_are_no_rate(self) -> None:
        slots = bucket("concurrent", 2)
        slots.refused(cost=1, ready_after=5)
        assert slots.level == 2


class TestEnforce:
    def test_a_window_bounds_the_burst_and_not_the_rate(self) -> None:
        rpm = bucket(amount=600)
        rpm.enforce(1.0)
        assert rpm.rate == 10
        assert rpm.level == rpm.capacity == 10 - MARGIN * 10
        rpm.learn(1200, 1200)
        assert rpm.capacity == 7.5, "configured at 600, and still enforced by the second"

    def test_a_longer_window_than_known_teaches_nothing(self) -> None:
        rpm = bucket(amount=600)
        rpm.enforce(1.0)
        rpm.enforce(10.0)
        assert rpm.burst == 10
        slots = bucket("concurrent", 3)
        slots.enforce(1.0)
        assert slots.burst is None

    def test_headers_of_the_minute_say_nothing_of_the_second(self) -> None:
        rpm = bucket(amount=600)
        rpm.enforce(1.0)
        mark = rpm.take(7)
        rpm.anchor(580.0, mark, flew_for=0.0, upward=True)
        assert rpm.level == pytest.approx(0.5), "the minute's bucket isn't the one that binds"
        rpm.anchor(3.0, mark, flew_for=0.0, upward=True)
        assert rpm.level == pytest.approx(3.0 - LEAST_MARGIN * 10), "now it is"


class TestPrice:
    def tpm(self, price: float) -> TokenBucket:
        """Return a bucket whose calls of 1,000 were charged `price` times as much, in turn."""
        tpm = bucket("tpm", 60_000)
        level = 60_000.0
        for _ in range(6):
            mark = tpm.take(1000)
            level -= 1000 * price
            tpm.reprice(level, mark, tpm.at)
            tpm.anchor(level, mark, flew_for=0.0, upward=True)
            tpm.pending -= 1000
        assert tpm.level * tpm.price == pytest.approx(level - LEAST_MARGIN * 1000, rel=1e-3)
        return tpm

    @pytest.mark.parametrize("price", [0.5, 1.0, 1.5, 3.0])
    def test_what_is_charged_otherwise_is_known_after_a_few_answers(self, price: float) -> None:
        tpm = self.tpm(price)
        assert tpm.price == pytest.approx(price, rel=0.01)
        assert tpm.rate == pytest.approx(1000 / price, rel=0.01)
        assert tpm.snapshot(tpm.at).available == pytest.approx(tpm.level * tpm.price)

    def test_requests_have_no_price(self) -> None:
        rpm = bucket(amount=600)
        mark = rpm.take(1)
        rpm.reprice(300.0, mark, 0.0)
        assert rpm.price == 1.0

    def test_a_bucket_just_learned_counts_in_our_units(self) -> None:
        tpm = self.tpm(2.0)
        tpm.place(10_000.0)
        assert tpm.level == pytest.approx(5_000 - MARGIN * 500, rel=0.01)


class TestSlowDown:
    def test_halves_the_rate_which_grows_back_by_half_in_15_minutes(self) -> None:
        rpm = bucket(amount=600)
        rpm.slow_down(0.0)
        assert rpm.rate == 5
        rpm.refill(900.0)
        assert rpm.throttle == pytest.approx(0.5 * REGROWTH_PER_SECOND**900) == pytest.approx(0.75)
        rpm.refill(9000.0)
        assert rpm.rate == 10

    def test_never_stops_wholly_and_spares_slots(self) -> None:
        rpm, slots = bucket(amount=640), bucket("concurrent", 3)
        for _ in range(50):
            rpm.slow_down(0.0)
            slots.slow_down(0.0)
        assert rpm.rate == pytest.approx(640 / 60 / 64)
        assert slots.rate == 0.0


def test_snapshot_refills_and_changes_nothing() -> None:
    rpd = bucket("rpd", 8640)
    rpd.take(100)
    level = rpd.snapshot(DAY / 8640 * 10)
    assert level.available == pytest.approx(rpd.capacity - 90)
    assert rpd.level == rpd.capacity - 100
    assert not level.learned
    assert repr(rpd).startswith("<Bucket acme rpd")
