"""Rate-limit headers as readings of buckets.

Theory of operation, measured on recorded traffic (2,904 of 2,906 triples, 2023-10 to 2026-08):
providers in OpenAI's manner keep a bucket of capacity L that refills at L/P a second, and send

    limit = L    remaining = floor(level)    reset = trunc_ms((L - level) * P / L)

So `reset` is the time until the bucket is *full*, not until the next request is admitted, and it
tells P, which no header names: where a model has a daily limit, the "requests" headers show that
one. `bucket` solves these equations; what doesn't satisfy them is believed no further than
"so much remains".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

from ..limits import DAY, MINUTE, MONTH, Metric
from ..outcomes import Reading
from ._durations import number

#: Seconds. The periods that were seen.
PERIODS: Final = (MINUTE, DAY, MONTH)
#: Beyond this no limit is meant.
MOST: Final = 1e12
#: A remainder may pass the limit by rounding, not by more.
_OVER: Final = 1.01
#: A reset in milliseconds was truncated by less than this many seconds.
_TRUNCATED: Final = 1e-3
#: The shortest period may be told by resets up to this many times too long, from a bucket that is
#: larger than its limit; the next longer period is 1,440 times as long.
_STRETCH: Final = 4
#: A burst differs from the limit by more than this share, or it is a rounding error.
_DIFFERS: Final = 0.02
#: Of the limit. The smallest burst to be believed: half of what a per-second quantum would be.
_LEAST_BURST: Final = 1 / 120


class Fields:
    """The headers of one answer, read with suspicion: what is malformed is counted."""

    __slots__ = ("_headers", "ignored")

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers
        self.ignored = 0

    def value(self, name: str, parse: Callable[[str], float | None]) -> float | None:
        """Return a header's value; ``None`` where it is absent or malformed."""
        text = self._headers.get(name)
        if text is None:
            return None
        found = parse(text)
        if found is None:
            self.ignored += 1
        return found

    def count(self, name: str) -> float | None:
        """Return a header that counts something; ``None`` where it is absent or malformed."""
        return self.value(name, amount)

    def label(self, name: str) -> str | None:
        """Return a header that is an identifier."""
        text = self._headers.get(name)
        if text is None or _is_label(text):
            return text
        self.ignored += 1
        return None


@lru_cache(1024)  # limits are always the same, and what is left of them often
def amount(text: str) -> float | None:
    """Return a plausible count; ``None`` for NaN, signs, and more than 1e12."""
    found = number(text)
    return found if found is not None and found <= MOST else None


@lru_cache(256)  # an owner's is always the same
def _is_label(text: str) -> bool:
    return 0 < len(text) <= 128 and text.isascii() and text.isprintable()


def sane(fields: Fields, limit: float | None, remaining: float | None) -> bool:
    """Whether a limit and a remainder are both told and agree; counts what disagrees."""
    if limit is None or remaining is None:
        return False
    if limit > 0 and remaining <= limit * _OVER:
        return True
    fields.ignored += 1
    return False


def bucket(
    metric: Metric,
    limit: float,
    remaining: float,
    reset: float | None,
    *,
    project: bool = False,
    bursts: bool = False,
) -> Reading:
    """Return what a limit, a remainder and the seconds until full tell of a bucket.

    Args:
        metric: what it counts.
        limit: units a period.
        remaining: units left.
        reset: seconds until the bucket is full; ``None`` = not told.
        project: it is a project's.
        bursts: where the numbers fit no period, they may tell of a capacity other than `limit`.
            Only for providers known to refill continuously: a fixed window would look the same.
    """
    remaining = min(remaining, limit)
    level, period, burst = remaining, None, None
    if reset is not None and remaining < limit:
        period = _period(limit, remaining, reset)
        if period is not None:
            level = _level(limit, remaining, reset, period)
        elif bursts:
            period, burst = _stretched(limit, remaining, reset)
    return Reading(
        metric=metric, limit=limit, level=level, period=period, burst=burst, project=project
    )


def _period(limit: float, remaining: float, reset: float) -> float | None:
    """Return the period that the equations fit; ``None`` = none.

    Where several do, the shortest: a longer one would mean that less than one unit is missing.
    """
    used = limit - remaining
    for period in PERIODS:
        # Whether ``remaining == floor(level)`` holds within 1 for a level that `reset` may tell.
        rate = limit / period
        if reset * rate <= used + 1 and (reset + _TRUNCATED) * rate >= used - 2:
            return period
    return None


def _level(limit: float, remaining: float, reset: float, period: float) -> float:
    """Return the level from the reset, or from the remainder where that is finer."""
    if _TRUNCATED * limit / period > 1:
        return remaining
    return min(max(limit - reset * limit / period, remaining), remaining + 1)


def _stretched(limit: float, remaining: float, reset: float) -> tuple[float | None, float | None]:
    """Return the shortest period and a capacity that isn't the limit, if they explain the reset.

    A smaller bucket is full sooner, so that its period looks shorter than any; a larger one later.
    """
    if reset == 0:  # a bucket that says to be full, though much is missing: nothing to measure
        return None, None
    period = PERIODS[0]
    burst = remaining + reset * limit / period
    told = reset * limit / (limit - remaining)
    if told > _STRETCH * period or burst < max(1.0, _LEAST_BURST * limit):
        return None, None
    differs = abs(burst - limit) > max(1.0, _DIFFERS * limit)
    return period, burst if differs else None
