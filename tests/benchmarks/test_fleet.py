"""A fleet of processes over HTTP and a real store: its limits are kept, whatever befalls it."""

from __future__ import annotations

import pytest
from benchmarks.fleet.conductor import run
from benchmarks.fleet.figures import Figures, beyond, jain
from benchmarks.fleet.order import Order
from hypothesis import given
from hypothesis import strategies as st
from tests.stores.redis_kit import needs_server

#: The provider allows twice as much, so that nothing but the fleet keeps to these.
RPM = {"owner-1": 240, "owner-2": 120}


def fleet(**more: object) -> Figures:
    needs_server()
    order = Order(
        rpm=RPM,
        processes=3,
        tasks=8,
        seconds=10.0,
        lenient=True,
        lifetime=3.0,
        **more,  # type: ignore[arg-type]
    )
    figures = run(order)
    assert not figures.lost
    assert figures.refused == 0
    assert figures.admitted > 0.5 * figures.fluid
    assert min(figures.answered) > 0
    return figures


def is_kept(figures: Figures) -> None:
    """No window goes beyond a limit, by more than what a busy machine is late in sending."""
    for name, rpm in RPM.items():
        assert figures.beyond[name] <= rpm / 60


@pytest.mark.realtime
def test_limits_are_kept_and_the_rest_go_on_where_the_store_hangs_and_one_is_killed() -> None:
    figures = fleet(kill=1, away=3.0, by="stop")
    is_kept(figures)
    assert len(figures.answered) == 2
    assert sum(figures.in_seconds(7, 10)) > 0


@pytest.mark.realtime
def test_processes_go_on_by_themselves_within_the_bound() -> None:
    figures = fleet(away=4.0, by="empty", on_failure="degrade")
    for name, rpm in RPM.items():
        assert figures.beyond[name] <= rpm, "a bucket at most"
    assert sum(figures.in_seconds(4, 7)) > 0


def test_a_full_bucket_and_its_refill_are_not_beyond_it() -> None:
    assert beyond([10, 2, 2, 2], 10, 2) <= 0
    assert beyond([10, 2, 7, 2], 10, 2) == 3
    assert beyond([0, 0, 13, 0], 10, 2) == 1
    assert beyond([], 10, 2) == -10


@given(st.lists(st.integers(0, 30), max_size=12))
def test_the_fullest_window_is_found(counts: list[int]) -> None:
    ends = range(1, len(counts) + 1)
    windows = [sum(counts[i:j]) - 3 * (j - i) for j in ends for i in range(j)]
    assert beyond(counts, 20, 3) == max([0, *windows]) - 20


def test_equal_shares_have_index_one() -> None:
    assert jain([5, 5, 5]) == 1.0
    assert jain([9, 0, 0]) == pytest.approx(1 / 3)
    assert jain([0, 0]) == 0.0
