"""What a unit of ours is charged: bounds that never lie, and how soon they close."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotafleet._core.quota.calibration import (
    HIGHEST,
    LOWEST,
    REPLACED_AFTER,
    Calibration,
    LevelReading,
)

LIMIT, RATE = 60_000.0, 1_000.0


class Provider:
    """Charges calls at a price, in its own order; a calibration is told what each answer tells."""

    def __init__(self, price: float, *, flight: float = 0.1, gap: float = 0.02) -> None:
        self.price, self.flight, self.gap = price, flight, gap
        self.calibration = Calibration()
        self.prices: list[float] = []

    def serve(self, sizes: list[float], random: Random) -> None:
        """Send calls in turn, `gap` apart; each arrives at some instant of its flight."""
        events: list[tuple[float, str, int]] = []
        for number in range(len(sizes)):
            granted = number * self.gap
            arrives = granted + random.random() * self.flight
            events += [
                (granted, "a", number),
                (arrives, "b", number),
                (granted + self.flight, "c", number),
            ]
        level, at, taken, answered = LIMIT, 0.0, 0.0, 0.0
        told: dict[int, float] = {}
        marks: dict[int, tuple[float, float]] = {}
        for instant, what, number in sorted(events):
            level, at = min(LIMIT, level + RATE * (instant - at)), instant
            size = sizes[number]
            if what == "a":
                marks[number] = answered + size, instant
                taken += size
            elif what == "b":
                level -= size * self.price
                told[number] = level
            else:
                at_least, granted_at = marks[number]
                reading = LevelReading(told[number], at_least, taken, granted_at, instant)
                self.prices.append(self.calibration.update(reading, limit=LIMIT, rate=RATE))
                answered += size


SIZES = st.lists(st.floats(10, 4000), min_size=2, max_size=60)


@given(SIZES, st.integers(0, 1000), st.floats(0.001, 2.0))
def test_a_crowd_that_is_charged_as_assumed_never_moves_the_price(
    sizes: list[float], seed: int, flight: float
) -> None:
    provider = Provider(1.0, flight=flight)
    provider.serve(sizes, Random(seed))
    assert provider.prices == [1.0] * len(sizes)


@given(SIZES, st.integers(0, 1000), st.floats(0.2, 5.0))
def test_the_price_stays_between_what_was_assumed_and_what_is_true(
    sizes: list[float], seed: int, price: float
) -> None:
    provider = Provider(price)
    provider.serve(sizes, Random(seed))
    low, high = sorted((1.0, price))
    assert all(low - 1e-9 <= one <= high + 1e-9 for one in provider.prices)


@pytest.mark.parametrize("price", [0.5, 1.6, 3.0])
def test_it_is_known_once_a_few_times_as_much_was_answered_as_flies(price: float) -> None:
    provider = Provider(price, flight=0.1, gap=0.02)  # five in flight
    provider.serve([300.0] * 60, Random(1))
    assert provider.prices[40] == pytest.approx(price, rel=0.3)
    assert provider.prices[-1] == pytest.approx(price, rel=0.2)


def test_it_comes_back_when_the_other_use_ends() -> None:
    calibration, level, taken = Calibration(), LIMIT, 0.0
    for second in range(200):
        others = 2.0 if second < 60 else 1.0  # as much again is taken by somebody else
        level = min(LIMIT, level + RATE) - 1000 * others
        taken += 1000
        told = LevelReading(level, taken, taken, float(second), float(second))
        price = calibration.update(told, limit=LIMIT, rate=RATE)
        if second == 50:
            assert price == pytest.approx(2.0, rel=0.1)
    assert price == pytest.approx(1.0, rel=0.1)


def test_no_price_is_absurd() -> None:
    for level, price in ((-1e9, HIGHEST), (LIMIT - 10, LOWEST)):
        calibration = Calibration()
        calibration.update(LevelReading(LIMIT, 0.0, 0.0, 0.0, 0.0), limit=LIMIT, rate=RATE)
        assert (
            calibration.update(LevelReading(level, 1e6, 1e6, 0.0, 0.0), limit=LIMIT, rate=RATE)
            == price
        )


def test_readings_that_contradict_each_other_tell_nothing() -> None:
    calibration = Calibration()
    calibration.update(LevelReading(1_000.0, 0.0, 0.0, 0.0, 0.0), limit=LIMIT, rate=RATE)
    # More is left than can have refilled: the limit was raised, or reset.
    assert (
        calibration.update(LevelReading(LIMIT, 500.0, 500.0, 0.1, 0.1), limit=LIMIT, rate=RATE)
        == 1.0
    )


def test_the_older_reading_is_replaced_in_time() -> None:
    calibration = Calibration()
    first = LevelReading(LIMIT, 0.0, 0.0, 0.0, 0.0)
    calibration.update(first, limit=LIMIT, rate=RATE)
    calibration.update(LevelReading(LIMIT, 1.0, 1.0, 1.0, 1.0), limit=LIMIT, rate=RATE)
    assert calibration.first is first
    later = LevelReading(LIMIT, 2.0, 2.0, REPLACED_AFTER, REPLACED_AFTER)
    calibration.update(later, limit=LIMIT, rate=RATE)
    assert calibration.first is later
