"""Learned numbers are hypotheses: bounded, confirmed, probed."""

from __future__ import annotations

from math import inf

import pytest
from tests.core.test_ledger import ledger, take

from quotafleet import Demand, Limits
from quotafleet._core.quota.account import Account
from quotafleet._core.quota.aimd import AimdLimit
from quotafleet._core.quota.doubts import BELIEVED_FOR, is_believed, lower
from quotafleet._core.quota.ledger import OVERUSE, Ledger
from quotafleet._core.quota.reservations import Claim, Reservation, Settlement
from quotafleet.limits import DAY, MINUTE, Metric
from quotafleet.outcomes import Kind, Outcome, Reading

CALL = Demand(model="m", input_tokens=80, output_tokens=20).costs


def book_of(limits: Limits) -> tuple[Ledger, Account]:
    book = ledger(acme=limits)
    return book, book.account("acme", None, "m", 0.0)


def told(book: Ledger, account: Account, metric: Metric, limit: float, now: float) -> None:
    """Settle a call whose answer's headers state a limit."""
    reading = Reading(metric=metric, limit=limit, level=limit - 1, period=MINUTE)
    book.settle(Settlement(take(book, account, CALL, now), CALL, (reading,)), now)


def refused(book: Ledger, account: Account, limit: float, now: float, after: float) -> None:
    outcome = Outcome(
        kind=Kind.RATE_LIMITED,
        metric=Metric.TOKENS,
        limit=limit,
        period=MINUTE,
        used=limit,
        requested=100,
        retry_after=after,
    )
    reservation = take(book, account, CALL, now)
    book.settle(Settlement(reservation, (1, 0, 0, 0, 0, 0, 0), (), outcome), now)


def ready_at(book: Ledger, account: Account, now: float) -> float:
    answer = book.reserve(Claim([account], CALL), now)
    if isinstance(answer, Reservation):
        book.settle(Settlement(answer, (0,) * 7), now)
        return now
    return getattr(answer, "ready_at", inf)


@pytest.mark.parametrize("limits", [Limits(rpm=500, tpm=100_000), Limits()])
@pytest.mark.parametrize("limit", [0.5, 1.0])
@pytest.mark.parametrize("metric", [Metric.TOKENS, Metric.REQUESTS])
def test_one_answer_with_a_tiny_limit_locks_nobody(
    limits: Limits, limit: float, metric: Metric
) -> None:
    book, acme = book_of(limits)
    told(book, acme, metric, limit, 0.0)
    assert ready_at(book, acme, 1.0) == 1.0


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_one_refusal_with_a_tiny_limit_locks_nobody_for_long(limit: float) -> None:
    book, acme = book_of(Limits(rpm=500, tpm=100_000))
    refused(book, acme, limit, 0.0, after=DAY)
    assert ready_at(book, acme, 1.0) <= 60.0
    assert ready_at(book, acme, 61.0) == 61.0


def test_two_answers_are_believed_and_doubted_again_later() -> None:
    book, acme = book_of(Limits(tpm=100_000))
    told(book, acme, Metric.TOKENS, 50.0, 0.0)
    told(book, acme, Metric.TOKENS, 50.0, 1.0)
    assert [b.limit for b in acme.buckets] == [50]
    assert ready_at(book, acme, 2.0) == inf
    later = 2.0 + BELIEVED_FOR
    assert ready_at(book, acme, later) < later + 1
    assert [b.limit for b in acme.buckets] == [100_000]


def test_two_answers_that_differ_are_not_believed() -> None:
    book, acme = book_of(Limits(tpm=100_000))
    told(book, acme, Metric.TOKENS, 50.0, 0.0)
    told(book, acme, Metric.TOKENS, 500.0, 1.0)
    assert [b.limit for b in acme.buckets] == [100_000]


def test_a_limit_that_is_halved_is_believed_at_once() -> None:
    book, acme = book_of(Limits(tpm=100_000))
    told(book, acme, Metric.TOKENS, 50_000.0, 0.0)
    assert [b.limit for b in acme.buckets] == [50_000]


def test_reported_usage_is_bounded_by_what_was_planned() -> None:
    book, acme = book_of(Limits(tpm=1000))
    absurd = (1, 10**12, 10**12, 0, 0, 0, 0)
    used = tuple(absurd[:1]) + tuple(10**12 for _ in CALL[1:])
    book.settle(Settlement(take(book, acme, CALL, 0.0), used), 0.0)  # type: ignore[arg-type]
    tokens = 100
    assert ready_at(book, acme, 0.0) <= OVERUSE * tokens / (1000 / 60) + 60


def test_a_limit_of_nothing_is_never_believed() -> None:
    _, acme = book_of(Limits(tpm=100_000))
    assert not any(is_believed(acme, "tpm", 0.0, request=n) for n in range(3))


def test_two_refusals_that_state_a_low_limit_are_believed() -> None:
    book, acme = book_of(Limits(tpm=100_000))
    refused(book, acme, 50.0, 0.0, after=1.0)
    assert [b.limit for b in acme.buckets] == [100_000]
    refused(book, acme, 50.0, 2.0, after=1.0)
    assert [b.limit for b in acme.buckets] == [50]


def test_a_limit_that_is_lowered_twice_returns_to_the_first() -> None:
    _, acme = book_of(Limits(tpm=100_000))
    (bucket,) = acme.buckets
    assert not bucket.restore(), "nothing was lowered"
    lower(bucket, 0.0)
    bucket.learn(50.0, 50.0)
    lower(bucket, 1.0)
    assert bucket.restore()
    assert bucket.limit == 100_000


def test_reviving_by_name_forgets_a_rate_that_was_assumed() -> None:
    _, acme = book_of(Limits())
    acme.assumed = assumed = AimdLimit()
    acme.revive(0.0, is_named=True)
    assert acme.assumed is not assumed
