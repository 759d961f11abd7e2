"""What processes spend on their own while their store is away: a bound, and the debt afterwards."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quotafleet import Demand, Limit, Limits, Usage
from quotafleet._core.quota.account import Account
from quotafleet._core.quota.ledger import Ledger
from quotafleet._core.quota.reservations import Claim, NeverFits, NotReady, Reservation, Settlement
from quotafleet._core.quota.token_bucket import MARGIN
from quotafleet.outcomes import Kind, Outcome
from quotafleet.stores.redis._degraded import DegradedMode

CALL = Demand(model="m", input_tokens=100)


class Member:
    """One process: its view of an owner, and its part."""

    def __init__(self, size: int, now: float = 0.0, **limits: float) -> None:
        self.view = Ledger(lambda *_: Limits(**limits))
        self.account = self.view.account("acme", None, "m", now)
        self.alone = DegradedMode(size, self.view.accounts, lifetime=900.0)
        self.numbers = count(1)

    def ask(self, now: float, demand: Demand = CALL, reserve_ahead: float = 0.0) -> object:
        claim = Claim([self.account], demand.costs, reserve_ahead=reserve_ahead)
        return self.alone.reserve([self.account], claim, next(self.numbers), now)

    def take(self, now: float, demand: Demand = CALL) -> Reservation:
        answer = self.ask(now, demand)
        assert isinstance(answer, Reservation), answer
        return answer

    def give(self, reservation: Reservation, now: float, **used: int) -> None:
        assert self.alone.settle(Settlement(reservation, Usage(**used).costs), now)

    def owed(self) -> dict[str, float]:
        return {name: amount for debt in self.alone.debts() for name, amount in debt.amounts}


def fill(member: Member, now: float, demand: Demand = CALL) -> int:
    taken = 0
    while isinstance(member.ask(now, demand), Reservation):
        taken += 1
    return taken


def test_parts_together_are_what_the_bucket_held() -> None:
    members = [Member(4, tpm=6000) for _ in range(4)]
    assert sum(fill(member, 0.0) for member in members) in (56, 60), "whole calls of 14.9 each"
    assert sum(fill(member, 10.0) for member in members) in (8, 12), "and the rest of these"


def test_a_debt_of_the_fleet_is_paid_before_anything_is_granted() -> None:
    member = Member(2, tpm=6000)
    member.account.buckets[0].level = -1000.0
    short = member.ask(0.0)
    assert isinstance(short, NotReady)
    assert short.ready_at == pytest.approx((500 + 100) / 50)
    assert member.ask(12.01).__class__ is Reservation


def test_a_call_larger_than_a_part_saves_up_for_it_and_smaller_ones_let_it() -> None:
    member = Member(10, tpm=6000)
    large = Demand(model="m", input_tokens=3000)
    waits = member.ask(0.0, large, reserve_ahead=300.0)
    assert isinstance(waits, NotReady)
    assert waits.ready_at == pytest.approx((3000 - 600) / 10, rel=0.02)
    assert isinstance(member.ask(1.0), NotReady), "it would make the large one wait longer"
    assert isinstance(member.ask(waits.ready_at + 1.0, large, reserve_ahead=300.0), Reservation)
    assert isinstance(member.ask(0.0, Demand(model="m", input_tokens=6001)), NeverFits)


def test_slots_are_parted_in_whole_ones_less_those_held_before() -> None:
    member = Member(2, concurrent=5)
    member.account.in_flight = 1
    before = Reservation(99, member.account, CALL.costs, [_mark(member.account)], 900.0)
    first = member.take(0.0)
    short = member.ask(0.0)
    assert isinstance(short, NotReady)
    assert short.ready_at == float("inf")
    assert not member.alone.settle(Settlement(before, Usage().costs), 1.0), "it isn't one of these"
    second = member.take(1.0)
    assert member.owed() == {"concurrent": 2}
    member.give(first, 2.0)
    member.give(second, 2.0)
    assert member.owed() == {"concurrent": -2}


def _mark(account: Account) -> tuple[object, ...]:
    return account.buckets[0], 0.0, 0.0, 0.0, 0.0


def test_where_there_are_fewer_slots_than_processes_none_is_used() -> None:
    member = Member(8, concurrent=5)
    assert isinstance(member.ask(0.0), NotReady)


def test_what_is_owed_is_told_once_and_what_was_refilled_is_not_owed() -> None:
    member = Member(2, tpm=6000)
    first = member.take(0.0)
    member.take(0.0)
    assert member.owed() == {"tpm": 200}
    assert member.owed() == {}
    member.give(first, 0.0, input_tokens=40)
    assert member.owed() == {"tpm": -60}
    for second in range(60):
        member.take(100.0 + 2 * second)
    fill(member, 220.0)
    assert member.owed()["tpm"] == pytest.approx(3000, abs=100), "its part of the bucket, no more"


def test_a_refused_owner_is_left_alone() -> None:
    member = Member(2, tpm=6000)
    reservation = member.take(0.0)
    refused = Outcome(kind=Kind.RATE_LIMITED, retry_after=7.0)
    member.alone.settle(Settlement(reservation, Usage(requests=1).costs, (), refused), 0.0)
    short = member.ask(1.0)
    assert isinstance(short, NotReady)
    assert short.ready_at == 7.0


def test_a_settlement_after_expiry_counts_what_was_used() -> None:
    member = Member(2, tpm=6000)
    reservation = member.take(0.0)
    assert [taken.costs for _, _, taken in member.alone.open()] == [CALL.costs]
    member.take(901.0)
    assert len(list(member.alone.open())) == 1
    member.owed()
    member.give(reservation, 902.0, input_tokens=30)
    assert member.owed() == {"tpm": 30}


ACTS = st.lists(
    st.tuples(
        st.integers(0, 3),  # who
        st.floats(0.0, 8.0),  # how long after the one before
        st.integers(1, 900),  # tokens asked for
        st.floats(0.0, 1.5),  # the share of them that is used in the end
        st.booleans(),  # whether it is settled
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(size=st.integers(1, 4), level=st.floats(-500.0, 1000.0), acts=ACTS)
def test_no_more_is_spent_than_it_held_and_refilled_and_the_debt_covers_it(
    size: int, level: float, acts: list[tuple[int, float, int, float, bool]]
) -> None:
    """The bound, and after the return no more is to be had than the provider's bucket holds."""
    limits: dict[str, float] = {"tpm": 1000}
    members = [Member(size, **limits) for _ in range(size)]
    for member in members:
        (bucket,) = member.account.buckets
        level = bucket.level = min(level, bucket.capacity)
    rate, capacity = bucket.rate, bucket.capacity
    provider = now = 0.0
    provider = level
    spent = 0.0
    for who, after, tokens, share, settled in acts:
        now += after
        provider = min(capacity, provider + after * rate)
        member = members[who % size]
        answer = member.ask(now, Demand(model="m", input_tokens=tokens))
        if isinstance(answer, Reservation):
            used = round(tokens * min(1.0, share)) if settled else tokens
            spent += tokens
            provider -= used
            if settled:
                member.give(answer, now, input_tokens=used)
                spent += used - tokens
    assert spent <= max(0.0, level + rate * now) + MARGIN * rate + 1e-6
    owed = sum(member.owed().get("tpm", 0.0) for member in members)
    rejoined = min(capacity, level + rate * now) - owed
    assert rejoined <= provider + MARGIN * rate + 1e-6


def test_limits_of_all_kinds_are_parted() -> None:
    limits = {"rpm": Limit(name="rpm", amount=60, burst=8), "rpd": 1000, "spend": 30}
    member = Member(2, **limits)  # type: ignore[arg-type]
    assert fill(member, 0.0) == 3, "a burst of 8 less the margin, halved"
