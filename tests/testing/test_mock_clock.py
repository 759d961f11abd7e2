"""A `FakeClock` moves only forward, and only when told to."""

import math

import pytest

from quotafleet.testing import FakeClock


def test_it_stands_still_until_it_is_advanced() -> None:
    clock = FakeClock(start=5.0)
    assert clock.now() == clock.now() == 5.0
    clock.advance(1.5)
    assert clock.now() == 6.5
    clock.advance(0)
    assert clock.now() == 6.5


@pytest.mark.parametrize("seconds", [-1, -1e-9, math.nan])
def test_it_never_goes_back(seconds: float) -> None:
    clock = FakeClock()
    with pytest.raises(ValueError, match="only moves forward"):
        clock.advance(seconds)
    assert clock.now() == 0.0
