"""What the provider charges for a unit of our estimate.

Theory of operation. The formula by which tokens are charged is not documented truly, and it changed
(OpenAI's chat completions counted `max_tokens` until 2025-03 and ignore it since; recorded traffic,
2023-10 to 2026-08). The headers give it away: between two answers the provider's level fell by what
it charged, less what refilled, and we know what we took meanwhile. The quotient is the *price*, 1
where the formula is known. A steady use by another application shows in the same way, and to count
its part into the price of our calls leaves as much room as it takes.

Requests overtake each other, so neither reading is exact. When an answer's headers were written,
the provider had charged

    at least    what had been answered when its call was granted, and the call itself
    at most     all that has been granted by now

and the time of the reading is known to the length of its flight. So two readings bound the price
from both sides, and `Calibration` moves it no further than to the nearer bound. A crowd of answers
of calls that are charged as we assume never moves it; a formula that is off by half is known once
a few times as much was answered as is in flight.
"""

from __future__ import annotations

from math import inf
from typing import Final, NamedTuple

#: A price beyond is no formula; a co-consumer that takes more than this share leaves nothing.
HIGHEST: Final = 8.0
LOWEST: Final = 1 / 8
#: Seconds after which the older reading is replaced: what it bounds should be of today.
REPLACED_AFTER: Final = 20.0
#: A reading may be off by a unit at each end, and by a millisecond of refill.
ROUNDING: Final = 2.0


class LevelReading(NamedTuple):
    """One answer's reading.

    Args:
        level: the provider's level after it charged the call, in its units.
        at_least: our units that were charged by then for sure.
        at_most: our units that may have been charged by then.
        granted_at: the instant before its way to the provider began.
        read_at: the instant when its answer was there.
    """

    level: float
    at_least: float
    at_most: float
    granted_at: float
    read_at: float


class Calibration:
    """Bounds the price of one bucket's units by its readings."""

    __slots__ = ("first", "price")

    def __init__(self) -> None:
        self.price = 1.0
        self.first: LevelReading | None = None

    def update(self, told: LevelReading, *, limit: float, rate: float) -> float:
        """Take in a reading; return the price.

        Args:
            told: the reading.
            limit: the provider's capacity, in its units.
            rate: the provider's refill, in its units a second.
        """
        first = self.first
        if first is None:
            self.first = told
            return self.price
        least, most = _bounds(first, told, limit, rate)
        self.price = min(max(self.price, least), most)
        self.price = min(max(self.price, LOWEST), HIGHEST)
        if told.granted_at - first.read_at >= REPLACED_AFTER:
            self.first = told
        return self.price


def _bounds(
    first: LevelReading, told: LevelReading, limit: float, rate: float
) -> tuple[float, float]:
    """Return the lowest and the highest price that explain two readings."""
    shortest = max(0.0, told.granted_at - first.read_at)
    longest = told.read_at - first.granted_at
    refilled_least = min(limit, first.level + rate * shortest) - first.level
    charged_least = first.level + refilled_least - told.level - ROUNDING
    charged_most = first.level + rate * longest - told.level + ROUNDING
    taken_least = told.at_least - first.at_most
    taken_most = told.at_most - first.at_least
    lowest = charged_least / taken_most if taken_most > 0 else 0.0
    highest = charged_most / taken_least if taken_least > 0 else inf
    # Where they cross, something else happened meanwhile, and they tell nothing.
    return (lowest, highest) if 0 <= lowest <= highest else (0.0, inf)
