from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotafleet.limits import DAY, MINUTE, MONTH, Metric
from quotafleet.outcomes import NOTHING, Observation, Reading
from quotafleet.providers import OpenAI


def go(milliseconds: int) -> str:
    """Format as Go's time.Duration.String() does, from milliseconds."""
    if milliseconds == 0:
        return "0s"
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    head = f"{hours}h" if hours else ""
    return f"{head}{minutes}m{seconds}s" if hours or minutes else f"{seconds}s"


def observe(**values: str) -> Observation:
    return OpenAI().observe(200, {name.replace("_", "-"): text for name, text in values.items()})


def triple(limit: str, remaining: str, reset: str, group: str = "requests") -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{group}": limit,
        f"x-ratelimit-remaining-{group}": remaining,
        f"x-ratelimit-reset-{group}": reset,
    }


def read(limit: str, remaining: str, reset: str, group: str = "requests") -> Reading:
    (reading,) = OpenAI().observe(200, triple(limit, remaining, reset, group)).readings
    return reading


@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "period"),
    [
        ("3500", "3499", "17ms", MINUTE),
        ("500", "499", "120ms", MINUTE),
        ("10000", "9999", "6ms", MINUTE),
        ("10000", "9999", "8.64s", DAY),
        ("200", "197", "20m52.666s", DAY),
        ("30000", "29999", "2ms", MINUTE),
        ("100000", "50000", "360h0m0s", MONTH),
    ],
)
def test_the_period_follows_from_the_reset(
    limit: str, remaining: str, reset: str, period: float
) -> None:
    reading = read(limit, remaining, reset)
    assert reading.metric is Metric.REQUESTS
    assert reading.period == period
    assert reading.burst is None
    assert float(remaining) <= reading.level <= float(remaining) + 1


def test_the_reset_tells_the_level_more_exactly_than_the_remainder() -> None:
    assert read("200", "197", "20m52.666s").level == pytest.approx(200 - 1252.666 / 432)


def test_a_reset_too_coarse_for_the_limit_leaves_the_remainder() -> None:
    reading = read("180000000", "179999992", "0s", "tokens")
    assert (reading.level, reading.period) == (179_999_992, MINUTE)


def test_a_full_bucket_tells_no_period() -> None:
    reading = read("30000", "30000", "0s", "tokens")
    assert (reading.level, reading.period, reading.burst) == (30_000, None, None)


@given(
    st.sampled_from([MINUTE, DAY, MONTH]),
    st.integers(3, 200_000_000),
    st.floats(0, 1),
)
def test_the_state_behind_any_triple_is_recovered(period: float, limit: int, share: float) -> None:
    level = min(limit - 1.0, limit * share)  # one request was charged before the headers were made
    reset = go(int((limit - level) * period / limit * 1000 + 1e-9))
    remaining = math.floor(level + 1e-9)
    reading = read(str(limit), str(remaining), reset)
    assert abs(reading.level - level) <= 1.001
    assert reading.burst is None
    if (limit - level) * period / limit >= 0.002:
        assert reading.period == period


def test_a_reset_that_fits_no_period_is_not_believed() -> None:
    reading = read("100", "50", "30m0s")
    assert (reading.level, reading.period, reading.burst) == (50, None, None)


def test_a_smaller_bucket_shows_in_a_shorter_reset() -> None:
    reading = read("6000", "99", "10ms")
    assert reading.period == MINUTE
    assert reading.burst == pytest.approx(100)
    assert reading.level == 99


def test_a_larger_bucket_shows_in_a_longer_reset() -> None:
    reading = read("600", "300", "1m0s")
    assert reading.period == MINUTE
    assert reading.burst == pytest.approx(900)


def test_a_rounding_error_is_no_burst() -> None:
    reading = read("200000", "100000", "30.5s", "tokens")
    assert (reading.level, reading.period, reading.burst) == (100_000, MINUTE, None)


def test_a_remainder_rounded_up_is_a_full_bucket() -> None:
    assert read("100", "101", "0s").level == 100


def test_a_reset_of_nothing_is_no_smaller_bucket() -> None:
    reading = read("100", "50", "0s")
    assert (reading.level, reading.period, reading.burst) == (50, None, None)


def test_an_impossibly_small_bucket_is_not_believed() -> None:
    reading = read("100", "0", "1ms")
    assert (reading.period, reading.burst) == (None, None)


def test_groups_of_organization_and_project() -> None:
    headers = (
        triple("500", "499", "120ms")
        | triple("30000", "29992", "16ms", "tokens")
        | triple("50000", "49999", "1ms", "input-images")
        | triple("10000", "9992", "48ms", "project-tokens")
        | triple("100", "99", "600ms", "project-requests")
        | {"openai-organization": "org-acme", "openai-project": "proj_1"}
    )
    found = OpenAI().observe(400, headers)
    assert [(one.metric, one.project) for one in found.readings] == [
        (Metric.REQUESTS, False),
        (Metric.TOKENS, False),
        (Metric.REQUESTS, True),
        (Metric.TOKENS, True),
    ]
    assert (found.organization_id, found.project_id, found.ignored) == ("org-acme", "proj_1", 0)


def test_without_a_reset_the_remainder_counts() -> None:
    found = observe(x_ratelimit_limit_requests="50", x_ratelimit_remaining_requests="49")
    assert found.readings == (Reading(metric=Metric.REQUESTS, limit=50, level=49),)


@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "ignored"),
    [
        ("NaN", "1", "1s", 1),
        ("-1", "-1", "0", 3),
        ("", "", "", 3),
        ("2000000000000", "1", "1s", 1),
        ("100", "150", "1s", 1),
        ("0", "0", "0s", 1),
        ("inf", "inf", "inf", 3),
    ],
)
def test_malformed_headers_are_counted_and_not_believed(
    limit: str, remaining: str, reset: str, ignored: int
) -> None:
    found = OpenAI().observe(200, triple(limit, remaining, reset))
    assert (found.readings, found.ignored) == ((), ignored)


def test_a_malformed_reset_leaves_the_remainder_believed() -> None:
    found = OpenAI().observe(200, triple("100", "50", "soon"))
    assert found == Observation(
        readings=(Reading(metric=Metric.REQUESTS, limit=100, level=50),), ignored=1
    )


@pytest.mark.parametrize("label", ["", "x" * 200, "org-\n", "Ω"])
def test_a_malformed_owner_is_not_believed(label: str) -> None:
    assert observe(openai_organization=label) == Observation(ignored=1)


def test_no_header_tells_nothing() -> None:
    assert observe() == NOTHING


NUMBERS = st.one_of(
    st.text(max_size=12),
    st.integers(-5, 10**14).map(str),
    st.floats().map(str),
    st.integers(0, 10**8).map(go),
)


@given(
    st.dictionaries(
        st.builds(
            "x-ratelimit-{}-{}".format,
            st.sampled_from(["limit", "remaining", "reset"]),
            st.sampled_from(["requests", "tokens", "project-tokens"]),
        ),
        NUMBERS,
    )
)
def test_any_headers_give_sane_readings(headers: dict[str, str]) -> None:
    for reading in OpenAI().observe(200, headers).readings:
        assert 0 < reading.limit <= 1e12
        assert 0 <= reading.level <= reading.limit
        assert reading.period in (None, MINUTE, DAY, MONTH)
        assert reading.burst is None or (math.isfinite(reading.burst) and reading.burst >= 1)
