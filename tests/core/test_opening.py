"""How fast an owner is used before it was tested: windows, tests, and what ends them."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotafleet import Limit
from quotafleet._core.health.circuit_breaker import Circuit
from quotafleet._core.health.slow_start import (
    FIRST,
    GROWTH,
    PROBED,
    PROBING_GROWTH,
    PROBING_STEP,
    REFUSED_WITHIN,
    RETESTED_AFTER,
    TEST,
    UNKNOWN,
    WAITED_FOR,
    SlowStart,
    SlowStarts,
)
from quotafleet._core.quota.account import Account
from quotafleet._core.quota.token_bucket import TokenBucket
from quotafleet.limits import Costs
from quotafleet.outcomes import OK, Kind, Outcome

ONE: Costs = (1, 100, 100, 0, 0, 1, 0)
REFUSED = Outcome(kind=Kind.RATE_LIMITED)
BROKEN = Outcome(kind=Kind.SERVER_ERROR)


def account(rpm: float = 600, **more: float) -> Account:
    made = Account("acme", None, "m")
    limits = {"rpm": rpm, **more}
    made.buckets = tuple(
        TokenBucket.of(Limit(name=name, amount=amount), "acme", 0.0)
        for name, amount in limits.items()
    )
    return made


class World:
    """An owner that is granted as much as its slow start allows."""

    def __init__(self, rpm: float | None = 600, of: World | None = None) -> None:
        self.slow_starts = SlowStarts() if of is None else of.slow_starts
        self.provider = Circuit("model m at openai") if of is None else of.provider
        self.family = Circuit("model m of acme")
        self.account = Account("acme", None, "m") if rpm is None else account(rpm)
        self.slow_starts.begin(self.family, self.provider, self.account, 0.0)

    @property
    def slow_start(self) -> SlowStart:
        return self.slow_starts.active[self.family]

    def told(self, granted_at: float, outcome: Outcome, now: float = 0.0) -> bool:
        """Take in the answer to a call that was granted then."""
        return self.slow_starts.tested(self.family, self.account, granted_at, outcome, now)

    def grant(self, now: float) -> bool:
        """Grant a call unless the owner pauses."""
        if self.family.pauses_until > -inf and not (
            now >= self.family.pauses_until
            and self.slow_starts.resume(self.family, self.family.pauses_until, now)
        ):
            return False
        slow_start = self.slow_starts.active.get(self.family)
        if slow_start is not None:
            slow_start.slack -= 1
            if slow_start.slack < 0:
                self.slow_starts.take(self.family, self.account, ONE, now)
        return True

    def burst(self, at: float, most: int = 1000) -> list[float]:
        """Grant as many as go within a blink; return their instants."""
        instants = []
        while len(instants) < most and self.grant(at):
            instants.append(at)
            at += 1e-6
        return instants


def test_a_call_takes_its_share_of_the_scarcest_limit_per_minute() -> None:
    assert account(rpm=600).worth(ONE) == pytest.approx(0.1)
    assert account(rpm=600, tpm=6000).worth(ONE) == pytest.approx(1.0)
    assert account(rpm=60, tpm=60_000).worth(ONE) == pytest.approx(1.0)
    assert account(rpm=600, rpd=10).worth(ONE) == pytest.approx(0.1), "not of a day's"
    assert account(rpd=10, rpm=1).worth(ONE) == 60.0
    assert Account("acme", None, "m").worth(ONE) == 1.0, "where nothing is known"


def test_no_more_than_a_second_and_a_quarter_goes_before_an_answer() -> None:
    assert len(World(600).burst(0.0)) == pytest.approx(10 * TEST, abs=1)
    assert len(World(6000).burst(0.0)) == pytest.approx(100 * TEST, abs=1)


def test_a_few_calls_go_at_once_however_small_the_limit() -> None:
    world = World(rpm=12)
    instants = world.burst(0.0)
    assert 4 <= len(instants) <= 6
    assert world.told(instants[-1], OK)
    assert world.slow_start.window >= 4 * 5.0 * GROWTH, "they were twenty seconds' worth"


def test_one_that_pauses_says_so() -> None:
    world = World(600)
    world.burst(0.0)
    assert "first answers" in world.family.condition


def test_without_an_answer_it_goes_on_at_the_limits_own_rate() -> None:
    world = World(600)
    granted = [n / 100 for n in range(100) if world.grant(n / 100)]
    assert len(granted) <= 10 * TEST + 10


def test_an_answer_to_the_test_opens_the_next_window() -> None:
    world = World(600)
    instants = world.burst(0.0)
    assert not world.told(instants[0], OK), "that one proves nothing"
    assert world.slow_starts.testing == 1
    assert world.told(instants[-1], OK)
    assert world.slow_starts.testing == 0
    more = world.burst(0.1)
    assert len(instants) + len(more) == pytest.approx(12.5 * GROWTH * TEST + 1, abs=4)


def test_six_answers_open_it_wholly() -> None:
    world, at, sent = World(600), 0.0, 0
    for _ in range(6):
        instants = world.burst(at)
        sent += len(instants)
        world.told(instants[-1], OK)
        at += 0.1
    assert world.family not in world.slow_starts.active
    assert len(world.burst(at)) == 1000, "from here on the ledger alone decides"
    assert not world.told(at, OK)
    assert world.slow_starts.take(world.family, world.account, ONE, at) is None


def test_a_refused_test_ends_the_opening() -> None:
    world = World(600)
    instants = world.burst(0.0)
    assert world.told(instants[-1], REFUSED)
    assert world.family not in world.slow_starts.active
    assert world.family.usable


def test_a_test_that_failed_is_repeated() -> None:
    world = World(600)
    instants = world.burst(0.0)
    assert not world.family.usable
    assert world.told(instants[-1], BROKEN)
    assert world.family.usable
    again = world.burst(0.05)
    assert len(again) == 1
    assert world.told(again[0], OK)
    assert world.family in world.slow_starts.active
    assert world.slow_start.window >= GROWTH


def test_a_test_that_was_not_refused_in_time_is_passed() -> None:
    world = World(600)
    world.burst(0.0)
    until = world.family.pauses_until
    assert world.slow_starts.resume(world.family, until, until)
    assert world.family in world.slow_starts.active
    assert world.slow_start.window == 1.0, "too early to tell"
    world.burst(until)
    until = world.family.pauses_until
    assert world.slow_starts.resume(world.family, until, REFUSED_WITHIN + 1.0)
    assert world.slow_start.window >= GROWTH
    assert not world.slow_starts.resume(world.family, until, until), "that pause has ended"


def test_where_a_price_is_learned_all_of_a_window_must_be_answered() -> None:
    world = World(6000)
    world.account.buckets[0].price = 1.2
    world.account.in_flight = 100
    instants = world.burst(0.0)
    world.account.in_flight = 1
    assert not world.told(instants[-1], OK)
    world.account.in_flight = 0
    assert world.told(instants[-1], OK)


def test_while_answers_come_a_pause_goes_on() -> None:
    """Refusals may be among those that a busy client is still to read."""
    world = World(6000)
    assert world.told(world.burst(0.0)[-1], OK)
    assert world.told(world.burst(0.1)[-1], OK, 0.1)
    assert world.slow_start.pauses_on(0.1) is None, "no test is under way"
    world.account.in_flight = 400
    instants = world.burst(0.2)
    refilled_at = world.slow_start.refilled_at
    assert refilled_at > 2.0
    assert world.slow_start.pauses_on(0.2 + REFUSED_WITHIN) is None, "none has come"
    assert not world.told(instants[-1], OK, 1.0)
    assert world.slow_start.pauses_on(1.2) == 1.0 + REFUSED_WITHIN
    assert world.slow_start.pauses_on(2.0) is None
    assert not world.told(instants[-1], OK, refilled_at)
    assert world.slow_start.pauses_on(refilled_at - 0.1) == refilled_at, "as much as may go anyway"


def test_a_test_s_answer_counts_once_most_of_its_window_is_answered() -> None:
    """A client with hundreds of calls to send must not be taken for a provider that lets all in."""
    world = World(6000)
    world.account.in_flight = 100
    instants = world.burst(0.0)
    world.account.in_flight = 99
    assert not world.told(instants[-1], OK)
    world.account.in_flight = 12
    assert world.told(instants[0], OK)
    assert world.slow_start.window > 1.0


def test_the_others_of_a_provider_wait_for_the_first_one_s_test() -> None:
    first = World(600)
    other = World(600, of=first)
    instants = first.burst(0.0)
    before = len(other.burst(0.1))
    assert before <= 10 * FIRST + 1
    assert first.told(instants[-1], OK)
    assert first.slow_starts.resumed == [other.family]
    assert len(other.burst(0.2)) >= 10 * (TEST - FIRST) - 1, "then they make theirs"


def test_the_others_have_a_few_calls_at_once_meanwhile() -> None:
    first = World(rpm=None)
    other = World(rpm=None, of=first)
    first.burst(0.0)
    assert len(other.burst(0.0)) >= 3


def test_who_waits_for_a_test_is_remembered_once_however_often_it_pauses() -> None:
    first = World(600)
    other = World(600, of=first)
    first.burst(0.0)
    first.slow_start.way.others_from = inf
    for second in range(5):
        other.burst(float(second))
    assert list(first.slow_start.way.held) == [other.family]


def test_who_began_a_test_of_its_own_keeps_its_pause_when_another_s_is_passed() -> None:
    first = World(600)
    other = World(600, of=first)
    tested = first.burst(0.0)[-1]
    other.burst(0.0)
    other.slow_start.way.others_from = 0.5  # the first may have no more calls to make one
    other.burst(1.0)
    assert other.slow_start.test_from < inf
    until = other.family.pauses_until
    assert first.told(tested, OK)
    assert other.family.pauses_until == until


def test_the_others_keep_to_a_window_that_was_found_to_be_enforced() -> None:
    first = World(600)
    other = World(600, of=first)
    instants = first.burst(0.0)
    first.account.buckets[0].enforce(1.0)
    assert first.told(instants[-1], REFUSED, now=0.1)
    assert len(other.burst(0.2)) <= 10 * FIRST + 1
    assert other.slow_start.test_from == inf
    assert len(other.burst(RETESTED_AFTER + 1.0)) >= 10 * TEST - 1
    assert other.slow_start.test_until < inf


def test_a_refusal_of_the_limit_itself_tells_nothing_of_windows() -> None:
    first = World(600)
    other = World(600, of=first)
    instants = first.burst(0.0)
    assert first.told(instants[-1], REFUSED, now=0.1)
    assert len(other.burst(WAITED_FOR + 0.1)) >= 10 * TEST - 1


def test_the_others_don_t_wait_for_long() -> None:
    """The first may have no more calls to make its test with."""
    first = World(600)
    other = World(600, of=first)
    first.burst(0.0, most=9)
    assert first.slow_start.test_until == inf
    other.burst(0.1)
    assert other.slow_start.test_from == inf
    other.burst(WAITED_FOR + 0.1)
    assert other.slow_start.test_until < inf


def test_a_pause_outlives_its_opening_without_harm() -> None:
    world = World(600)
    world.burst(0.0)
    del world.slow_starts.active[world.family]
    assert world.slow_starts.resume(world.family, world.family.pauses_until, 1.0)
    assert world.family.usable


def test_where_no_limit_is_known_each_answer_lets_a_few_more_through() -> None:
    world, at, steps = World(rpm=None), 0.0, []
    while world.family in world.slow_starts.active:
        instants = world.burst(at)
        steps.append(len(instants))
        world.told(instants[-1], OK)
        at += 0.05
    assert steps[0] <= UNKNOWN * TEST + 1
    let_through = steps[0]
    for more in steps[1:]:
        assert more <= max(PROBING_STEP * TEST, (PROBING_GROWTH - 1) * 1.1 * let_through) + 2
        let_through += more
    assert let_through >= PROBED, "then it is taken for one without limits"


def test_once_a_limit_is_known_seconds_are_measured_anew() -> None:
    world = World(rpm=None)
    world.burst(0.0, most=20)
    world.account.buckets = account(rpm=600).buckets
    assert world.grant(0.0), "twenty requests were no twenty seconds' worth"
    assert world.slow_start.spent == pytest.approx(0.1, rel=1e-3)


def test_only_the_first_grant_beyond_makes_it_pause() -> None:
    world = World(600)
    world.burst(0.0)
    until = world.family.pauses_until
    assert world.slow_starts.take(world.family, world.account, ONE, 0.0) is None
    assert world.family.pauses_until == until


@given(st.lists(st.floats(0.0, 0.4), max_size=80), st.floats(60, 60_000))
def test_no_second_is_granted_more_than_twice_its_worth(gaps: list[float], rpm: float) -> None:
    """While nothing was answered, and no test outlasted: a window's worth, and what refills."""
    world, now, granted = World(rpm), 0.0, []
    for gap in gaps:
        now += gap
        if now >= REFUSED_WITHIN:
            break
        granted += world.burst(now, most=200)
    assert len(granted) <= rpm / 60 * (TEST + FIRST + now) + 7
