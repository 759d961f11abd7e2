"""The physical bound that the race is measured by."""

from __future__ import annotations

from math import inf

import pytest
from benchmarks.race.bound import LONGEST, Supply, fluid_bound, yielded
from hypothesis import given
from hypothesis import strategies as st


def rpm(limit: float, **more: float) -> Supply:
    return Supply(metric="requests", limit=limit, **more)


def test_full_buckets_serve_at_once() -> None:
    assert fluid_bound([[rpm(300)], [rpm(180)]], {"requests": 480}) == 0.0


def test_what_is_beyond_waits_for_the_refill() -> None:
    owners = [[rpm(300)], [rpm(180)], [rpm(120)]]
    assert fluid_bound(owners, {"requests": 720}) == pytest.approx(12.0)


def test_the_slowest_metric_binds() -> None:
    owner = [rpm(300), Supply(metric="tokens", limit=6000)]
    assert fluid_bound([owner], {"requests": 300, "tokens": 6000}) == 0.0
    assert fluid_bound([owner], {"requests": 300, "tokens": 7000}) == pytest.approx(10.0)


def test_the_scarcest_bucket_of_an_owner_binds() -> None:
    daily = [rpm(600), rpm(150, period=86_400.0)]
    assert yielded([daily], "requests", 0.0) == 150
    assert fluid_bound([daily, [rpm(60)]], {"requests": 220}) == pytest.approx(9.98, abs=0.02)


def test_a_window_holds_less_than_a_minute() -> None:
    assert fluid_bound([[rpm(600, burst=10)]], {"requests": 110}) == pytest.approx(10.0)


def test_what_others_take_is_taken_off() -> None:
    assert fluid_bound([[rpm(60, taken=30)]], {"requests": 40}) == pytest.approx(10.0)


def test_a_window_yields_in_steps() -> None:
    owner = [rpm(120, burst=2, window=1.0)]
    assert yielded([owner], "requests", 0.99) == 2
    assert fluid_bound([owner], {"requests": 7}) == pytest.approx(3.0)


def test_another_application_takes_at_its_rate_until_it_ends() -> None:
    assert fluid_bound([[rpm(120, taken_per_second=1.0)]], {"requests": 150}) == pytest.approx(30)
    ended = rpm(120, taken_per_second=1.0, until=10.0)
    assert fluid_bound([[ended]], {"requests": 150}) == pytest.approx(20.0)


def test_a_metric_without_a_limit_does_not_bind() -> None:
    assert fluid_bound([[rpm(60)]], {"requests": 1, "tokens": 1e9}) == 0.0


def test_never_without_owners_or_in_a_month() -> None:
    assert fluid_bound([], {"requests": 1}) == inf
    assert fluid_bound([[rpm(1)]], {"requests": LONGEST}) == inf


@given(
    limits=st.lists(st.floats(1e3, 1e6), min_size=1, max_size=6),
    demand=st.floats(0, 1e7),
    more=st.floats(1, 2),
)
def test_it_is_the_least_time_that_suffices(
    limits: list[float], demand: float, more: float
) -> None:
    owners = [[rpm(limit)] for limit in limits]
    seconds = fluid_bound(owners, {"requests": demand})
    assert yielded(owners, "requests", seconds) >= demand * (1 - 1e-9)
    if seconds > 0:
        assert yielded(owners, "requests", seconds * 0.999) < demand
    assert fluid_bound(owners, {"requests": demand * more}) >= seconds
