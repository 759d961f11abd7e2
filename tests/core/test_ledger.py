"""Reservations: all or nothing, settled once, expired, merged, learned."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quotafleet import Demand, Limit, Limits, Usage
from quotafleet._core.quota.account import Account
from quotafleet._core.quota.ledger import Ledger
from quotafleet._core.quota.reservations import (
    RECENT,
    Claim,
    HeadReservation,
    NeverFits,
    NotReady,
    Reservation,
    ReservationState,
    Settlement,
)
from quotafleet._core.quota.token_bucket import MARGIN, WARY_LEAD
from quotafleet.limits import DAY, MINUTE, Costs, Metric
from quotafleet.outcomes import Kind, Outcome, Reading

ONE = Demand(model="m", input_tokens=80, output_tokens=20).costs


def cost(tokens: int = 0, images: int = 0) -> Costs:
    return Demand(input_tokens=tokens, images=images).costs


def ledger(lifetime: float = 900.0, **owners: Limits) -> Ledger:
    def limits_for(organization: str, project: str | None, family: str) -> Limits:
        name = organization if project is None else f"{organization}_{project}"
        return owners.get(name, Limits())

    return Ledger(limits_for, lifetime=lifetime)


def take(book: Ledger, account: Account, costs: Costs = ONE, now: float = 0.0) -> Reservation:
    answer = book.reserve(Claim([account], costs), now)
    assert isinstance(answer, Reservation)
    return answer


def levels(account: Account) -> dict[str, float]:
    return {f"{b.scope}:{b.name}": b.level for b in account.buckets}


class TestReserve:
    def test_takes_from_every_bucket_or_from_none(self) -> None:
        book = ledger(acme=Limits(rpm=600, tpm=1000))
        acme = book.account("acme", None, "m", 0.0)
        before = levels(acme)
        answer = book.reserve(Claim([acme], cost(1000)), 0.0)
        assert isinstance(answer, Reservation)
        again = book.reserve(Claim([acme], cost(1000)), 0.0)
        assert isinstance(again, NotReady)
        assert levels(acme)["acme:rpm"] == before["acme:rpm"] - 1

    def test_first_fit_of_the_ranking(self) -> None:
        book = ledger(a=Limits(tpm=100), b=Limits(tpm=1000), c=Limits(tpm=1000))
        accounts = [book.account(name, None, "m", 0.0) for name in "abc"]
        assert take(book, accounts[0], cost(100)).account is accounts[0]
        answer = book.reserve(Claim(accounts, cost(50)), 0.0)
        assert isinstance(answer, Reservation)
        assert answer.account is accounts[1]

    def test_ranking_is_pulled_no_further_than_needed(self) -> None:
        book = ledger(a=Limits(rpm=600))
        pulled = []

        def ranking():  # type: ignore[no-untyped-def]
            for name in "abc":
                pulled.append(name)
                yield book.account(name, None, "m", 0.0)

        book.reserve(Claim(ranking(), ONE), 0.0)
        assert pulled == ["a"]

    def test_short_tells_the_earliest_instant_and_whose(self) -> None:
        book = ledger(a=Limits(rpm=60), b=Limits(rpm=600))
        accounts = [book.account(name, None, "m", 0.0) for name in "ab"]
        while isinstance(book.reserve(Claim(accounts, ONE), 0.0), Reservation):
            pass
        answer = book.reserve(Claim(accounts, ONE), 0.0)
        assert isinstance(answer, NotReady)
        assert answer.account is accounts[1]
        assert isinstance(book.reserve(Claim(accounts, ONE), answer.ready_at - 1e-6), NotReady)
        assert isinstance(book.reserve(Claim(accounts, ONE), answer.ready_at), Reservation)

    def test_too_large_for_all_is_told_with_the_largest(self) -> None:
        book = ledger(a=Limits(tpm=100), b=Limits(tpm=500), c=Limits(tpm=200))
        accounts = [book.account(name, None, "m", 0.0) for name in "abc"]
        answer = book.reserve(Claim(accounts, cost(501)), 0.0)
        assert isinstance(answer, NeverFits)
        assert answer.account.owner == "b"
        assert answer.bucket.limit == 500

    def test_too_large_for_one_goes_to_another(self) -> None:
        book = ledger(a=Limits(tpm=100), b=Limits(tpm=500))
        accounts = [book.account(name, None, "m", 0.0) for name in "ab"]
        answer = book.reserve(Claim(accounts, cost(400)), 0.0)
        assert isinstance(answer, Reservation)
        assert answer.account.owner == "b"
        assert isinstance(book.reserve(Claim(accounts, cost(400)), 0.0), NotReady)

    def test_projects_share_the_organizations_buckets(self) -> None:
        book = ledger(acme=Limits(rpm=600), acme_lab=Limits(rpm=60))
        whole = book.account("acme", None, "m", 0.0)
        lab = book.account("acme", "lab", "m", 0.0)
        take(book, lab)
        assert levels(whole)["acme:rpm"] == 600 - MARGIN * 10 - 1
        assert levels(lab) == {"acme:rpm": 597.5 - 1, "acme/lab:rpm": 59.75 - 1}
        assert lab.owner == "acme/lab"
        assert "acme/lab" in repr(lab)

    def test_models_have_buckets_of_their_own_except_what_is_owner_wide(self) -> None:
        book = ledger(acme=Limits(rpm=600, concurrent=1))
        one, two = (book.account("acme", None, family, 0.0) for family in ("x", "y"))
        take(book, one)
        assert levels(two)["acme:rpm"] == 597.5
        answer = book.reserve(Claim([two], ONE), 0.0)
        assert isinstance(answer, NotReady)
        assert answer.ready_at == inf
        assert answer.expires_at == 900.0

    def test_empty_ranking_is_short_for_ever(self) -> None:
        answer = ledger().reserve(Claim([], ONE), 0.0)
        assert isinstance(answer, NotReady)
        assert (answer.account, answer.ready_at, answer.expires_at) == (None, inf, inf)


class TestHeadroom:
    def test_is_the_scarcest_share_after_the_call_and_changes_nothing(self) -> None:
        book = ledger(acme=Limits(rpm=600, tpm=60_000))
        acme = book.account("acme", None, "m", 0.0)
        take(book, acme, cost(59_750))
        assert acme.headroom(cost(0), 0.0) == pytest.approx((597.5 - 2) / 597.5)
        assert acme.headroom(cost(100), 0.0) == pytest.approx(-100 / 59_750)
        assert acme.headroom(cost(100), 30.0) == pytest.approx((30_000 - 100) / 59_750)
        assert acme.buckets[1].level == 0.0

    def test_the_scarcest_counts_whatever_their_order(self) -> None:
        book = ledger(acme=Limits(rpm=60, tpm=60_000))
        acme = book.account("acme", None, "m", 0.0)
        take(book, acme, cost(100))
        assert acme.headroom(cost(100), 0.0) == pytest.approx((59.75 - 2) / 59.75)

    def test_one_of_whom_nothing_is_known_has_all(self) -> None:
        assert ledger().account("acme", None, "m", 0.0).headroom(ONE, 0.0) == 1.0


class TestGuard:
    def test_nothing_passes_that_would_delay_the_guarded_call(self) -> None:
        book = ledger(acme=Limits(rpm=600, tpm=60_000))
        acme = book.account("acme", None, "m", 0.0)
        take(book, acme, cost(50_000))
        short = book.reserve(Claim([acme], cost(20_000)), 0.0)
        assert isinstance(short, NotReady)
        guard = HeadReservation(acme, cost(20_000), short.ready_at)
        blocked = book.reserve(Claim([acme], cost(10), (guard,)), 0.0)
        assert isinstance(blocked, NotReady)
        assert blocked.ready_at == short.ready_at
        assert isinstance(book.reserve(Claim([acme], cost(0), (guard,)), 0.0), Reservation)

    def test_another_owner_is_free_to_use(self) -> None:
        book = ledger(a=Limits(tpm=60_000), b=Limits(tpm=60_000))
        a, b = (book.account(name, None, "m", 0.0) for name in "ab")
        take(book, a, cost(50_000))
        guard = HeadReservation(a, cost(20_000), 10.0)
        answer = book.reserve(Claim([a, b], cost(10), (guard,)), 0.0)
        assert isinstance(answer, Reservation)
        assert answer.account is b


class TestSettle:
    def test_refunds_what_was_not_used(self) -> None:
        book = ledger(acme=Limits(tpm=60_000))
        acme = book.account("acme", None, "m", 0.0)
        full = acme.buckets[0].level
        held = take(book, acme, cost(1000))
        freed = book.settle(Settlement(held, Usage(input_tokens=400).costs), 0.0)
        assert freed
        assert acme.buckets[0].level == full - 400
        assert held.state is ReservationState.SETTLED
        assert book.open == acme.in_flight == 0

    def test_goes_into_debt_for_what_was_used_beyond(self) -> None:
        book = ledger(acme=Limits(tpm=1000))
        acme = book.account("acme", None, "m", 0.0)
        held = take(book, acme, cost(900))
        assert not book.settle(Settlement(held, Usage(input_tokens=5000).costs), 0.0)
        assert acme.buckets[0].level < -3900

    def test_debt_is_not_forgiven_by_a_bucket_that_was_full(self) -> None:
        book = ledger(acme=Limits(tpm=60_000))
        acme = book.account("acme", None, "m", 0.0)
        held = take(book, acme, cost(1000))
        book.settle(Settlement(held, Usage(input_tokens=31_000).costs), 600.0)
        assert acme.buckets[0].level == acme.buckets[0].capacity - 30_000

    def test_settle_twice_counts_once(self) -> None:
        book = ledger(acme=Limits(tpm=60_000))
        acme = book.account("acme", None, "m", 0.0)
        held = take(book, acme, cost(1000))
        usage = Usage(input_tokens=400).costs
        book.settle(Settlement(held, usage), 0.0)
        level = acme.buckets[0].level
        assert not book.settle(Settlement(held, usage), 0.0)
        assert acme.buckets[0].level == level
        assert acme.in_flight == 0

    def test_frees_the_slot_of_a_call_in_flight(self) -> None:
        book = ledger(acme=Limits(concurrent=1))
        acme = book.account("acme", None, "m", 0.0)
        held = take(book, acme)
        assert book.settle(Settlement(held, Usage().costs), 0.0)
        take(book, acme)


class TestExpire:
    def test_gives_all_back_after_the_lifetime(self) -> None:
        book = ledger(lifetime=10, acme=Limits(rpd=100, concurrent=1))
        acme = book.account("acme", None, "m", 0.0)
        held = take(book, acme)
        assert book.next_expiry() == 10
        assert book.expire(9.99) == 0
        assert book.expire(10.0) == 1
        assert held.state is ReservationState.EXPIRED
        assert book.open == acme.in_flight == 0
        assert {b.name: b.level for b in acme.buckets}["concurrent"] == 1
        assert book.next_expiry() == inf

    def test_reserving_expires_first(self) -> None:
        book = ledger(lifetime=10, acme=Limits(concurrent=1))
        acme = book.account("acme", None, "m", 0.0)
        take(book, acme)
        take(book, acme, now=10.0)

    def test_one_whose_headers_came_is_not_counted_as_unanswered_twice(self) -> None:
        book = ledger(lifetime=10, acme=Limits(rpm=600))
        acme = book.account("acme", None, "m", 0.0)
        held = take(book, acme)
        told = reading(Metric.REQUESTS, 600, 599, period=MINUTE)
        book.settle(Settlement(held, None, (told,)), 0.0)
        book.expire(10.0)
        assert acme.buckets[0].pending == 0

    def test_late_settlement_counts_what_was_used_once(self) -> None:
        book = ledger(lifetime=10, acme=Limits(rpd=86_400, concurrent=5))
        acme = book.account("acme", None, "m", 0.0)
        held = take(book, acme)
        book.expire(10.0)
        for _ in range(2):
            book.settle(Settlement(held, Usage().costs), 10.0)
            by_name = {b.name: b.level for b in acme.buckets}
            assert by_name["rpd"] == pytest.approx(86_400 - MARGIN - 1)
            assert by_name["concurrent"] == 5
            assert acme.in_flight == 0


def reading(metric: Metric, limit: float, level: float, **more: float | bool) -> Reading:
    return Reading(metric=metric, limit=limit, level=level, **more)  # type: ignore[arg-type]


class TestLearn:
    def test_an_answer_adds_no_refill_to_what_its_call_took_nothing_of(self) -> None:
        """Such a bucket is marked as it stands then, not as it was last looked at."""
        book = ledger(acme=Limits(tpm=6000, ipm=600))
        acme = book.account("acme", None, "m", 0.0)
        spent = take(book, acme, cost(5000))
        book.settle(Settlement(spent, cost(5000)), 0.0)
        picture = take(book, acme, cost(0, images=1), now=30.0)
        told = Reading(metric=Metric.TOKENS, period=MINUTE, limit=6000, level=4000)
        book.settle(Settlement(picture, None, (told,)), 30.0)
        assert levels(acme)["acme:tpm"] <= 4000

    def test_headers_make_the_bucket_that_was_not_known(self) -> None:
        book = ledger()
        acme = book.account("acme", None, "m", 0.0)
        first, _later = take(book, acme), take(book, acme)
        told = reading(Metric.REQUESTS, 600, 590, period=MINUTE)
        book.settle(Settlement(first, None, (told,)), 0.0)
        (rpm,) = acme.buckets
        assert (rpm.name, rpm.limit) == ("rpm", 600)
        assert rpm.level == pytest.approx(590 - MARGIN * 10 - 1)  # the later call's cost is off

    def test_every_account_of_the_owner_learns(self) -> None:
        book = ledger()
        whole, lab = book.account("acme", None, "m", 0.0), book.account("acme", "lab", "m", 0.0)
        other = book.account("acme", None, "n", 0.0)
        told = (
            reading(Metric.TOKENS, 9000, 8000, period=MINUTE),
            reading(Metric.TOKENS, 500, 400, period=MINUTE, project=True),
        )
        book.settle(Settlement(take(book, lab), None, told), 0.0)
        assert [b.scope for b in lab.buckets] == ["acme", "acme/lab"]
        assert whole.buckets == lab.buckets[:1]
        assert other.buckets == ()

    def test_what_names_no_rule_or_no_project_is_passed_over(self) -> None:
        book = ledger()
        acme = book.account("acme", None, "m", 0.0)
        told = (
            reading(Metric.REQUESTS, 600, 590, period=7.0),
            reading(Metric.REQUESTS, 600, 590, period=MINUTE, project=True),
            reading(Metric.REQUESTS, 600, 590),
        )
        book.settle(Settlement(take(book, acme), None, told), 0.0)
        assert acme.buckets == ()

    def test_a_bucket_learned_meanwhile_is_not_made_twice(self) -> None:
        book = ledger()
        acme = book.account("acme", None, "m", 0.0)
        one, two = take(book, acme), take(book, acme)
        told = reading(Metric.REQUESTS, 600, 590, period=MINUTE)
        book.settle(Settlement(one, None, (told,)), 0.0)
        book.settle(Settlement(two, None, (told,)), 0.0)
        assert len(acme.buckets) == 1

    def test_daily_requests_shown_instead_of_those_per_minute(self) -> None:
        book = ledger(acme=Limits(rpm=500, rpd=10_000))
        acme = book.account("acme", None, "m", 0.0)
        held = take(book, acme)
        told = reading(Metric.REQUESTS, 10_000, 9000, period=DAY)
        book.settle(Settlement(held, None, (told,)), 0.0)
        by_name = {b.name: b for b in acme.buckets}
        assert by_name["rpd"].level == pytest.approx(9000, abs=0.1)
        assert by_name["rpm"].level == by_name["rpm"].capacity - 1

    def test_reading_without_a_period_is_told_by_its_limit(self) -> None:
        book = ledger(acme=Limits(rpm=500, rpd=10_000))
        acme = book.account("acme", None, "m", 0.0)
        held = take(book, acme)
        book.settle(Settlement(held, None, (reading(Metric.REQUESTS, 10_000, 5000),)), 0.0)
        assert acme.buckets[1].level == pytest.approx(5000, abs=0.1)
        assert acme.buckets[0].level == acme.buckets[0].capacity - 1

    def test_a_limit_lower_than_configured_is_no_debt(self) -> None:
        book = ledger(acme=Limits(rpm=10_000))
        acme = book.account("acme", None, "m", 0.0)
        held = [take(book, acme) for _ in range(3)]
        for number, one in enumerate(held):
            told = reading(Metric.REQUESTS, 500, 499 - number, period=MINUTE)
            book.settle(Settlement(one, None, (told,)), 0.0)
        (rpm,) = acme.buckets
        assert rpm.limit == 500
        assert 490 < rpm.level < 500

    def test_only_the_first_headers_of_a_call_count(self) -> None:
        book = ledger(acme=Limits(rpm=600))
        acme = book.account("acme", None, "m", 0.0)
        held = take(book, acme)
        told = reading(Metric.REQUESTS, 600, 500, period=MINUTE)
        book.settle(Settlement(held, None, (told,)), 0.0)
        level = acme.buckets[0].level
        assert not book.settle(Settlement(held, None, (reading(Metric.REQUESTS, 600, 1),)), 0.0)
        assert acme.buckets[0].level == level

    def test_state_of_a_later_moment_only_tells_the_limit(self) -> None:
        book = ledger(acme=Limits(rpm=600))
        acme = book.account("acme", None, "m", 0.0)
        held = take(book, acme)
        told = reading(Metric.REQUESTS, 300, 10, period=MINUTE)
        book.settle(Settlement(held, None, (told,), headers_at_admission=False), 0.0)
        assert acme.buckets[0].limit == 300
        assert acme.buckets[0].level == acme.buckets[0].capacity

    def test_more_than_we_thought_frees_and_less_does_not(self) -> None:
        book = ledger(acme=Limits(rpm=600))
        acme = book.account("acme", None, "m", 0.0)
        take(book, acme)
        for _ in range(300):
            held = take(book, acme)
            book.settle(Settlement(held, Usage().costs), 0.0)
        held = take(book, acme)
        told = reading(Metric.REQUESTS, 600, 599, period=MINUTE)
        assert book.settle(Settlement(held, None, (told,)), 0.0)
        held = take(book, acme)
        told = reading(Metric.REQUESTS, 600, 10, period=MINUTE)
        assert not book.settle(Settlement(held, None, (told,)), 0.0)


class TestRefused:
    def refuse(self, book: Ledger, held: Reservation, now: float = 0.0, **told: object) -> None:
        outcome = Outcome(kind=Kind.RATE_LIMITED, **told)  # type: ignore[arg-type]
        book.settle(Settlement(held, (1, 0, 0, 0, 0, 0, 0), outcome=outcome), now)

    def test_sets_the_bucket_so_that_the_next_goes_at_the_told_instant(self) -> None:
        book = ledger(acme=Limits(tpm=60_000))
        acme = book.account("acme", None, "m", 0.0)
        held = take(book, acme, cost(5000))
        self.refuse(
            book,
            held,
            metric=Metric.TOKENS,
            period=MINUTE,
            limit=60_000,
            used=58_000,
            requested=5000,
            retry_after=3.0,
        )
        answer = book.reserve(Claim([acme], cost(5000)), 0.0)
        assert isinstance(answer, NotReady)
        assert answer.ready_at == pytest.approx(3.0 + MARGIN)

    def test_how_long_is_computed_with_the_limit_that_was_told(self) -> None:
        book = ledger(acme=Limits(rpm=3000))  # half of what the provider allows
        acme = book.account("acme", None, "m", 0.0)
        refused = Outcome(
            kind=Kind.RATE_LIMITED,
            scope="organization",
            metric=Metric.REQUESTS,
            period=MINUTE,
            limit=6000.0,
            used=6000.0,
            requested=1.0,
            retry_after=1.0,
        )
        held = take(book, acme)
        book.settle(Settlement(held, Usage(requests=1).costs, outcome=refused), 0.0)
        assert acme.ready_at(held.costs, 0.0) < 1.0

    def test_learns_an_unknown_limit_from_the_refusal(self) -> None:
        book = ledger()
        acme = book.account("acme", None, "m", 0.0)
        self.refuse(
            book,
            take(book, acme),
            metric=Metric.REQUESTS,
            period=MINUTE,
            limit=60,
            used=60,
            requested=1,
            retry_after=1.0,
        )
        assert [b.name for b in acme.buckets] == ["rpm"]
        assert acme.ready_at(ONE, 0.0) == pytest.approx(1.0 + WARY_LEAD), "one request a second"

    def test_one_that_names_nothing_keeps_the_owner_away(self) -> None:
        book = ledger(acme=Limits(rpm=600))
        acme = book.account("acme", None, "m", 0.0)
        self.refuse(book, take(book, acme), retry_after=4.0)
        assert acme.ready_at(ONE, 0.0) == 4.0
        self.refuse(book, take(book, acme, now=4.0), now=4.0)
        assert acme.ready_at(ONE, 4.0) == 5.0

    def test_one_of_a_project_not_known_keeps_the_owner_away(self) -> None:
        book = ledger(acme=Limits(rpm=600))
        acme = book.account("acme", None, "m", 0.0)
        told = {"metric": Metric.REQUESTS, "period": MINUTE, "limit": 60, "scope": "project"}
        self.refuse(book, take(book, acme), retry_after=4.0, **told)
        assert acme.ready_at(ONE, 0.0) == 4.0

    def test_slow_down_halves_the_rates(self) -> None:
        book = ledger(acme=Limits(rpm=600, tpm=60_000))
        acme = book.account("acme", None, "m", 0.0)
        outcome = Outcome(kind=Kind.SLOW_DOWN, retry_after=5.0)
        book.settle(Settlement(take(book, acme), ONE, outcome=outcome), 0.0)
        assert [b.rate for b in acme.buckets] == [5, 500]
        assert acme.ready_at(ONE, 0.0) == 5.0

    def test_other_failures_move_no_bucket(self) -> None:
        book = ledger(acme=Limits(rpm=600))
        acme = book.account("acme", None, "m", 0.0)
        held = take(book, acme)
        outcome = Outcome(kind=Kind.SERVER_ERROR, charged=True)
        book.settle(Settlement(held, Usage().costs, outcome=outcome), 0.0)
        assert acme.buckets[0].level == 597.5 - 1


class TestExactly:
    """A refusal that told what was used says more than its delay in whole seconds."""

    def refused(self, **told: object) -> tuple[Ledger, Account]:
        book = ledger(a=Limits(rpm=600))
        account = book.account("a", None, "m", 0.0)
        reservation = take(book, account)
        facts = {"metric": Metric.REQUESTS, "period": MINUTE, "limit": 600.0, "requested": 1.0}
        outcome = Outcome(kind=Kind.RATE_LIMITED, **{**facts, **told})  # type: ignore[arg-type]
        book.settle(Settlement(reservation, ONE, (), outcome), 0.0)
        return book, account

    def test_a_rounded_delay_is_replaced_by_arithmetic(self) -> None:
        _, account = self.refused(used=600.0, retry_after=1.0)
        assert account.ready_at(ONE, 0.0) == pytest.approx(0.1 + MARGIN)

    def test_a_delay_that_comes_alone_is_believed(self) -> None:
        _, account = self.refused(used=None, retry_after=3.0)
        assert account.ready_at(ONE, 0.0) == pytest.approx(3 + MARGIN)

    def test_a_delay_beyond_rounding_is_believed(self) -> None:
        _, account = self.refused(used=600.0, retry_after=30.0)
        assert account.ready_at(ONE, 0.0) == pytest.approx(30 + MARGIN)

    def test_a_refusal_although_there_was_room_tells_of_a_window(self) -> None:
        _, account = self.refused(used=20.0, retry_after=1.0)
        (rpm,) = account.buckets
        assert rpm.burst == 10
        assert rpm.capacity == 10 - MARGIN * 10
        assert account.ready_at(ONE, 0.0) == pytest.approx(2 * MARGIN)


class TestNews:
    """Which answers are looked at: those of an owner that is used, and a few of one that isn't."""

    @staticmethod
    def told(level: float) -> tuple[Reading, ...]:
        return (reading(Metric.REQUESTS, 600, level, period=MINUTE),)

    def test_one_that_follows_another_closely_tells_nothing(self) -> None:
        book = ledger(acme=Limits(rpm=600))
        acme = book.account("acme", None, "m", 0.0)
        (rpm,) = acme.buckets
        first, second, third = (take(book, acme) for _ in range(3))
        assert first.headers_matter(1.0)
        book.settle(Settlement(first, None, self.told(599)), 1.0)
        assert not second.headers_matter(1.0 + RECENT / 2)
        book.settle(Settlement(second, None, self.told(20)), 1.0 + RECENT / 2)
        assert rpm.level > 590
        assert third.headers_matter(1.0 + RECENT)
        book.settle(Settlement(third, None, self.told(20)), 1.0 + RECENT)
        assert rpm.level < 30  # and what its way may have refilled

    def test_it_is_answered_all_the_same(self) -> None:
        book = ledger(acme=Limits(rpm=600))
        acme = book.account("acme", None, "m", 0.0)
        for reservation in [take(book, acme) for _ in range(3)]:
            book.settle(Settlement(reservation, ONE, self.told(598)), 0.0)
        assert acme.buckets[0].pending == 0

    def test_all_answers_of_an_owner_that_is_used_tell(self) -> None:
        book = ledger(acme=Limits(rpm=600))
        acme = book.account("acme", None, "m", 0.0)
        held = [take(book, acme) for _ in range(8)]
        book.settle(Settlement(held[0], None, self.told(599)), 0.0)
        # 597.5 fill our bucket, and 1 % of that may be missing.
        assert [one.headers_matter(0.0) for one in held] == [False] * 5 + [True] * 3

    def test_a_level_that_was_corrected_makes_its_owner_a_used_one(self) -> None:
        book = ledger(acme=Limits(rpm=600))
        acme = book.account("acme", None, "m", 0.0)
        book.settle(Settlement(take(book, acme), ONE, self.told(500)), 0.0)
        assert take(book, acme).headers_matter(0.0)

    def test_all_answers_tell_while_another_price_is_charged(self) -> None:
        book = ledger(acme=Limits(tpm=600_000))
        acme = book.account("acme", None, "m", 0.0)
        book.settle(
            Settlement(take(book, acme), ONE, (reading(Metric.TOKENS, 600_000, 600_000),)), 0.0
        )
        held = take(book, acme)
        assert not held.headers_matter(0.0)
        acme.buckets[0].price = 1.5
        assert held.headers_matter(0.0)

    def test_what_took_of_no_known_limit_tells(self) -> None:
        book = ledger()
        acme = book.account("acme", None, "m", 0.0)
        first, second = take(book, acme), take(book, acme)
        book.settle(Settlement(first, ONE, self.told(599)), 0.0)
        assert second.headers_matter(0.0)

    def test_a_refusal_is_always_looked_at(self) -> None:
        book = ledger(acme=Limits(rpm=600))
        acme = book.account("acme", None, "m", 0.0)
        first, second = take(book, acme), take(book, acme)
        book.settle(Settlement(first, ONE, self.told(599)), 0.0)
        refusal = Outcome(kind=Kind.RATE_LIMITED, scope="organization", retry_after=1.0)
        book.settle(Settlement(second, ONE, self.told(20), refusal), 0.0)
        assert acme.buckets[0].level < 20


class TestPriced:
    def test_what_is_settled_back_is_not_taken_for_a_lower_price(self) -> None:
        """Refused calls took tokens here, and none there."""
        book = ledger(a=Limits(tpm=60_000))
        account = book.account("a", None, "m", 0.0)
        (tpm,) = account.buckets
        level = 60_000.0
        for number in range(40):
            reservation = take(book, account, cost(tokens=1000))
            charged = number % 2 == 0
            level -= 1000 * charged
            told = (reading(Metric.TOKENS, 60_000, level, period=MINUTE),) if charged else ()
            used = cost(tokens=1000 * charged)
            book.settle(Settlement(reservation, used, told), 0.0)
        assert 1.0 <= tpm.price <= 1.1


class TestMerge:
    def test_use_of_both_adds_up_in_one_bucket(self) -> None:
        book = ledger(a=Limits(rpm=600), b=Limits(rpm=600, tpm=1000))
        a, b = (book.account(name, None, "m", 0.0) for name in "ab")
        one, _ = take(book, a), take(book, b)
        book.merge("b", "a", 0.0)
        assert book.account("b", None, "m", 0.0) is a
        assert {x.name: (x.scope, x.level) for x in a.buckets} == {
            "rpm": ("a", 597.5 - 2),
            "tpm": ("a", pytest.approx(1000 - MARGIN * 1000 / 60 - 100)),
        }
        assert book.accounts() == (a,)
        book.settle(Settlement(one, Usage().costs), 0.0)
        assert book.resolve("b") == "a"

    def test_merging_with_itself_and_twice_changes_nothing(self) -> None:
        book = ledger(a=Limits(rpm=600), b=Limits(rpm=600), c=Limits(rpm=600))
        a = book.account("a", None, "m", 0.0)
        for name in "bc":
            take(book, book.account(name, None, "m", 0.0))
        book.merge("x", "y", 0.0)
        book.merge("c", "b", 0.0)
        book.merge("b", "a", 0.0)
        book.merge("c", "a", 0.0)
        assert book.resolve("c") == "a"
        assert a.buckets[0].level == 597.5 - 2

    def test_projects_move_along(self) -> None:
        book = ledger(b_lab=Limits(rpm=60))
        book.account("a", None, "m", 0.0)
        book.account("b", "lab", "m", 0.0)
        book.merge("b", "a", 0.0)
        lab = book.account("a", "lab", "m", 0.0)
        assert [b.scope for b in lab.buckets] == ["a/lab"]


def test_repr_names_owner_and_state() -> None:
    book = ledger()
    held = take(book, book.account("acme", None, "m", 0.0))
    assert repr(held) == "<Reservation 1 of acme: open>"


class LedgerMachine(RuleBasedStateMachine):
    """Under any order of reserve, settle, expire and time, nothing is lost and nothing made."""

    @initialize(rpm=st.integers(1, 50), tpm=st.integers(10, 2000), slots=st.integers(1, 5))
    def begin(self, rpm: int, tpm: int, slots: int) -> None:
        self.limits = Limits(rpm=rpm, tpm=Limit(name="tpm", amount=tpm), concurrent=slots)
        self.book = ledger(lifetime=30, acme=self.limits, acme_lab=Limits(rpm=max(1, rpm // 2)))
        self.accounts = [self.book.account("acme", p, "m", 0.0) for p in (None, "lab")]
        self.now = 0.0
        self.held: list[Reservation] = []
        self.used: list[tuple[float, Costs]] = []
        self.slots = slots

    @rule(tokens=st.integers(0, 2500), which=st.sampled_from([0, 1]))
    def reserve(self, tokens: int, which: int) -> None:
        before = [b.level for b in self.accounts[which].buckets]
        answer = self.book.reserve(Claim([self.accounts[which]], cost(tokens)), self.now)
        if isinstance(answer, Reservation):
            self.held.append(answer)
            self.used.append((self.now, answer.costs))
        else:
            after = [b.level for b in self.accounts[which].buckets]
            assert all(y >= x - 1e-9 for x, y in zip(before, after, strict=True))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), share=st.floats(0, 1), twice=st.booleans())
    def settle(self, data: st.DataObject, share: float, twice: bool) -> None:
        held = data.draw(st.sampled_from(self.held))
        used = Usage(input_tokens=int(held.costs[1] * share)).costs
        self.book.settle(Settlement(held, used), self.now)
        if twice:
            levels_before = [mark[0].level for mark in held.marks]
            self.book.settle(Settlement(held, used), self.now)
            assert [mark[0].level for mark in held.marks] == levels_before

    @rule(seconds=st.floats(0, 40))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.book.expire(self.now)

    @invariant()
    def slots_are_conserved(self) -> None:
        if not hasattr(self, "book"):
            return
        open_ = [r for r in self.held if r.state is ReservationState.OPEN]
        slots = next(b for b in self.accounts[0].buckets if b.name == "concurrent")
        assert slots.level == self.slots - len(open_)
        assert self.book.open == len(open_)
        assert sum(a.in_flight for a in self.accounts) == len(open_)

    @invariant()
    def no_bucket_is_overfull_and_none_of_its_answers_is_missing(self) -> None:
        if not hasattr(self, "book"):
            return
        unanswered = sum(not r.answered for r in self.held)
        for account in self.accounts:
            for bucket in account.buckets:
                assert bucket.level <= bucket.capacity + 1e-9
        slots = next(b for b in self.accounts[0].buckets if b.name == "concurrent")
        assert slots.pending == unanswered

    @invariant()
    def requests_in_any_minute_stay_within_the_limit(self) -> None:
        if not hasattr(self, "book"):
            return
        rpm = next(b for b in self.accounts[0].buckets if b.name == "rpm")
        for start, _ in self.used[-20:]:
            count = sum(1 for at, _ in self.used if start <= at <= self.now)
            returned = sum(1 for r in self.held if r.state is ReservationState.EXPIRED)
            allowed = rpm.limit + (self.now - start) * rpm.rate + returned
            assert count <= allowed + 1 + 1e-6


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestConservation = LedgerMachine.TestCase


class TestSentLate:
    def test_a_full_bucket_refills_from_the_send_on(self) -> None:
        book = ledger(acme=Limits(rpm=60))
        acme = book.account("acme", None, "m", 0.0)
        first, second = take(book, acme), take(book, acme)
        (bucket,) = acme.buckets
        book.settle(Settlement(first, None, sent=True), 0.8)
        assert bucket.level == pytest.approx(60 - MARGIN - 2)
        book.settle(Settlement(second, None, sent=True), 1.6)  # it wasn't full any more
        assert bucket.level == pytest.approx(60 - MARGIN - 2 + 0.8)

    def test_no_more_is_taken_back_than_was_taken(self) -> None:
        book = ledger(acme=Limits(rpm=60))
        acme = book.account("acme", None, "m", 0.0)
        book.settle(Settlement(take(book, acme), None, sent=True), 100.0)
        assert acme.buckets[0].level == pytest.approx(60 - MARGIN - 1)

    def test_after_its_end_it_says_nothing(self) -> None:
        book = ledger(acme=Limits(rpm=60))
        acme = book.account("acme", None, "m", 0.0)
        first = take(book, acme)
        book.settle(Settlement(first, ONE), 0.5)
        level = acme.buckets[0].level
        book.settle(Settlement(first, None, sent=True), 0.5)
        assert acme.buckets[0].level == level
