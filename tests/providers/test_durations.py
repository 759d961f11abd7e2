from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotafleet.providers._durations import (
    LONGEST,
    duration,
    instant,
    number,
    retry_after,
    until,
)


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


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0.0),
        ("9ms", 0.009),
        ("17ms", 0.017),
        ("120ms", 0.12),
        ("6ms", 0.006),
        ("8.64s", 8.64),
        ("9m9s", 549.0),
        ("9m9.9s", 549.9),
        ("20m52.666s", 1252.666),
        ("114h18m0s", 411_480.0),
        ("2m59.56s", 179.56),
        ("17.399999999s", 17.399999999),
        ("28m48s", 1728.0),
        ("1d", 86_400.0),
        ("5us", 5e-6),
        ("5µs", 5e-6),
        ("5ns", 5e-9),
        (" 1s ", 1.0),
    ],
)
def test_durations_that_providers_sent(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", " ", "1", "s", "1x", "1s!", "-1s", "+1s", "1 s", "1.s", ".5s", "nan", "NaNs", "inf",
     "1e3s", "1S", "1s,2s", "9999999h", "1٣s", "1s" * 40],
)  # fmt: skip
def test_what_is_no_duration_is_unknown_and_never_zero(text: str) -> None:
    assert duration(text) is None


@given(st.integers(0, int(LONGEST * 1000)))
def test_a_duration_as_go_writes_it_reads_back(milliseconds: int) -> None:
    assert duration(go(milliseconds)) == pytest.approx(milliseconds / 1000, abs=1e-6)


@given(st.text())
def test_any_text_is_unknown_or_a_sane_number(text: str) -> None:
    for found in (duration(text), until(text, "Sun, 06 Nov 1994 08:49:37 GMT")):
        assert found is None or 0 <= found <= LONGEST
    assert number(text) is None or math.isfinite(number(text) or 0)
    assert instant(text) is None or math.isfinite(instant(text) or 0)


@pytest.mark.parametrize("text", ["", "-1", "+1", "1e3", "nan", "inf", "0x1", "1_0", "1,5", "٣"])
def test_numbers_are_plain(text: str) -> None:
    assert number(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "1994-11-06T08:49:37Z",
        "1994-11-06T09:49:37+01:00",
    ],
)
def test_all_forms_of_dates_give_the_same_instant(text: str) -> None:
    assert instant(text) == 784111777.0


@pytest.mark.parametrize(
    "text",
    ["1994-11-06", "1994-11-06T08:49:37", "Sun, 06 Nov 1994 08:49:37 GMT x",
     "Sun, 99 Nov 1994 08:49:37 GMT", "1994-13-06T08:49:37Z", "Sun, 06 Foo 1994 08:49:37 GMT"],
)  # fmt: skip
def test_what_is_no_date_is_no_instant(text: str) -> None:
    assert instant(text) is None


def test_instants_count_against_the_answers_own_date() -> None:
    date = "Sun, 06 Nov 1994 08:49:37 GMT"
    assert until("1994-11-06T08:50:37Z", date) == 60
    assert until("1994-11-06T08:50:37Z", "") is None
    assert until("1994-11-06T08:00:00Z", date) == 0
    modern = "Sat, 21 Nov 2026 18:00:00 GMT"
    epoch = int(instant(modern) or 0)
    assert until(str(epoch + 30), modern) == 30
    assert until(f"{epoch + 30}000", modern) == 30
    assert until("30", modern) == 30


MODERN = "Sat, 21 Nov 2026 18:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "20"}, 20.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "84"}, 0.084),
        ({"retry-after-ms": "0", "retry-after": "1"}, 1.0),
        ({"retry-after-ms": "1500", "retry-after": "1"}, 1.5),
        ({"retry-after-ms": "nan", "retry-after": "1"}, 1.0),
        ({"retry-after-ms": "-5", "retry-after": "1"}, 1.0),
        ({"retry-after": "Sat, 21 Nov 2026 18:00:09 GMT", "date": MODERN}, 9.0),
        ({"retry-after": "Sat, 21 Nov 2026 17:00:00 GMT", "date": MODERN}, 0.0),
        ({"retry-after": "Sat, 21 Nov 2026 18:00:09 GMT"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "NaN"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "99999999999"}, None),
        ({"retry-after": "soon"}, None),
    ],
)
def test_the_larger_of_both_delays_counts(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, 429) == seconds


@pytest.mark.parametrize("status", [200, 201, 299, 304])
def test_retry_after_counts_on_errors_only(status: int) -> None:
    assert retry_after({"retry-after": "30"}, status) is None
