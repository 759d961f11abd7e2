"""A rate that nobody tells: begun by the first refusal, cut by others, grown by use."""

from __future__ import annotations

import pytest

from quotafleet import Limits
from quotafleet._core.quota.account import Account
from quotafleet._core.quota.aimd import CUT, FEWEST, GROWTH
from quotafleet._core.quota.ledger import UNKNOWN_REFUSAL, Ledger
from quotafleet._core.quota.reservations import Claim, Reservation, Settlement
from quotafleet.limits import MINUTE, Costs, Metric
from quotafleet.outcomes import OK, Kind, Outcome, Reading

ONE: Costs = (1, 0, 0, 0, 0, 1, 0)
NONE: Costs = (1, 0, 0, 0, 0, 0, 0)
REFUSED = Outcome(kind=Kind.RATE_LIMITED)


class Book:
    """A ledger that knows no limits, and one owner."""

    def __init__(self) -> None:
        self.ledger = Ledger(lambda organization, project, family: Limits(), assumes=True)
        self.account: Account = self.ledger.account("acme", None, "m", 0.0)

    def take(self, now: float) -> Reservation:
        got = self.ledger.reserve(Claim([self.account], ONE), now)
        assert isinstance(got, Reservation)
        return got

    def end(self, reservation: Reservation, outcome: Outcome, now: float) -> None:
        self.ledger.settle(Settlement(reservation, NONE, outcome=outcome), now)

    def serve(self, count: int, now: float) -> None:
        for _ in range(count):
            self.end(self.take(now), OK, now)

    def refuse(self, now: float) -> None:
        self.end(self.take(now), REFUSED, now)

    @property
    def limit(self) -> float:
        (bucket,) = self.account.buckets
        assert bucket.name == "rpm"
        return bucket.limit


def refused_first(served: int = 110, after: float = 6.0) -> Book:
    book = Book()
    book.serve(served, 0.0)
    book.refuse(after)
    return book


def test_what_was_let_through_until_the_first_refusal_gives_the_rate() -> None:
    """A minute's bucket, full at first, and what refilled: 110 in six seconds are 100 a minute."""
    book = refused_first()
    assert book.limit == pytest.approx(100)
    assert book.account.ready_at(ONE, 6.0) == pytest.approx(7.0), "and it is empty"


def test_calls_in_flight_are_not_counted_as_let_through() -> None:
    book = Book()
    book.serve(50, 0.0)
    for _ in range(20):
        book.take(0.0)
    book.refuse(0.0)
    assert book.limit == pytest.approx(50)
    ready_at = book.account.ready_at(ONE, 0.0)
    assert ready_at == pytest.approx(21 * 60 / 50), "let through or refused, each takes one"


def test_only_the_last_minute_counts() -> None:
    book = Book()
    book.serve(1000, 0.0)
    book.serve(11, 61.0)
    book.refuse(67.0)
    assert book.limit == pytest.approx(10)


def test_what_refuses_after_a_few_calls_told_of_no_rate() -> None:
    book = Book()
    for now in (0.0, 10.0):
        book.serve(int(FEWEST) // 2 - 1, now)
        book.refuse(now)
    assert not book.account.buckets
    assert book.account.ready_at(ONE, 10.0) == 10.0 + UNKNOWN_REFUSAL


def test_refusals_leave_a_rate_that_admits_a_call() -> None:
    book = refused_first(served=12, after=0.0)
    now = 100.0
    for _ in range(20):
        book.refuse(now)
        now += 60.0
    assert book.limit >= FEWEST


def test_a_further_refusal_cuts_it_and_those_granted_before_do_not() -> None:
    book = refused_first()
    late, later = book.take(10.0), book.take(10.0)
    book.end(late, REFUSED, 10.1)
    assert book.limit == pytest.approx(CUT * 100, rel=0.01)
    book.end(later, REFUSED, 10.2)
    assert book.limit == pytest.approx(CUT * 100, rel=0.01)


def test_use_lets_it_grow_and_idling_does_not() -> None:
    book = refused_first()
    now = 20.0
    book.serve(16, now)  # what refilled
    before = book.limit
    for _ in range(60):
        now = book.account.ready_at(ONE, now)
        book.serve(1, now)
    assert book.limit == pytest.approx(before + (now - 20.0) * GROWTH * 100, rel=0.01)
    before = book.limit
    for _ in range(5):
        now += 60.0
        book.serve(1, now)
    assert book.limit == before


def test_headers_end_the_search() -> None:
    book = refused_first()
    told = Reading(metric=Metric.REQUESTS, limit=600.0, level=300.0, period=MINUTE)
    taken = book.take(10.0)
    book.ledger.settle(Settlement(taken, NONE, (told,), OK), 10.1)
    assert book.limit == 600
    book.refuse(20.0)
    assert book.limit == 600


def test_so_do_headers_before_any_refusal() -> None:
    book = Book()
    told = Reading(metric=Metric.REQUESTS, limit=600.0, level=300.0, period=MINUTE)
    book.ledger.settle(Settlement(book.take(0.0), NONE, (told,), OK), 0.1)
    book.refuse(1.0)
    book.refuse(3.0)
    assert book.limit == 600


def test_so_does_a_refusal_that_names_the_limit() -> None:
    book = refused_first()
    named = Outcome(
        kind=Kind.RATE_LIMITED, metric=Metric.REQUESTS, period=MINUTE, limit=300.0, retry_after=1.0
    )
    book.end(book.take(10.0), named, 10.1)
    assert book.limit == 300
    assert book.account.assumed is None


def test_all_projects_of_an_organization_share_it() -> None:
    book = Book()
    other = book.ledger.account("acme", "research", "m", 0.0)
    stranger = book.ledger.account("birch", None, "m", 0.0)
    book.serve(10, 0.0)
    book.refuse(0.0)
    assert other.buckets == book.account.buckets
    assert not stranger.buckets
