"""Who of many owners may fit, without a look at each."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotafleet import Demand, Limits
from quotafleet._core.fleet.ready_index import AT_A_TIME, ReadyIndex, size_of
from quotafleet._core.quota.account import Account
from quotafleet._core.quota.ledger import Ledger
from quotafleet._core.quota.reservations import Claim, Reservation
from quotafleet.limits import Costs

NAMES = tuple(f"o{number}" for number in range(40))


def costs(tokens: int) -> Costs:
    return Demand(input_tokens=tokens).costs


def fleet() -> tuple[Ledger, list[Account]]:
    """Return owners of unlike size, all full."""
    limits = {name: Limits(rpm=60 + 7 * number) for number, name in enumerate(NAMES)}
    book = Ledger(lambda organization, project, family: limits[organization])
    return book, [book.account(name, None, "m", 0.0) for name in NAMES]


def drain(book: Ledger, account: Account, now: float) -> None:
    while isinstance(book.reserve(Claim([account], costs(1)), now), Reservation):
        pass


def test_some_of_those_that_are_ready_are_due() -> None:
    _, accounts = fleet()
    ready_index = ReadyIndex(accounts, costs(1), 0.0)
    due = ready_index.due(0.0)
    assert len(due) == len(set(due)) == AT_A_TIME
    more = {one for _ in range(3) for one in ready_index.due(0.0)}
    assert more == set(accounts), "all have their turn, and those not taken from stay due"


def test_an_owner_that_was_taken_from_gives_way() -> None:
    book, accounts = fleet()
    ready_index = ReadyIndex(accounts, costs(1), 0.0)
    for account in accounts[:-1]:
        drain(book, account, 0.0)
        ready_index.put(account, 0.0)
    assert ready_index.due(0.0) == accounts[-1:]
    drain(book, accounts[-1], 0.0)
    ready_index.put(accounts[-1], 0.0)
    assert ready_index.due(0.0) == []
    at, first = ready_index.first()
    assert first is not None
    assert at == min(one.ready_at(costs(1), 0.0) for one in accounts)
    assert first.ready_at(costs(1), 0.0) == at


def test_one_that_is_not_usable_is_out_until_it_is_added() -> None:
    _, accounts = fleet()
    ready_index = ReadyIndex(accounts[:1], costs(1), 0.0)
    ready_index.drop(accounts[0])
    ready_index.put(accounts[0], 0.0)
    assert ready_index.first() == (inf, None)
    ready_index.add(accounts[0])
    assert ready_index.due(0.0) == accounts[:1]


def test_what_never_fits_is_not_due() -> None:
    book = Ledger(lambda organization, project, family: Limits(tpm=100))
    small = book.account("small", None, "m", 0.0)
    assert ReadyIndex([small], costs(101), 0.0).first() == (inf, None)


def test_it_grows_old() -> None:
    ready_index = ReadyIndex([], costs(1), 10.0)
    assert not ready_index.is_old(10.0)
    assert ready_index.is_old(11.0)
    assert ready_index.is_old(9.0), "its clock was set back"


def test_costs_of_one_power_of_two_are_one_size() -> None:
    assert size_of(costs(300)) == size_of(costs(400)) != size_of(costs(600))


@given(st.lists(st.tuples(st.sampled_from(range(len(NAMES))), st.integers(1, 90)), max_size=60))
def test_the_first_is_the_earliest_of_all(taken: list[tuple[int, int]]) -> None:
    book, accounts = fleet()
    ready_index = ReadyIndex(accounts, costs(1), 0.0)
    now = 0.0
    for which, count in taken:
        now += 0.1
        for _ in range(count):
            book.reserve(Claim([accounts[which]], costs(1)), now)
        ready_index.put(accounts[which], now)
        at, _ = ready_index.first()
        earliest = min(one.ready_at(costs(1), now) for one in accounts)
        assert max(at, now) == pytest.approx(earliest)
