"""The bucket keeps what the headers promise, whatever is done to it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotafleet.testing.mock.bucket import MockBucket, burst_bucket, go_ms, remaining

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


@given(limits, st.integers(1, 1000))
def test_refusals_never_dig_below_empty(limit: int, times: int) -> None:
    bucket = MockBucket(limit, 60, now=0.0)
    bucket.take(limit - 0.5)
    for _ in range(min(times, 5)):
        bucket.charge_refusal()
    assert bucket.level == 0
    bucket.take(3)
    bucket.charge_refusal()
    assert bucket.level == -3


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


def test_a_burst_bucket_holds_one_quantum_and_refills_at_the_same_rate() -> None:
    burst = burst_bucket(60_000, 60, 1.0, now=0.0)
    assert burst.capacity == 1000
    assert burst.rate == 1000
    assert burst_bucket(3, 60, 1.0, now=0.0).capacity == 1


@pytest.mark.parametrize(("limit", "period_s"), [(0, 60), (-1, 60), (1, 0)])
def test_a_bucket_without_size_is_refused(limit: float, period_s: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        MockBucket(limit, period_s, now=0.0)
