"""The bucket keeps what the headers promise, whatever is done to it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotafleet.testing.mock.bucket import MockBucket, MockWindow, go_ms, remaining

UNITS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}

limits = st.integers(1, 200_000_000)
periods = st.sampled_from([60.0, 86_400.0, 2_592_000.0])
pauses = st.floats(0, 200, allow_nan=False)
shares = st.floats(0, 1.2)


def parse_ms(text: str) -> int:
    """Read Go's duration back, by another way than it was written."""
    assert re.fullmatch(r"(?:\d+(?:\.\d+)?(?:h|ms|m|s))+", text), text
    total = 0.0
    for number, unit in re.findall(r"(\d+(?:\.\d+)?)(h|ms|m|s)", text):
        total += float(number) * UNITS[unit]
    return round(total)


@given(st.integers(0, 10**10))
def test_go_ms_round_trips_with_a_parser(ms: int) -> None:
    assert parse_ms(go_ms(ms / 1000)) in (ms, ms - 1)  # a float may lie a hair below its ms


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-3, "0s"),
        (0.0171, "17ms"),
        (0.0004, "0s"),
        (9, "9s"),
        (9.9, "9.9s"),
        (60, "1m0s"),
        (549.9, "9m9.9s"),
        (1252.666, "20m52.666s"),
        (411_480, "114h18m0s"),
    ],
)
def test_go_ms_writes_the_shapes_that_were_recorded(seconds: float, text: str) -> None:
    assert go_ms(seconds) == text


@given(limits, periods, st.lists(st.tuples(pauses, shares), max_size=40))
def test_the_level_never_exceeds_the_capacity(
    limit: int, period_s: float, steps: list[tuple[float, float]]
) -> None:
    bucket, now = MockBucket(limit, period_s, now=0.0), 0.0
    for pause, share in steps:
        now += pause
        bucket.refill(now)
        bucket.take(limit * (share - 0.2))  # at times it gives back
        assert bucket.level <= bucket.capacity == limit


@given(limits, periods, st.lists(st.tuples(pauses, shares), max_size=40))
def test_a_window_admits_no_more_than_limit_and_refill(
    limit: int, period_s: float, steps: list[tuple[float, float]]
) -> None:
    bucket, now = MockBucket(limit, period_s, now=0.0), 0.0
    admitted: list[tuple[float, int]] = []
    for pause, share in steps:
        now += pause
        bucket.refill(now)
        need = int(limit * share)
        if bucket.holds(need):
            bucket.take(need)
            admitted.append((now, need))
    for i, (begin, _) in enumerate(admitted):
        for j in range(i, len(admitted)):
            window = admitted[j][0] - begin
            total = sum(units for _, units in admitted[i : j + 1])
            assert total <= limit + limit * window / period_s + 1e-6 * (j - i + 2) + 1e-7 * limit


@given(limits, periods, shares, shares)
def test_after_the_wait_it_fits_and_before_it_does_not(
    limit: int, period_s: float, taken: float, share: float
) -> None:
    bucket, need = MockBucket(limit, period_s, now=0.0), min(limit, int(limit * share))
    bucket.take(limit * taken)
    wait_s = bucket.wait_s(need)
    assert bucket.holds(need) or wait_s > 0
    if wait_s > 0.001:
        bucket.refill(wait_s * 0.999)
        if need - bucket.level > 1e-3:
            assert not bucket.holds(need)
    bucket.refill(wait_s * 1.000001 + 1e-6)
    assert bucket.holds(need)


def test_an_instant_in_the_past_changes_nothing() -> None:
    bucket = MockBucket(60, 60, now=10.0)
    bucket.take(30)
    bucket.refill(5.0)
    assert bucket.level == 30
    bucket.refill(11.0)
    assert bucket.level == 31


def test_remaining_is_the_whole_part_and_never_negative() -> None:
    assert remaining(2.999999999) == 3
    assert remaining(2.9) == 2
    assert remaining(-5.0) == 0


def test_used_is_rounded_up() -> None:
    bucket = MockBucket(200_000, 60, now=0.0)
    bucket.take(10.2)
    assert bucket.used == 11


@given(
    st.integers(1, 20),
    st.sampled_from([1.0, 60.0]),
    st.booleans(),
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 8)), max_size=40),
)
def test_a_window_never_holds_more_than_its_limit(
    limit: int, seconds: float, sliding: bool, steps: list[tuple[float, int]]
) -> None:
    window, now = MockWindow(limit, seconds, now=0.0, sliding=sliding), 0.0
    admitted: list[tuple[float, int]] = []
    for pause, need in steps:
        now += pause
        window.refill(now)
        if window.holds(need):
            window.take(need)
            admitted.append((now, need))
        elif need <= limit:
            assert 0 < window.wait_s(need) <= seconds + 1e-9
    for begin, _ in admitted:
        start = begin if sliding else begin // seconds * seconds
        inside = sum(units for at, units in admitted if start <= at < start + seconds - 1e-5)
        assert inside <= limit


def test_a_sliding_window_frees_each_unit_by_itself_and_a_fixed_one_all_at_once() -> None:
    sliding, fixed = (MockWindow(2, 60, now=0.0, sliding=slides) for slides in (True, False))
    for window in (sliding, fixed):
        for now in (10.0, 50.0):
            window.refill(now)
            window.take(1)
    assert (sliding.wait_s(1), sliding.wait_s(2), sliding.reset_s(0)) == (20.0, 60.0, 60.0)
    assert (fixed.wait_s(1), fixed.wait_s(2), fixed.reset_s(0)) == (10.0, 10.0, 10.0)
    sliding.refill(70.0)
    fixed.refill(60.0)
    assert (sliding.level, fixed.level, fixed.used) == (1, 2, 0)


def test_a_window_gives_back_up_to_its_limit() -> None:
    window = MockWindow(5, 60, now=0.0, sliding=True)
    window.take(3)
    window.take(-10)
    assert window.level == 5
    window.refill(60.0)
    assert window.level == 5


@pytest.mark.parametrize(("limit", "period_s"), [(0, 60), (-1, 60), (1, 0)])
def test_a_bucket_without_size_is_refused(limit: float, period_s: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        MockBucket(limit, period_s, now=0.0)
